"""Lists that are too long for one statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 500
"""Parameters in one statement: SQLite before 3.32 takes 999, and many more save nothing."""


def in_parts(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut a list into pieces that fit into one IN (...)."""
    rest = iter(items)
    while part := list(islice(rest, AT_ONCE)):
        yield part
