"""``adreg alias``."""

from __future__ import annotations

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument


@click.command(
    "alias",
    short_help="Give a version a movable name.",
    epilog=examples(
        "adreg alias team/support@3 prod",
        "adreg alias team/support prod --remove",
    ),
)
@reference_argument()
@click.argument("alias")
@click.option("--remove", is_flag=True, help="Remove the alias instead.")
@json_option
@pass_app
def command(app: App, reference: str, alias: str, *, remove: bool) -> None:
    """Let NAME@ALIAS mean this version from now on, and tell what it meant before."""
    registry = app.registry
    done = registry.unalias(reference, alias) if remove else registry.alias(reference, alias)
    if app.json:
        app.output.json(done)
    elif done.key is None:
        app.output.line(f"removed @{done.alias}, which was {done.before}")
    elif done.before is None:
        app.output.line(f"{done.key.name}@{done.alias} is {done.key}")
    elif done.before == done.key:
        app.output.line(f"{done.key.name}@{done.alias} is {done.key} already")
    else:
        app.output.line(f"{done.key.name}@{done.alias} is {done.key} (was {done.before})")
