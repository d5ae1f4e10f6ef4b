"""``adreg merge``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import Column, size

if TYPE_CHECKING:
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


@click.command(
    "merge",
    short_help="Merge adapters into a standalone checkpoint.",
    epilog=examples(
        "adreg merge team/support --base smollm2 -o ./support-merged",
        "adreg merge team/support@prod=0.7 team/tone=0.3 --name support-v2",
        "adreg merge --recipe recipe.yaml --dry-run",
    ),
)
@reference_argument("references", nargs=-1, required=False)
@click.option("--base", help="A base's name, a folder or OWNER/REPO; else the adapters' own.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder to make; else one in the registry.",
)
@click.option("--name", help="The model's name; else the first adapter's with '-merged'.")
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
@click.option("--threads", type=click.IntRange(1), help="Threads that compute; else the cores.")
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@json_option
@pass_app
def command(  # one argument an option
    app: App,
    references: tuple[str, ...],
    base: str | None,
    output: Path | None,
    name: str | None,
    dtype: str | None,
    max_shard_size: str | None,
    precision: str | None,
    tokenizer: str | None,
    recipe_file: Path | None,
    threads: int | None,
    *,
    dry_run: bool,
) -> None:
    r"""Fold adapters into a base's weights and write a checkpoint that needs no PEFT.

    Each REF may have a weight (REF=0.5); the weighted deltas are summed in float32 and
    rounded once. The folder appears whole or not at all. A recipe file:

    \b
      base: smollm2
      adapters:
        - {ref: team/support@prod, weight: 0.7}
        - team/tone
      dtype: bfloat16
    """
    given = {
        "base": base,
        "adapters": list(references) or None,
        "dtype": dtype,
        "max_shard_size": max_shard_size,
        "precision": precision,
        "tokenizer": tokenizer,
    }
    recipe = _recipe(recipe_file, {key: value for key, value in given.items() if value})
    merged = app.registry.merge(recipe, output=output, name=name, threads=threads, dry_run=dry_run)
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
        share = 100 * merged.changed / max(1, merged.elements)
        app.output.line(
            f"merged {merged.key} into {merged.folder}: {size(merged.bytes)},"
            f" {share:.1f} % of {merged.elements:,} elements changed"
        )


def _recipe(path: Path | None, given: dict[str, object]) -> Recipe:
    from adreg.registry.merge.recipe import Recipe, read_recipe  # noqa: PLC0415  # start-up

    value = read_recipe(path).to_dict() if path is not None else {}
    if not value and "adapters" not in given:
        raise click.UsageError("name at least one adapter, or a recipe file with --recipe")
    try:
        return Recipe.from_dict({**value, **given})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


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
