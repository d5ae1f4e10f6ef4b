"""Errors of the catalog and the installation."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.errors.base import AdregError


@dataclass(eq=False)
class CatalogError(AdregError):
    """The catalog cannot be used; ``where`` is its file or URL, without a password."""

    where: str
    reason: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Say which catalog and why."""
        return f"the catalog {self.where} cannot be used: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class CatalogTooNew(CatalogError):
    """The catalog was written by a newer adreg; it is left untouched."""


@dataclass(eq=False)
class MissingPackage(AdregError):
    """A package is needed that is not installed."""

    package: str
    purpose: str

    @property
    def sentence(self) -> str:
        """Say what needs it."""
        return f"{self.purpose} needs the package {self.package}"

    @property
    def hint(self) -> str:
        """Say how to install it."""
        return f"pip install {self.package}"


@dataclass(eq=False)
class EngineFailed(AdregError):
    """The machines that were to do the work cannot be reached, differ, or were lost."""

    engine: str
    reason: str
    advice: str

    @property
    def sentence(self) -> str:
        """Say which engine and why."""
        return f"the engine {self.engine} failed: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice
