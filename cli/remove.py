"""``adreg remove``."""

from __future__ import annotations

import sys

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import several, size


@click.command(
    "remove",
    short_help="Remove a version, or a name with all versions.",
    epilog=examples(
        "adreg remove team/support@2",
        "adreg remove team/support --dry-run",
        "adreg remove team/support --yes",
    ),
)
@reference_argument()
@click.option("--force", is_flag=True, help="Even if a model was built from it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@pass_app
def command(app: App, reference: str, *, force: bool, yes: bool, dry_run: bool) -> None:
    """Remove one version; a name alone means all its versions.

    What a model was built from stays, unless forced. The folder of a removed model
    is not touched. Files that nothing else uses leave the store.
    """
    wanted = app.registry.remove(reference, force=force, dry_run=True)
    if dry_run:
        if app.json:
            app.output.json(wanted)
        for key in () if app.json else wanted.versions:
            app.output.line(f"would remove {key}")
        return
    names = ", ".join(str(key) for key in wanted.versions)
    if not yes:
        if app.json or not sys.stdin.isatty():
            raise click.UsageError(f"this would remove {names}; pass --yes to do it")
        click.confirm(f"Remove {names}?", abort=True, err=True)
    done = app.registry.remove(reference, force=force)
    if app.json:
        app.output.json(done)
        return
    for key in done.versions:
        app.output.line(f"removed {key}")
    if done.blobs:
        app.output.remark(f"{several(done.blobs, 'file')} left the store, {size(done.bytes or 0)}")
    for folder in done.folders:
        app.output.remark(f"its folder stays: {folder}")
