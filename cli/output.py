"""What goes to stdout: tables for people, tab-separated lines for pipes, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Literal

import click

from adreg.cli.escape import escape

_STEP = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_SHORT = ("", "K", "M", "G", "T", "P")


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Only people see ``size`` and ``count`` shortened, and times as days."""

    title: str
    kind: Literal["text", "number", "size", "count", "time"] = "text"


class Output:
    """Writes the answer of one command to stdout, and remarks to stderr."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def json(self, value: object) -> None:
        """Write a value as JSON, in ASCII: ``plain`` tells how its parts are written."""
        text = json.dumps(plain(value), indent=2, allow_nan=False)
        click.echo(text.replace("\x7f", "\\u007f"))

    def line(self, text: str = "") -> None:
        """Write one line."""
        click.echo(escape(text))

    def text(self, text: str) -> None:
        """Write a text of several lines as it is, with all that could harm a terminal escaped."""
        click.echo(escape(text, keep="\n\t"))

    def remark(self, text: str) -> None:
        """Write one line for people to stderr, unless they asked for quiet."""
        if not self.quiet:
            click.echo(escape(text), err=True)

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Write names with their values, one a line; a list takes a line for each of its items.

        Names without a value are left out.
        """
        kept = [(name, _lines(value)) for name, value in pairs]
        kept = [(name, lines) for name, lines in kept if lines]
        width = max((len(name) for name, _ in kept), default=0)
        for name, lines in kept:
            for number, line in enumerate(lines):
                label = name if number == 0 else ""
                self.line(f"{label:<{width}}  {line}")

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
        """Write a table: aligned on a terminal, else tab-separated, untruncated, with a header."""
        if sys.stdout.isatty():
            self._for_people(columns, rows)
            return
        click.echo("\t".join(column.title.lower() for column in columns))
        for row in rows:
            click.echo("\t".join(escape(_raw(cell)) for cell in row))

    def _for_people(self, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
        # Start-up: rich takes 50 ms, and only a terminal needs it.
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, pad_edge=False, header_style="bold")
        for position, column in enumerate(columns):
            right = column.kind in {"number", "size", "count"}
            table.add_column(
                column.title,
                justify="right" if right else "left",
                no_wrap=right or position == 0,
                overflow="fold" if position == 0 else "ellipsis",
            )
        for row in rows:
            cells = zip(columns, row, strict=True)
            table.add_row(*(Text(escape(_shown(column, cell))) for column, cell in cells))
        Console(soft_wrap=False, highlight=False).print(table)


def plain(value: object) -> Any:  # noqa: ANN401  # any JSON value
    """Return the JSON form of a result.

    A dataclass becomes an object of its fields, a time ISO-8601 text, a set or tuple a
    list; anything else that JSON has no form for is written as its text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(one) for one in value)
    return _plain_leaf(value)


def _plain_leaf(value: object) -> object:
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, (int, float, str)) else str(value)


def size(count: float) -> str:
    """Return bytes for people, in decimal units: ``"1.2 GB"``."""
    return _shortened(count, _UNITS, " ")


def count(number: float) -> str:
    """Return a number for people: ``"134.5M"``."""
    return _shortened(number, _SHORT, "")


def several(number: int, noun: str) -> str:
    """Return a number with its noun: ``"1 version"``, ``"2 versions"``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def day(time: datetime) -> str:
    """Return a time for people, to the minute, in their own zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M")


def _shortened(number: float, units: Sequence[str], gap: str) -> str:
    unit = 0
    # 999.95 would round to 1000.0 of the smaller unit.
    while abs(number) >= (_STEP if unit == 0 else _STEP - 0.05) and unit < len(units) - 1:
        number, unit = number / _STEP, unit + 1
    digits = f"{number:.0f}" if unit == 0 else f"{number:.1f}"
    return f"{digits}{gap}{units[unit]}".rstrip()


def _raw(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return cell.isoformat()
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def _shown(column: Column, cell: object) -> str:
    if isinstance(cell, datetime):
        return day(cell)
    if isinstance(cell, (int, float)) and column.kind == "size":
        return size(cell)
    if isinstance(cell, (int, float)) and column.kind == "count":
        return count(cell)
    return _raw(cell)


def _lines(value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, (list, tuple)):
        return [_raw(one) for one in value]
    return [day(value) if isinstance(value, datetime) else _raw(value)]
