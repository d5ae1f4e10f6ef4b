"""Errors of what is put on the Hub."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.errors.base import AdregError, several


@dataclass(eq=False)
class CardRefused(AdregError):
    """A model card that cannot be renewed, or that the Hub does not take."""

    reason: str
    advice: str = "Mend its README.md on the Hub, and push again."

    @property
    def sentence(self) -> str:
        """Say what is wrong with it."""
        return f"the model card cannot be written: {self.reason}"

    @property
    def hint(self) -> str:
        """Say where to mend it."""
        return self.advice


@dataclass(eq=False)
class PushRefused(AdregError):
    """A push that would be wrong, refused before anything is sent."""

    reference: str
    repo: str
    reason: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Say what is not pushed where, and why."""
        return f"{self.reference} is not pushed to {self.repo}: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class RemoteChanged(AdregError):
    """Somebody else's commit on the branch, which a push would have written over.

    ``files`` are those that it changed among the ones to be pushed, or all that it changed.
    """

    repo: str
    revision: str
    commit: str
    authors: tuple[str, ...]
    at: str
    title: str
    files: tuple[str, ...]
    during: bool = False

    @property
    def sentence(self) -> str:
        """Say which commit, whose, when, and what it changed."""
        who = f" by {', '.join(self.authors)}" if self.authors else ""
        when = f" at {self.at}" if self.at else ""
        title = f" ({self.title!r})" if self.title else ""
        files = f" changed {several(self.files)}" if self.files else " changed none of these files"
        how = "while this push ran, " if self.during else ""
        return (
            f"{self.repo} at {self.revision} is not as it was last seen: {how}"
            f"commit {self.commit[:12]}{who}{when}{title}{files}"
        )

    @property
    def hint(self) -> str:
        """Say how to go on."""
        look = f"Look at it: `adreg pull {self.repo}@{self.revision} --dry-run`, or on the Hub."
        again = "Push again" + (" with --overwrite to replace these files." if self.files else ".")
        return f"{look} {again}"
