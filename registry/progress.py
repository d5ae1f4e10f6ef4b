"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations


class Progress:
    """A listener that ignores everything; the command line has one that draws a bar.

    ``start`` opens a task with its total in ``unit`` ("bytes" or "items"),
    ``advance`` adds to what is done, ``finish`` closes it. Tasks do not nest.
    """

    def start(self, title: str, total: int, unit: str = "bytes") -> None:
        """Open a task of ``total`` units."""

    def advance(self, amount: int = 1) -> None:
        """Add ``amount`` to what is done."""

    def finish(self) -> None:
        """Close the task."""


SILENT = Progress()
