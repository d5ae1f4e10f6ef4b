"""The form of a text by which it is found, apart from the tables: it must be quick to import."""

from __future__ import annotations

import unicodedata


def fold(text: str) -> str:
    """Return the form of a text by which it is found whatever its case or composition."""
    return unicodedata.normalize("NFC", text.casefold())
