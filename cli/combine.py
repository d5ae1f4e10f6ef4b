"""``adreg combine``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from adreg.cli.making import cut_options, destination_options, dtype_option, tell, wanted
from adreg.cli.options import App, examples, json_option, pass_app, reference_argument

if TYPE_CHECKING:
    from adreg.registry.merge.algebra.mixing import Majority

_METHODS = (
    "cat",
    "svd",
    "factors_linear",
    "factors_ties",
    "factors_dare_linear",
    "factors_dare_ties",
    "factors_magnitude_prune",
    "peft_ties_svd",
    "peft_dare_linear_svd",
    "peft_dare_ties_svd",
    "peft_magnitude_prune_svd",
)


@click.command(
    "combine",
    short_help="Make one adapter out of several.",
    epilog=examples(
        "adreg combine team/support=0.7 team/tone=0.3 --name team/both",
        "adreg combine team/support team/tone --method svd --energy 0.99 -o ./both",
        "adreg combine team/support team/tone --method factors_ties --density 0.5 -o ./ties",
    ),
)
@reference_argument("references", nargs=-1)
@click.option("--method", type=click.Choice(_METHODS), default="cat", show_default=True)
@cut_options
@click.option(
    "--density",
    type=click.FloatRange(0, 1, min_open=True),
    help="The share of elements that ties, dare and magnitude_prune keep.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what dare draws.")
@click.option(
    "--majority",
    type=click.Choice(["total", "frequency"]),
    default="total",
    show_default=True,
    help="Whether ties elects signs by their sum or by their number.",
)
@destination_options
@dtype_option
@json_option
@pass_app
def command(
    app: App,
    references: tuple[str, ...],
    method: str,
    rank: int | None,
    energy: float | None,
    density: float | None,
    seed: int,
    majority: str,
    output: Path | None,
    name: str | None,
    dtype: str | None,
    *,
    dry_run: bool,
) -> None:
    r"""Combine LoRA adapters, each taken WEIGHT times (REF=0.5), into one adapter.

    \b
    cat     the exact weighted sum of their deltas; its rank is the sum of the ranks
    svd     the same, cut to --rank or --energy; the error is printed
    peft_X  what PEFT's add_weighted_adapter calls X: on the factors A and B apart,
            which is no sum of deltas; with _svd on the deltas, cut to --rank
    """
    from adreg.registry.ops.combine import Combination  # noqa: PLC0415  # start-up

    how = Combination(method, rank, energy, density, seed, cast("Majority", majority), dtype)
    tell(app, app.registry.combine(references, how, wanted(output, name, dry_run=dry_run)))
