"""``adreg note``."""

from __future__ import annotations

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument


@click.command(
    "note",
    short_help="Leave a remark on a version.",
    epilog=examples('adreg note team/support@3 "answers in German too"'),
)
@reference_argument()
@click.argument("text")
@json_option
@pass_app
def command(app: App, reference: str, text: str) -> None:
    """Leave a remark on a version; `adreg list` finds it by its words."""
    done = app.registry.note(reference, text)
    if app.json:
        app.output.json(done)
    else:
        app.output.line(f"{done.key}: noted")
