"""``adreg tag``."""

from __future__ import annotations

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument


@click.command(
    "tag",
    short_help="Tag a version, or remove tags.",
    epilog=examples(
        "adreg tag team/support reviewed lang=de",
        "adreg tag team/support@2 reviewed --remove",
    ),
)
@reference_argument()
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@click.option("--remove", is_flag=True, help="Remove these tags instead.")
@json_option
@pass_app
def command(app: App, reference: str, tags: tuple[str, ...], *, remove: bool) -> None:
    """Tag a version with KEY or KEY=VALUE; a key that it has gets the new value."""
    registry = app.registry
    done = registry.untag(reference, tags) if remove else registry.tag(reference, tags)
    if app.json:
        app.output.json(done)
        return
    for one in done.removed:
        app.output.line(f"{done.key}: removed {one}")
    before = {one.key: one for one in done.replaced}
    for one in done.added:
        was = f" (was {before[one.key]})" if one.key in before else ""
        app.output.line(f"{done.key}: {one}{was}")
    if not (done.added or done.removed):
        app.output.line(f"{done.key}: it has these tags already")
