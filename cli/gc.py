"""``adreg gc``."""

from __future__ import annotations

import re

import click

from adreg.cli.options import App, examples, json_option, pass_app
from adreg.cli.output import Column, plain, several, size

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Read ``90s``, ``30m``, ``1h`` or ``7d``; raise BadParameter."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", value)
    if found is None:
        text = f"{value!r} is no span of time; write 90s, 30m, 1h or 7d"
        raise click.BadParameter(text, context, parameter)
    return float(int(found[1]) * _UNITS[found[2]])


@click.command(
    "gc",
    short_help="Sweep what nothing refers to.",
    epilog=examples("adreg gc --dry-run", "adreg gc --grace 1h", "adreg gc --quarantine"),
)
@click.option(
    "--grace",
    metavar="SPAN",
    default="1d",
    show_default=True,
    callback=_seconds,
    help="Leave what is younger: 90s, 30m, 1h or 7d.",
)
@click.option("--quarantine", is_flag=True, help="Damaged files that were replaced, too.")
@click.option("--dry-run", is_flag=True, help="Only say what would go, and why.")
@json_option
@pass_app
def command(app: App, grace: float, *, quarantine: bool, dry_run: bool) -> None:
    """Remove what no version refers to: files, folders and what killed commands left.

    What a running command has staged or reads is never touched.
    """
    done = app.registry.gc(grace, dry_run=dry_run, quarantine=quarantine)
    if app.json:
        app.output.json({"freed": done.freed, **plain(done)})
        return
    columns = (
        Column("Action"),
        Column("Kind"),
        Column("Bytes", "size"),
        Column("Path"),
        Column("Why"),
    )
    words = ("keep", "would remove" if dry_run else "removed")
    rows = [
        (words[item.removed], item.kind, item.bytes, str(item.path), item.reason)
        for item in done.items
    ]
    if rows:
        app.output.table(columns, rows)
    gone = sum(item.removed for item in done.items)
    app.output.remark(
        f"{several(gone, 'item')} {'would go' if dry_run else 'went'}, {size(done.freed)};"
        f" {len(done.items) - gone:,} kept; {several(done.used, 'stored file')} in use"
    )
