"""``adreg verify``."""

from __future__ import annotations

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import size
from adreg.registry.errors import Damaged


@click.command(
    "verify",
    short_help="Hash everything again and name what is damaged.",
    epilog=examples("adreg verify team/support", "adreg verify --all", "adreg verify --all --json"),
)
@reference_argument(required=False)
@click.option("--all", "everything", is_flag=True, help="All versions and all models.")
@json_option
@pass_app
def command(app: App, reference: str | None, *, everything: bool) -> None:
    """Read stored files through and name what is damaged, missing or extra; change nothing.

    The exit code is 1 if anything is.
    """
    if everything == (reference is not None):
        raise click.UsageError("name one version, or pass --all")
    found = app.registry.verify(reference)
    if app.json:
        app.output.json(found)
    else:
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
