"""The base of every error, and how several reasons become one line."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any


class AdregError(Exception):
    """The base of every error that adreg raises on purpose."""

    @property
    def sentence(self) -> str:
        """What is wrong, and with what; one line."""
        raise TypeError(type(self).__name__)

    @property
    def hint(self) -> str:
        """What to do next; one line, empty when there is nothing to advise."""
        return ""

    def __str__(self) -> str:
        """The sentence, so that a traceback reads like the command line."""
        return self.sentence

    def facts(self) -> dict[str, Any]:
        """The facts by name, as plain JSON values."""
        facts: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]  # every concrete error is a dataclass
            value = getattr(self, field.name)
            facts[field.name] = str(value) if isinstance(value, Path) else value
        return facts


def several(reasons: tuple[str, ...], shown: int = 5) -> str:
    """Return reasons as one line, the first few of them."""
    rest = len(reasons) - shown
    text = "; ".join(reasons[:shown])
    return f"{text}; and {rest} more" if rest > 0 else text
