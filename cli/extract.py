"""``adreg extract``."""

from __future__ import annotations

from pathlib import Path

import click

from adreg.cli.making import cut_options, destination_options, tell, wanted
from adreg.cli.options import App, complete_base, examples, json_option, pass_app


@click.command(
    "extract",
    short_help="Make a LoRA out of a full fine-tune.",
    epilog=examples(
        "adreg extract ./fine-tune --base smollm2 --rank 32 --name team/extracted",
        "adreg extract ./fine-tune --base smollm2 --energy 0.95 --with-norms -o ./lora",
        "adreg extract ./fine-tune --base smollm2 --rank 16 --target 'q_proj|v_proj' --dry-run",
    ),
)
@click.argument("full")
@click.option(
    "--base",
    shell_complete=complete_base,
    required=True,
    help="A base's name, a folder or OWNER/REPO.",
)
@cut_options
@click.option(
    "--target", "modules", metavar="REGEX", help="Only modules in whose name this is found."
)
@click.option("--with-norms", is_flag=True, help="Store changed norms and biases whole.")
@destination_options
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32", "float64"]),
    default="float32",
    show_default=True,
    help="The type of the factors.",
)
@json_option
@pass_app
def command(
    app: App,
    full: str,
    base: str,
    rank: int | None,
    energy: float | None,
    modules: str | None,
    output: Path | None,
    name: str | None,
    dtype: str,
    *,
    with_norms: bool,
    dry_run: bool,
) -> None:
    """Approximate what FULL, a fine-tuned checkpoint, changed in its base by a LoRA.

    FULL is a folder, a model of the catalog or OWNER/REPO. Each weight gets the best
    factors of --rank, or of the smallest rank that keeps --energy of its change; the
    error is printed. What the adapter does not hold is named on stderr.
    """
    from adreg.registry.ops.extract import Wish  # noqa: PLC0415  # start-up

    if rank is None and energy is None:
        raise click.UsageError("say how large: --rank, --energy, or both")
    wish = Wish(rank, energy, modules, with_norms, dtype)
    tell(app, app.registry.extract(full, base, wish, wanted(output, name, dry_run=dry_run)))
