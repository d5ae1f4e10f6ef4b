"""``adreg rebuild``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adreg.cli.options import (
    App,
    complete_base,
    engine_options,
    examples,
    json_option,
    pass_app,
)
from adreg.cli.output import Column, size

if TYPE_CHECKING:
    from adreg.registry.merge.engines import EngineName


@click.command(
    "rebuild",
    short_help="Build a model again from its lock file.",
    epilog=examples(
        "adreg rebuild release/adreg.lock.json -o ./again",
        "adreg rebuild adreg.lock.json -o ./again --base ./SmolLM2-135M-Instruct",
        "adreg rebuild adreg.lock.json -o ./again --dry-run",
    ),
)
@click.argument("lockfile", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder to make.",
)
@click.option(
    "--base",
    shell_complete=complete_base,
    metavar="BASE",
    help="The base: a name, a folder, or OWNER/REPO.",
)
@engine_options
@click.option("--dry-run", is_flag=True, help="Say which parts are there, and build nothing.")
@json_option
@pass_app
@click.pass_context
def command(
    context: click.Context,
    app: App,
    *,
    lockfile: Path,
    output: Path,
    base: str | None,
    engine: EngineName,
    ray_address: str | None,
    dry_run: bool,
) -> None:
    """Build the release that a lock file describes, byte for byte, from the base and adapters here.

    The parts are found by their digests, whatever they are called here. A file that comes
    out different is named, and nothing is written. --dry-run ends with 1 if a part is missing.
    """
    done = app.registry.rebuild(
        lockfile, output, base=base, dry_run=dry_run, engine=engine, ray_address=ray_address
    )
    if app.json:
        app.output.json({"ready": done.ready, "result": done})
    elif done.dry_run:
        columns = [Column("Part"), Column("Found"), Column("Missing")]
        rows = [(one.what, one.found or "", one.fault) for one in done.parts]
        app.output.table(columns, rows)
    else:
        total = size(sum(file.size for file in done.files))
        app.output.line(f"rebuilt {done.name} in {done.folder}: {len(done.files)} files, {total}")
        app.output.line("every file is what the lock file says, byte for byte")
    if not done.ready:
        context.exit(1)
