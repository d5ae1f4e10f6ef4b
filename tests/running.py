"""Running adreg in tests: what a run leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of adreg left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Adreg = Callable[..., Ran]
"""The fixture ``adreg``: takes the arguments of one command."""
