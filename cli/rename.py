"""``adreg rename``."""

from __future__ import annotations

import click

from adreg.cli.options import App, complete_reference, examples, json_option, pass_app
from adreg.cli.output import several


@click.command(
    "rename",
    short_help="Rename an adapter or a model.",
    epilog=examples("adreg rename support team/support"),
)
@click.argument("old", shell_complete=complete_reference)
@click.argument("new")
@json_option
@pass_app
def command(app: App, old: str, new: str) -> None:
    """Rename an adapter or model with all its versions and aliases."""
    done = app.registry.rename(old, new)
    if app.json:
        app.output.json(done)
    elif done.old == done.new:
        app.output.line(f"{done.new} is called so already")
    else:
        app.output.line(f"{done.old} is {done.new} now ({several(done.versions, 'version')})")
