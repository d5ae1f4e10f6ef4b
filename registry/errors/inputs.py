"""Errors of files and folders that cannot be taken in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adreg.registry.errors.base import AdregError, several


@dataclass(eq=False)
class InputRefused(AdregError):
    """A file or folder that cannot be taken in."""

    path: Path
    reason: str
    advice: str = "See that it is there and can be read, and try again."

    @property
    def sentence(self) -> str:
        """Say which path and why."""
        return f"{self.path}: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class NotAnAdapter(InputRefused):
    """No PEFT adapter in this folder."""

    advice: str = "Name the folder that PEFT's save_pretrained wrote."


@dataclass(eq=False)
class PickleRefused(InputRefused):
    """A pickle of weights that may not be read, or that asks for more than tensors."""


@dataclass(eq=False)
class TensorFileBroken(InputRefused):
    """A file of tensors that lies about itself, is cut short, or is something else."""

    advice: str = "Fetch or save the file again."


@dataclass(eq=False)
class JsonBroken(InputRefused):
    """A JSON file that cannot be read as what it should be."""

    advice: str = "Fetch or save the file again."


@dataclass(eq=False)
class AdapterRefused(AdregError):
    """An adapter whose configuration and tensors disagree; all the reasons at once."""

    path: Path
    reasons: tuple[str, ...]
    advice: str = "Save the adapter again with save_pretrained, and add that folder."

    @property
    def sentence(self) -> str:
        """Name the first reasons."""
        return f"{self.path}: {several(self.reasons)}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class BaseRefused(InputRefused):
    """A folder that is no usable base checkpoint."""

    advice: str = "Name the folder of a whole transformers model, or fetch it again."


@dataclass(eq=False)
class RecipeRefused(InputRefused):
    """A recipe file with a mistake in it; ``line`` counts from 1, None where it cannot be told."""

    advice: str = "`adreg merge --help` shows a recipe, docs/recipes.md all that it can say."
    line: int | None = None

    @property
    def sentence(self) -> str:
        """Say which file, which line and why."""
        place = str(self.path) if self.line is None else f"{self.path}, line {self.line}"
        return f"{place}: {self.reason}"


@dataclass(eq=False)
class LockBroken(InputRefused):
    """A lock file that cannot be rebuilt from."""
