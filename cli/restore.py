"""``adreg restore``."""

from __future__ import annotations

from pathlib import Path

import click

from adreg.cli.options import App, examples, json_option, pass_app
from adreg.cli.output import several


@click.command(
    "restore",
    short_help="Fill a registry from a backup.",
    epilog=examples(
        "adreg --home ./elsewhere restore ~/adreg-monday.tar",
        "adreg restore ~/adreg-monday.tar --replace",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Replace what is there, and keep it aside.")
@json_option
@pass_app
def command(app: App, file: Path, *, replace: bool) -> None:
    """Check every byte of a backup FILE, then let the registry be what it holds, or change nothing.

    What was there before is kept in a folder of the home, which is a home itself.
    """
    done = app.registry.restore(file, replace=replace)
    if app.json:
        app.output.json(done)
        return
    app.output.line(
        f"{done.home}: {several(done.versions, 'version')}, {several(done.blobs, 'file')}"
    )
    if done.aside is not None:
        app.output.remark(f"what was there before is in {done.aside}")
    for model in done.models:
        app.output.remark(f"{model} is recorded, and its weights were not in the backup")
