"""What a word may become that is being typed in a shell."""

from __future__ import annotations

from adreg.registry.catalog import beginnings
from adreg.registry.settings import Settings


def references(settings: Settings, word: str) -> list[str]:
    """Return names that begin like ``word``, or versions and aliases behind its ``@``."""
    return beginnings.references(settings, word)


def bases(settings: Settings, word: str) -> list[str]:
    """Return names and other names of bases that begin like ``word``."""
    return beginnings.bases(settings, word)
