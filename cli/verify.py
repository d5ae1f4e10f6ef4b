"""``adreg verify``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import Output, size
from adreg.registry.errors import Damaged

if TYPE_CHECKING:
    from adreg.registry.ops.repair import Mended


@click.command(
    "verify",
    short_help="Hash everything again and name what is damaged.",
    epilog=examples(
        "adreg verify team/support",
        "adreg verify --all --json",
        "adreg verify --all --repair",
        "adreg verify --all --repair --from /mnt/other/adreg-home",
    ),
)
@reference_argument(required=False)
@click.option("--all", "everything", is_flag=True, help="All versions and all models.")
@click.option("--repair", is_flag=True, help="Get what is damaged again, by its digest.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Look there first: another registry's home, or a folder with the files.",
)
@json_option
@pass_app
def command(
    app: App,
    reference: str | None,
    *,
    everything: bool,
    repair: bool,
    sources: tuple[Path, ...],
) -> None:
    """Read stored files through and name what is damaged, missing or extra; change nothing.

    With --repair, what is damaged is looked for where it was added from, in the Hugging
    Face cache and on the Hub; the damaged files are kept in the store's quarantine.
    The exit code is 1 if anything is damaged, and stays so.
    """
    if everything == (reference is not None):
        raise click.UsageError("name one version, or pass --all")
    if sources and not repair:
        raise click.UsageError("--from goes with --repair")
    done = app.registry.repair(reference, sources) if repair else None
    found = app.registry.verify(reference) if done is None else done.verified
    if app.json:
        app.output.json(done or found)
    else:
        _tell(app.output, () if done is None else done.mended)
        for one in found.versions:
            for fault in one.faults:
                app.output.line(f"{one.key}: {fault}")
        files = sum(one.files for one in found.versions)
        read = size(sum(one.bytes for one in found.versions))
        bad = sum(bool(one.faults) for one in found.versions)
        state = f"{bad:,} damaged" if bad else "all as recorded"
        app.output.line(f"{len(found.versions):,} versions, {files:,} files, {read}: {state}")
        for path in found.unknown:
            app.output.remark(f"no version refers to {path}")
    if found.faults:
        raise Damaged(found.faults)


def _tell(output: Output, mended: Iterable[Mended]) -> None:
    for one in mended:
        if one.repaired:
            output.line(f"{one.reference}: {one.name} is repaired from {one.source}")
        else:
            output.line(f"{one.reference}: {one.name} is not repairable: {one.reason}")
