"""``adreg check``."""

from __future__ import annotations

import click

from adreg.cli.options import (
    App,
    complete_base,
    examples,
    json_option,
    pass_app,
    reference_argument,
)
from adreg.registry.bases.verdict import Grade

_SHOWN = 10


@click.command(
    "check",
    short_help="Check whether an adapter fits a base.",
    epilog=examples(
        "adreg check team/support --base smollm2",
        "adreg check ./runs/support --base ../models/SmolLM2-135M",
        "adreg check team/support@prod --json",
    ),
)
@reference_argument()
@click.option(
    "--base",
    shell_complete=complete_base,
    help="A base's name, a folder or OWNER/REPO; else the adapter's own.",
)
@json_option
@pass_app
def command(app: App, reference: str, base: str | None) -> None:
    """Tell how an adapter, in the catalog or in a folder, fits a base.

    exact: it is the base that it was made for. same-shapes: it fits, and may be
    another base of the same shape. incompatible: tensors have no place there; the
    first are named, and the exit code is 1.
    """
    checked = app.registry.check(reference, base)
    verdict = checked.verdict
    if app.json:
        app.output.json(checked)
    else:
        app.output.line(
            f"{verdict.grade.value}: {checked.adapter} on {checked.base},"
            f" {verdict.matched:,} of {verdict.total:,} tensors have their place"
        )
        for reason in verdict.reasons[:_SHOWN]:
            app.output.line(f"  {reason}")
        if (more := len(verdict.reasons) - _SHOWN) > 0:
            app.output.line(f"  and {more:,} more; --json shows all")
    if verdict.grade is Grade.INCOMPATIBLE:
        raise click.exceptions.Exit(1)
