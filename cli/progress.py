"""How far a long work is, on stderr: a bar on a terminal, else one line at the end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from adreg.cli.escape import escape
from adreg.cli.output import size
from adreg.registry.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Bar(Progress):
    """Draws what it hears; quiet, it draws nothing.

    Work shorter than ``line_after`` seconds leaves no line: it would only hide the others.
    """

    def __init__(self, *, quiet: bool = False, line_after: float = 1.0) -> None:
        self._quiet = quiet
        self._line_after = line_after
        self._title = ""
        self._unit = "bytes"
        self._done = 0
        self._began = 0.0
        self._drawn: tuple[RichProgress, TaskID] | None = None

    def start(self, title: str, total: int, unit: str = "bytes") -> None:
        """Open a task, with a bar if stderr is a terminal."""
        self.close()
        self._title, self._unit, self._done = escape(title), unit, 0
        self._began = time.monotonic()
        if not self._quiet and sys.stderr.isatty():
            bar = _bar(unit)
            bar.start()
            self._drawn = bar, bar.add_task(self._title, total=total)

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        self._done += amount
        if self._drawn is not None:
            bar, task = self._drawn
            bar.advance(task, amount)

    def finish(self) -> None:
        """Leave the full bar on the terminal, or write the one line."""
        long = time.monotonic() - self._began >= self._line_after
        if self._drawn is None and not self._quiet and long:
            click.echo(self._line(), err=True)
        self.close()

    def close(self) -> None:
        """Stop drawing, wherever the work is."""
        if self._drawn is not None:
            self._drawn[0].stop()
            self._drawn = None

    def _line(self) -> str:
        seconds = time.monotonic() - self._began
        rate = self._done / max(seconds, 1e-9)
        if self._unit == "bytes":
            return f"{self._title}: {size(self._done)} in {seconds:.1f} s ({size(rate)}/s)"
        return f"{self._title}: {self._done:,} {self._unit} in {seconds:.1f} s ({rate:.1f}/s)"


def _bar(unit: str) -> RichProgress:
    # Start-up: rich's progress takes 60 ms, and only long work on a terminal needs it.
    from rich import progress as rich  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    amount: list[rich.ProgressColumn] = (
        [rich.DownloadColumn(), rich.TransferSpeedColumn()]
        if unit == "bytes"
        else [rich.MofNCompleteColumn()]
    )
    return rich.Progress(
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        *amount,
        rich.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
