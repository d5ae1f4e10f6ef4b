"""What the commands that make an adapter share: where it goes, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adreg.cli.options import App
from adreg.cli.output import Column, count, several, size

if TYPE_CHECKING:
    from adreg.registry.ops.made_adapters import MadeAdapter, Wanted

Command = TypeVar("Command", bound=Callable[..., Any])

_COLUMNS = (
    Column("Module"),
    Column("Rank", "number"),
    Column("Norm", "number"),
    Column("Error", "number"),
)

dtype_option = click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32", "float64"]),
    help="The type of the tensors written; else the inputs' own, float32 where they differ.",
)


def destination_options(command: Command) -> Command:
    """Give a command ``-o``, ``--name`` and ``--dry-run``."""
    decorators = (
        click.option("-o", "--output", type=click.Path(path_type=Path), help="The folder to make."),
        click.option(
            "--name", help="The adapter's name in the catalog; a known one gets a version."
        ),
        click.option(
            "--dry-run", is_flag=True, help="Compute all of it, errors too; write nothing."
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def cut_options(command: Command) -> Command:
    """Give a command ``--rank`` and ``--energy``."""
    decorators = (
        click.option("--rank", type=click.IntRange(1), help="The largest rank of a module."),
        click.option(
            "--energy",
            type=click.FloatRange(0, 1, min_open=True),
            help="The share of each module's squared norm to keep (0.99): the rank follows.",
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def wanted(output: Path | None, name: str | None, *, dry_run: bool) -> Wanted:
    """Return where an adapter goes; raise UsageError when nothing was said."""
    from adreg.registry.ops.made_adapters import Wanted  # noqa: PLC0415  # start-up

    if output is None and name is None and not dry_run:
        raise click.UsageError("say where it goes: -o DIR, --name NAME, or both")
    return Wanted(output, name, dry_run)


def tell(app: App, made: MadeAdapter) -> None:
    """Print what was made: one line, or after a dry run a line for each module."""
    if app.json:
        worst = made.worst
        app.output.json({**vars_of(made), "worst": None if worst is None else worst.name})
        return
    for remark in made.remarks:
        app.output.remark(remark)
    for one in made.lost:
        norm = "" if one.norm is None else f", a change of {one.norm:.3g}"
        app.output.remark(f"not in the adapter: {one.name}{norm}: {one.reason}")
    if made.dry_run:
        app.output.table(
            _COLUMNS, [(one.name, one.rank, one.norm, one.relative) for one in made.modules]
        )
    app.output.line(_line(made))


def vars_of(made: MadeAdapter) -> dict[str, Any]:
    """Return the fields of a result, each module with its relative error."""
    from dataclasses import fields  # noqa: PLC0415  # start-up

    values = {one.name: getattr(made, one.name) for one in fields(made)}
    values["modules"] = [
        {
            "name": one.name,
            "rank": one.rank,
            "norm": one.norm,
            "error": one.relative,
            "reached": one.reached,
        }
        for one in made.modules
    ]
    return values


def _line(made: MadeAdapter) -> str:
    if made.dry_run:
        verb = "would make an adapter"
    elif not made.new:
        verb = f"{made.key} holds these very bytes already"
    else:
        places = [str(place) for place in (made.key, made.folder) if place is not None]
        verb = f"made {' in '.join(places)}"
    ranks = str(made.rank) if made.rank == made.rank_min else f"{made.rank_min} to {made.rank}"
    what = f"{several(len(made.modules), 'module')} of rank {ranks}"
    line = f"{verb}: {what}, {count(made.parameters)} parameters, {size(made.bytes)}"
    if made.error is None or made.worst is None:
        return line
    worst = f"{_percent(made.worst.relative or 0)} in {made.worst.name}"
    return f"{line}; error {_percent(made.error)}, at worst {worst}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
