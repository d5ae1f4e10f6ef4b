"""``adreg verify-merge``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adreg.cli.options import (
    App,
    complete_base,
    examples,
    json_option,
    pass_app,
    reference_argument,
)
from adreg.cli.output import Column, several
from adreg.registry.errors import NotProven

if TYPE_CHECKING:
    from adreg.registry.ops.verify_merge import Proof
    from adreg.registry.trial.distance import Distance

_COLUMNS = (
    Column("Distance"),
    Column("Largest", "number"),
    Column("Mean", "number"),
    Column("RMS", "number"),
    Column("KL", "number"),
    Column("Same top-1", "number"),
)

_FAULTS = {
    "differs": (
        "it does not answer as its base with the adapters does, beyond what rounding explains",
        "Run `adreg verify` on it, see that the base is still the same one, and merge again.",
    ),
    "lost": (
        "rounding moved its answers more than half as far as the adapters do: their effect is lost",
        "Merge with --dtype float32, or train the adapters longer.",
    ),
    "nothing": (
        "the adapters do not change what the base answers",
        "Check that they were trained.",
    ),
}


@click.command(
    "verify-merge",
    short_help="Prove that a merged model answers as base and adapters do.",
    epilog=examples(
        "adreg verify-merge support-merged",
        'adreg verify-merge support-merged --prompt "My parcel is late." --json',
    ),
)
@reference_argument()
@click.option(
    "--prompt", "prompts", multiple=True, metavar="TEXT", help="What to ask, once or more."
)
@click.option(
    "--base",
    shell_complete=complete_base,
    metavar="BASE",
    help="The base, where it lies elsewhere than recorded.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(1),
    default=2.0,
    show_default=True,
    help="How many times what rounding does the difference may be.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**62),
    default=0,
    show_default=True,
    help="Draws the inputs where there is no prompt.",
)
@json_option
@pass_app
def command(
    app: App,
    reference: str,
    prompts: tuple[str, ...],
    base: str | None,
    tolerance: float,
    seed: int,
) -> None:
    """Compare a merged model with its base and adapters in PEFT, and change nothing.

    All run in float32 on the same inputs: the prompts (128 tokens of each), else drawn
    token ids, pixels or sound. Differences are told as shares of the spread of the
    outputs, beside those that rounding to the model's dtype makes alone.

    The exit code is 1 when rounding does not explain the difference, or when the adapters'
    effect is not there.
    """
    proof = app.registry.verify_merge(
        reference, prompts=prompts, base=base, tolerance=tolerance, seed=seed
    )
    if app.json:
        app.output.json(proof)
    else:
        _print(app, proof)
    if proof.verdict != "same":
        reason, advice = _FAULTS[proof.verdict]
        raise NotProven(proof.model, proof.verdict, reason, advice)


def _print(app: App, proof: Proof) -> None:
    found = proof.comparison
    adapters = " + ".join(f"{weight:g} x {name}" for name, weight in proof.adapters)
    app.output.remark(
        f"{proof.model} ({proof.dtype}) against {proof.base} + {adapters} ({found.way}),"
        f" on {several(found.inputs, 'input')} in float32"
    )
    rows = [
        ("merged, from base and adapters", found.merged),
        ("base and adapters rounded, from the same", found.rounding),
        ("merged, from those rounded", found.beyond_rounding),
    ]
    if found.effect is not None:
        rows.append(("the base, from base and adapters", found.effect))
    app.output.table(_COLUMNS, [(name, *_cells(one)) for name, one in rows])
    if proof.verdict == "same":
        app.output.line(f"{proof.model}: same as base and adapters within rounding")


def _cells(one: Distance) -> tuple[str, ...]:
    numbers = (one.largest, one.mean, one.rms, one.divergence)
    cells = [("" if number is None else f"{number:.2e}") for number in numbers]
    return (*cells, "" if one.agreement is None else f"{100 * one.agreement:.1f} %")
