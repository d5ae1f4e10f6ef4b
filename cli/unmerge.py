"""``adreg unmerge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adreg.cli.options import (
    App,
    complete_base,
    complete_reference,
    examples,
    json_option,
    pass_app,
)
from adreg.cli.output import several, size

if TYPE_CHECKING:
    from adreg.registry.ops.unmerge import Unmerged


@click.command(
    "unmerge",
    short_help="Take an adapter out of a merged model again.",
    epilog=examples(
        "adreg unmerge support-merged team/support -o ./restored",
        "adreg unmerge bot team/tone --name bot-plain",
        "adreg unmerge ./merged team/support=0.7 --base smollm2 -o ./restored",
    ),
)
@click.argument("model", metavar="MODEL", shell_complete=complete_reference)
@click.argument(
    "references",
    nargs=-1,
    required=True,
    metavar="REF[=WEIGHT]...",
    shell_complete=complete_reference,
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder to make; else one in the registry.",
)
@click.option("--name", help="The new model's name; else the model's with '-unmerged'.")
@click.option(
    "--base",
    shell_complete=complete_base,
    metavar="BASE",
    help="What to compare with, if not the recorded base.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads that compute; else the cores.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@json_option
@pass_app
def command(  # one argument an option
    app: App,
    model: str,
    references: tuple[str, ...],
    output: Path | None,
    name: str | None,
    base: str | None,
    threads: int | None,
    *,
    dry_run: bool,
) -> None:
    """Subtract adapters' deltas from a merged model, and write the outcome as a new model.

    MODEL is a model in the catalog, or the folder of a checkpoint. An adapter is taken out
    as many times as is recorded, unless its WEIGHT is given. Two roundings are left, of
    the merge and of this: compared with the base where that is at hand and nothing else
    was merged in. DoRA, modules_to_save and trained biases take the place of the base's
    values and cannot be subtracted.
    """
    found = app.registry.unmerge(
        model,
        references,
        output=output,
        name=name,
        base=base,
        threads=threads,
        dry_run=dry_run,
    )
    if app.json:
        app.output.json(found)
        return
    for remark in found.merged.remarks:
        app.output.remark(remark)
    _print(app, found)


def _print(app: App, found: Unmerged) -> None:
    merged = found.merged
    taken = ", ".join(f"{weight:g} x {name}" for name, weight in found.adapters)
    if merged.dry_run:
        count = sum(tensor.action == "merge" for tensor in merged.tensors)
        app.output.line(
            f"{merged.name} in {merged.folder}: {found.model} without {taken};"
            f" {several(count, 'tensor')} of {len(merged.tensors):,} change, {merged.bytes:,} bytes"
        )
        return
    app.output.line(
        f"took {taken} out of {found.model}: {merged.key} in {merged.folder}, {size(merged.bytes)}"
    )
    if found.left:
        left = ", ".join(f"{weight:g} x {name}" for name, weight in found.left)
        app.output.line(f"still in it: {left}")
    if found.distance is not None:
        one = found.distance
        same, near = (100 * count / max(1, one.elements) for count in (one.identical, one.near))
        app.output.line(
            f"against {found.base}: {same:.2f} % of {one.elements:,} elements have the same bits,"
            f" {near:.2f} % are at most 1 unit in the last place off; the worst are"
            f" {several(one.ulps, 'unit')} off ({one.tensor}) and {one.largest:.2e} off"
        )
    app.output.line(f"rounding that may be left: {found.bound:.2e} in any element")
