"""``adreg merge``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adreg.cli.options import (
    App,
    complete_base,
    engine_options,
    examples,
    json_option,
    pass_app,
    reference_argument,
)
from adreg.cli.output import Column, size

if TYPE_CHECKING:
    from adreg.registry.merge.engines import EngineName
    from adreg.registry.merge.recipe import Recipe
    from adreg.registry.ops.merge import Merged

_COLUMNS = (
    Column("Tensor"),
    Column("Action"),
    Column("Dtype"),
    Column("Shape"),
    Column("Bytes", "size"),
    Column("File"),
)

_REPORT = (
    Column("Tensor"),
    Column("Action"),
    Column("|delta|", "number"),
    Column("|W|", "number"),
    Column("Changed %", "number"),
    Column("Lost %", "number"),
    Column("Worst ulp", "number"),
)


@click.command(
    "merge",
    short_help="Merge adapters into a standalone checkpoint.",
    epilog=examples(
        "adreg merge team/support --base smollm2 -o ./support-merged",
        "adreg merge team/support@prod=0.7 team/tone=0.3 --name support-v2",
        "adreg merge a b=0.5 --method ties --density 0.3 --name both",
        r"adreg merge team/support --weight 'layers\.(0|1)\..*=0.3' --name gentle",
        "adreg merge team/support=-1 --base smollm2 --name without",
        "adreg merge --recipe recipe.yaml --dry-run",
    ),
)
@reference_argument("references", nargs=-1, required=False)
@click.option(
    "--base",
    shell_complete=complete_base,
    help="A base's name, a folder or OWNER/REPO; else the adapters' own.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder to make; else one in the registry.",
)
@click.option("--name", help="The model's name; else the first adapter's with '-merged'.")
@click.option("--method", help="How deltas are combined; the weighted sum (linear) unless said.")
@click.option("--density", type=float, help="The share of elements that ties, dare, ... keep.")
@click.option("--seed", type=int, help="Of the random choices of dare and della; 0 unless said.")
@click.option(
    "--parameter",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any other parameter of the method: lambda=0.5, sign=frequency.",
)
@click.option(
    "--weight",
    "weights",
    metavar="PATTERN=FACTOR",
    multiple=True,
    help="A factor on the weights for modules whose name ends in PATTERN, a regular expression.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32", "float64"]),
    help="The type of all float tensors written; else the base's.",
)
@click.option("--max-shard-size", metavar="SIZE", help="5GB, 512MiB; else the base's own shards.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float64"]),
    help="What deltas are computed and summed in; float32 unless said.",
)
@click.option(
    "--tokenizer",
    type=click.Choice(["auto", "base", "adapter"]),
    help="Whose tokenizer and chat template; auto is the adapters' if they bring one and agree.",
)
@click.option(
    "--recipe",
    "recipe_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A YAML file that says all of this; flags count more.",
)
@click.option("--dequantize", is_flag=True, help="Decode a quantised base into 16 bits first.")
@click.option("--allow-code", is_flag=True, help="Take the base's *.py along; nothing runs them.")
@click.option(
    "--stream", is_flag=True, help="Fetch a base of the Hub shard by shard, keeping none of it."
)
@click.option("--report", is_flag=True, help="Print what happened to each tensor.")
@click.option("--force", is_flag=True, help="Make it even if it was made of the same before.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads that compute; else the cores. With Ray, of each file; else 2.",
)
@engine_options
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@json_option
@pass_app
def command(  # one argument an option
    app: App,
    references: tuple[str, ...],
    base: str | None,
    output: Path | None,
    name: str | None,
    method: str | None,
    density: float | None,
    seed: int | None,
    parameters: tuple[str, ...],
    weights: tuple[str, ...],
    dtype: str | None,
    max_shard_size: str | None,
    precision: str | None,
    tokenizer: str | None,
    recipe_file: Path | None,
    threads: int | None,
    engine: EngineName,
    ray_address: str | None,
    *,
    dequantize: bool,
    allow_code: bool,
    report: bool,
    dry_run: bool,
    force: bool,
    stream: bool,
) -> None:
    r"""Fold adapters into a base's weights and write a checkpoint that needs no PEFT.

    Each REF may have a weight (REF=0.5, REF=-1 to subtract), and may be full:PATH for a
    whole fine-tuned checkpoint. The weighted deltas are combined in float32 and rounded
    once; --method takes linear, ties, dare_ties, della, breadcrumbs, sce, slerp, nuslerp,
    model_stock, karcher, PEFT's own flavours (peft_ties on deltas, factors_ties on A and
    B apart) and more: docs/methods.md. The folder appears whole or not at all; the same
    command finds what was made, and goes on with several files where it was stopped.
    A recipe file:

    \b
      base: smollm2
      adapters:
        - {ref: team/support@prod, weight: 0.7}
        - team/tone
      method: ties
      parameters: {density: 0.3}
      dtype: bfloat16
    """
    given = {
        "base": base,
        "adapters": list(references) or None,
        "method": method,
        "parameters": _parameters(density, seed, parameters),
        "weights": _weights(weights),
        "dequantize": dequantize,
        "allow_code": allow_code,
        "dtype": dtype,
        "max_shard_size": max_shard_size,
        "precision": precision,
        "tokenizer": tokenizer,
    }
    recipe = _recipe(recipe_file, {key: value for key, value in given.items() if value})
    merged = app.registry.merge(
        recipe,
        output=output,
        name=name,
        threads=threads,
        dry_run=dry_run,
        force=force,
        stream=stream,
        engine=engine,
        ray_address=ray_address,
    )
    if app.json:
        app.output.json(merged)
        return
    for remark in merged.remarks:
        app.output.remark(remark)
    if dry_run:
        _plan(app, merged)
    elif not merged.new:
        app.output.line(f"{merged.key} holds these very bytes already: {merged.folder}")
    else:
        if report:
            _report(app, merged)
        app.output.line(f"merged {merged.key} into {merged.folder}: {size(merged.bytes)}")
        _totals(app, merged)


def _recipe(path: Path | None, given: dict[str, object]) -> Recipe:
    from adreg.registry.merge.recipe import Recipe, read_recipe  # noqa: PLC0415  # start-up

    value = read_recipe(path).to_dict() if path is not None else {}
    if not value and "adapters" not in given:
        raise click.UsageError("name at least one adapter, or a recipe file with --recipe")
    try:
        return Recipe.from_dict({**value, **given})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _parameters(density: float | None, seed: int | None, texts: tuple[str, ...]) -> dict[str, Any]:
    """Return a method's parameters, of plain types as YAML reads them."""
    import yaml  # noqa: PLC0415  # start-up

    from adreg.registry.merge.recipe_file import UNREADABLE  # noqa: PLC0415  # start-up

    parameters: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--parameter {text!r} is not NAME=VALUE")
        try:
            parameters[name] = yaml.safe_load(value)
        except UNREADABLE:
            raise click.UsageError(f"--parameter {text!r} has no plain value") from None
    parameters |= {} if density is None else {"density": density}
    return parameters | ({} if seed is None else {"seed": seed})


def _weights(texts: tuple[str, ...]) -> dict[str, float]:
    from adreg.registry.merge.recipe import module_weight  # noqa: PLC0415  # start-up

    try:
        return dict(module_weight(text) for text in texts)
    except ValueError as error:
        raise click.UsageError(f"--weight: {error}") from None


def _totals(app: App, merged: Merged) -> None:
    """Tell what the merge did to the weights, and what rounding cost."""
    totals = merged.totals
    if totals is None or not totals.elements:
        return
    elements = totals.elements
    parts = [f"{100 * totals.changed / elements:.1f} % of {elements:,} elements changed"]
    if totals.base_norm:
        parts.append(f"|delta| is {100 * totals.delta_norm / totals.base_norm:.3g} % of |W|")
    parts.append(f"{100 * totals.lost / elements:.2g} % lost to rounding")
    if totals.worst_ulps is not None:
        parts.append(f"worst sampled error {totals.worst_ulps:.3g} ulp")
    app.output.line("; ".join(parts))


def _report(app: App, merged: Merged) -> None:
    app.output.table(
        _REPORT,
        [
            (
                one.name,
                one.action,
                f"{one.delta_norm:.4g}",
                f"{one.base_norm:.4g}",
                f"{100 * one.changed / max(1, one.elements):.2f}",
                f"{100 * one.lost / max(1, one.elements):.2f}",
                "" if one.worst_ulps is None else f"{one.worst_ulps:.3f}",
            )
            for one in merged.report
        ],
    )


def _plan(app: App, merged: Merged) -> None:
    counts = Counter(tensor.action for tensor in merged.tensors)
    app.output.table(
        _COLUMNS,
        [
            (t.name, t.action, t.dtype, "x".join(map(str, t.shape)), t.bytes, t.file)
            for t in merged.tensors
        ],
    )
    summary = ", ".join(f"{count} {action}" for action, count in sorted(counts.items()))
    place = f"{merged.name} from {merged.base} in {merged.folder}"
    app.output.line(f"{place}: {summary}; {merged.bytes:,} bytes")
