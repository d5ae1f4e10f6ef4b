"""``adreg resize``."""

from __future__ import annotations

from pathlib import Path

import click

from adreg.cli.making import cut_options, destination_options, dtype_option, tell, wanted
from adreg.cli.options import App, examples, json_option, pass_app, reference_argument


@click.command(
    "resize",
    short_help="Cut an adapter to another rank.",
    epilog=examples(
        "adreg resize team/support --rank 8 --name team/support-8",
        "adreg resize team/support --energy 0.99 -o ./smaller",
        "adreg resize team/support --rank 4 --dry-run",
    ),
)
@reference_argument()
@cut_options
@destination_options
@dtype_option
@json_option
@pass_app
def command(
    app: App,
    reference: str,
    rank: int | None,
    energy: float | None,
    output: Path | None,
    name: str | None,
    dtype: str | None,
    *,
    dry_run: bool,
) -> None:
    """Cut each module of a LoRA to its best approximation at a rank, and print the error.

    With --energy each module gets the smallest rank that keeps that share of its squared
    norm; with both, --rank is the most.
    """
    if rank is None and energy is None:
        raise click.UsageError("say how small: --rank, --energy, or both")
    place = wanted(output, name, dry_run=dry_run)
    tell(app, app.registry.resize(reference, place, rank=rank, energy=energy, dtype=dtype))
