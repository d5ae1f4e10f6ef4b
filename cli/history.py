"""``adreg history``."""

from __future__ import annotations

import json

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import Column

_COLUMNS = (
    Column("TIME", "time"),
    Column("WHO"),
    Column("ACTION"),
    Column("WHAT"),
    Column("DETAIL"),
)


@click.command(
    "history",
    short_help="Show what was done, newest first.",
    epilog=examples("adreg history", "adreg history team/support --limit 5 --json"),
)
@reference_argument(required=False)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Lines at most; 0 for all.",
)
@json_option
@pass_app
def command(app: App, reference: str | None, limit: int) -> None:
    """Show what was done, newest first: to all, to a name with its versions, or to one version."""
    found = app.registry.history(reference, limit or None)
    if app.json:
        app.output.json(found)
    else:
        rows = (
            (one.at, one.actor, one.action, one.subject, json.dumps(one.detail))
            for one in found.entries
        )
        app.output.table(_COLUMNS, rows)
    if found.more:
        app.output.remark("there is more; --limit 0 shows all")
