"""Errors of names and references."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.errors.base import AdregError, several


@dataclass(eq=False)
class NameRefused(AdregError):
    """A name, alias, tag or reference that the grammar forbids."""

    what: str
    text: str
    reason: str
    advice: str = "Use letters, digits, '.', '_' and '-', starting with a letter or digit."

    @property
    def sentence(self) -> str:
        """Say which name and which rule."""
        return f"{self.what} {self.text!r} is not allowed: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what is allowed."""
        return self.advice


@dataclass(eq=False)
class NotFound(AdregError):
    """Something the catalog does not know; ``close`` holds the nearest known names."""

    what: str
    text: str
    close: tuple[str, ...] = ()
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Say what was looked for."""
        return f"there is no {self.what} {self.text!r}"

    @property
    def hint(self) -> str:
        """Offer the nearest names."""
        if self.close:
            return "Did you mean " + " or ".join(repr(name) for name in self.close) + "?"
        return self.advice


@dataclass(eq=False)
class AlreadyExists(AdregError):
    """A name that is taken by something else."""

    what: str
    text: str
    advice: str = "Choose another name."

    @property
    def sentence(self) -> str:
        """Say what is taken."""
        return f"the {self.what} {self.text!r} exists already"

    @property
    def hint(self) -> str:
        """Say how to go on."""
        return self.advice


@dataclass(eq=False)
class InUse(AdregError):
    """Something cannot go because models were built from it."""

    text: str
    users: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Name the models that hold it."""
        return f"{self.text} is in use by {several(self.users)}"

    @property
    def hint(self) -> str:
        """Say how to force it."""
        return "Remove those first, or pass --force: then they can no longer be rebuilt from here."


@dataclass(eq=False)
class SearchRefused(AdregError):
    """A search that cannot be read; ``position`` is the place of the mistake, from 0."""

    text: str
    position: int
    reason: str

    @property
    def sentence(self) -> str:
        """Say what is wrong, and show where."""
        before, after = self.text[: self.position], self.text[self.position :]
        return (
            f"the search is wrong at character {self.position + 1}: {self.reason}: {before}▸{after}"
        )

    @property
    def hint(self) -> str:
        """Show what a search looks like."""
        return "Such as: rank>=16 and base:llama and (type:dora or target:q_proj) and not tag:old"
