"""Errors of what was to be made of them: wrong, not writable, or not what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adreg.registry.errors.base import AdregError, several


@dataclass(eq=False)
class Incompatible(AdregError):
    """An adapter that does not fit a base; the first offending tensors are named."""

    adapter: str
    base: str
    reasons: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Name the first offending tensors."""
        return f"{self.adapter} does not fit {self.base}: {several(self.reasons)}"

    @property
    def hint(self) -> str:
        """Point at the base that the adapter was made for."""
        return "Pass the base that it was trained on with --base; `adreg show` names it."


@dataclass(eq=False)
class MergeRefused(AdregError):
    """A merge that would be wrong or do nothing."""

    reasons: tuple[str, ...]
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Name the first reasons."""
        return f"not merged: {several(self.reasons)}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class AdapterNotMade(AdregError):
    """An adapter that cannot be made of what was given, refused before a byte is written."""

    reasons: tuple[str, ...]
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Name the first reasons."""
        return f"no adapter was made: {several(self.reasons)}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class OutputRefused(AdregError):
    """A place that must not be written to."""

    path: Path
    reason: str
    advice: str = "Name a folder that does not exist yet."

    @property
    def sentence(self) -> str:
        """Say which place and why."""
        return f"cannot write to {self.path}: {self.reason}"

    @property
    def hint(self) -> str:
        """Say where to write instead."""
        return self.advice


@dataclass(eq=False)
class WriteFailed(AdregError):
    """The operating system refused a write; nothing was published."""

    path: Path
    reason: str

    kept = ""
    """What is kept to go on with, set by who keeps it; no fact of its own."""

    @property
    def sentence(self) -> str:
        """Say where and what the system said."""
        return f"writing {self.path} failed: {self.reason}"

    @property
    def hint(self) -> str:
        """Say that nothing is half done."""
        if self.kept:
            return f"Mend the cause; {self.kept}."
        return (
            "Nothing was recorded and nothing half-written is left; mend the cause and try again."
        )


@dataclass(eq=False)
class DiskFull(WriteFailed):
    """There is not enough room; sizes in bytes, -1 where unknown."""

    needed: int = -1
    free: int = -1

    @property
    def hint(self) -> str:
        """Say how much room is needed."""
        if self.kept:
            return f"Make room on that disk; {self.kept}."
        if self.needed < 0:
            return "Make room on that disk and try again; nothing half-written is left."
        return (
            f"{self.needed:,} bytes are needed and {self.free:,} are free:"
            " make room there, or write to another disk."
        )


@dataclass(eq=False)
class LicenceUnknown(AdregError):
    """A release needs the licences of its parts, and some are not known."""

    parts: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Name the parts without a licence."""
        return f"no licence is known for {several(self.parts)}"

    @property
    def hint(self) -> str:
        """Say how to give one or go on without."""
        return "Give it with --license, or pass --allow-unknown-license to release all the same."


@dataclass(eq=False)
class Damaged(AdregError):
    """Stored bytes that are not what was recorded; one line a fault."""

    faults: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Name the first faults."""
        return f"damage found: {several(self.faults)}"

    @property
    def hint(self) -> str:
        """Say how to get the bytes again."""
        return "Add the adapter again from its source, or rebuild the model from its lock file."


@dataclass(eq=False)
class NotReproduced(AdregError):
    """A rebuild whose bytes differ from what the lock file promises."""

    files: tuple[str, ...]
    cause: str

    @property
    def sentence(self) -> str:
        """Name the files that differ."""
        return f"the rebuild differs from the lock file in {several(self.files)}"

    @property
    def hint(self) -> str:
        """Name the likely cause."""
        return self.cause


@dataclass(eq=False)
class NotProven(AdregError):
    """A merged model that does not answer as its base with the adapters does.

    ``verdict`` is "differs", "lost" or "nothing".
    """

    model: str
    verdict: str
    reason: str
    advice: str

    @property
    def sentence(self) -> str:
        """Say which model and what is wrong with it."""
        return f"{self.model}: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice
