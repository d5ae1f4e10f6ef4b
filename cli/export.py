"""``adreg export``."""

from __future__ import annotations

from pathlib import Path

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import size


@click.command(
    "export",
    short_help="Write an adapter or a model to a folder.",
    epilog=examples(
        "adreg export team/support@prod -o ./support",
        "adreg export support-merged -o ./release",
        "adreg export support-merged -o ./release --license apache-2.0",
        "cd release && sha256sum -c SHA256SUMS",
    ),
)
@reference_argument()
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder to make.",
)
@click.option("--license", "licence", metavar="ID", help="The licence of the release, for a model.")
@click.option(
    "--allow-unknown-license",
    "allow_unknown",
    is_flag=True,
    help="Release a model though the licence of a part is not known.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and write nothing.")
@json_option
@pass_app
def command(
    app: App,
    *,
    reference: str,
    output: Path,
    licence: str | None,
    allow_unknown: bool,
    dry_run: bool,
) -> None:
    """Write an adapter as the PEFT folder that it was, or a model as a release.

    A release holds the checkpoint, a model card, adreg.lock.json, from which `adreg
    rebuild` makes the same bytes again, and SHA256SUMS. Every file is compared with what
    was recorded while it is copied.

    A release goes out under the licence that the base and all adapters share, else as
    "other" with all of them named in the card, else under the one that --license gives.
    """
    done = app.registry.export(
        reference,
        output,
        licence=licence,
        allow_unknown_licence=allow_unknown,
        dry_run=dry_run,
    )
    if app.json:
        app.output.json(done)
        return
    verb = "would export" if done.dry_run else "exported"
    what = f"{len(done.files)} files, {size(done.bytes)}"
    app.output.line(f"{verb} {done.reference} to {done.folder} ({what})")
    if done.kind == "model":
        app.output.line(f"licence: {done.licence or 'unknown'}")
