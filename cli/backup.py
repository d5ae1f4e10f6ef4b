"""``adreg backup``."""

from __future__ import annotations

from pathlib import Path

import click

from adreg.cli.options import App, examples, json_option, pass_app
from adreg.cli.output import several, size


@click.command(
    "backup",
    short_help="Write the whole registry into one file.",
    epilog=examples("adreg backup ~/adreg-monday.tar", "adreg backup ./adreg.tar --json"),
)
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_app
def command(app: App, file: Path) -> None:
    """Write the catalog and all stored files into a new FILE, while others go on working.

    Every byte is hashed on the way. Merged models are in it by their recipes, not their weights.
    """
    done = app.registry.backup(file)
    if app.json:
        app.output.json(done)
        return
    app.output.line(
        f"{done.path}: {several(done.versions, 'version')}, {several(done.blobs, 'file')},"
        f" {size(done.bytes)}, SHA-256 {done.sha256}"
    )
    if done.models:
        app.output.remark(f"the weights of {several(done.models, 'merged model')} are not in it")
