"""Errors of the Hub, of the network, and of what came from there."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.errors.base import AdregError


@dataclass(eq=False)
class HubError(AdregError):
    """The Hub said no; ``target`` is the repository, file or address that was asked for.

    ``status`` is the HTTP status of its last answer, None where there was none.
    """

    target: str
    reason: str
    advice: str = ""
    status: int | None = None

    @property
    def sentence(self) -> str:
        """Say what was asked for and what was wrong."""
        return f"{self.target}: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice

    @property
    def transient(self) -> bool:
        """Whether the same may work a little later."""
        return False


@dataclass(eq=False)
class HubNotFound(HubError):
    """Something that is not on the Hub, or is hidden from this token."""


@dataclass(eq=False)
class UnknownRepo(HubNotFound):
    """No such repository, or a private one."""


@dataclass(eq=False)
class UnknownRevision(HubNotFound):
    """No such branch, tag or commit."""


@dataclass(eq=False)
class UnknownFile(HubNotFound):
    """No such file at that commit."""


@dataclass(eq=False)
class HubNoAccess(HubError):
    """A gated or private repository, or a token that may not do this."""


@dataclass(eq=False)
class HubOffline(HubError):
    """Offline mode is on, or the Hub cannot be reached."""

    @property
    def transient(self) -> bool:
        """It may."""
        return True


@dataclass(eq=False)
class HubBusy(HubError):
    """The Hub, or the way to it, failed at every try."""

    @property
    def transient(self) -> bool:
        """It may."""
        return True


@dataclass(eq=False)
class HubConflict(HubError):
    """What is there is not what was expected: it exists already, or somebody was faster."""


@dataclass(eq=False)
class HubDamaged(HubError):
    """Bytes that came are not those that the Hub promises."""
