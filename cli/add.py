"""``adreg add``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adreg.cli.options import App, complete_base, examples, json_option, pass_app
from adreg.cli.output import count, size

if TYPE_CHECKING:
    from adreg.registry.ops.add import Added
    from adreg.registry.ops.add_tree import TreeAdded


@click.command(
    "add",
    short_help="Add adapters from PEFT folders and other formats.",
    epilog=examples(
        "adreg add runs/support --name team/support --base smollm2 --tag lang=de --alias prod",
        "adreg add runs --recursive --tag imported",
        "adreg add runs/support --dry-run",
        "adreg add old/alpaca-lora --convert-pickle",
        "adreg add support.gguf --base smollm2",
        "adreg add state_dict.safetensors --alpha 16 --base smollm2",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="NAME or TEAM/NAME, else the folder's; with --recursive the TEAM.")
@click.option(
    "--base",
    shell_complete=complete_base,
    help="The base it was trained on: a base's name, a folder, OWNER/REPO.",
)
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="May be repeated.")
@click.option("--alias", "aliases", multiple=True, help="A movable name; may be repeated.")
@click.option("--note", help="A remark.")
@click.option("--license", "licence", help="Its licence, instead of what its card says.")
@click.option("--convert-pickle", is_flag=True, help="Read a pickle too, as nothing but tensors.")
@click.option("--alpha", type=float, help="LoRA's alpha, for formats that do not hold it.")
@click.option("--component", metavar="NAME", help="The part of a pipeline, if it is for several.")
@click.option("-r", "--recursive", is_flag=True, help="Every adapter at or below PATH.")
@click.option("--dry-run", is_flag=True, help="Check everything, and record nothing.")
@json_option
@pass_app
def command(
    app: App,
    *,
    path: Path,
    name: str | None,
    base: str | None,
    tags: tuple[str, ...],
    aliases: tuple[str, ...],
    note: str | None,
    licence: str | None,
    convert_pickle: bool,
    alpha: float | None,
    component: str | None,
    recursive: bool,
    dry_run: bool,
) -> None:
    """Check the adapter at PATH, copy it into the store and record it.

    PATH is a PEFT folder, or one of these, which are converted to one: a PEFT folder with
    a pickle (--convert-pickle), mlx-lm's folder, a loralib state dict (--alpha), a LoRA of
    kohya or diffusers, a GGUF LoRA of llama.cpp. Kohya's and GGUF's need --base.

    The same bytes again make no second version. A changed adapter of the same name
    becomes the next version. On any error nothing is recorded.
    """
    wishes: dict[str, Any] = {
        "name": name,
        "base": base,
        "tags": tags,
        "aliases": aliases,
        "note": note,
        "licence": licence,
        "convert_pickle": convert_pickle,
        "dry_run": dry_run,
    }
    if recursive:
        if alpha is not None or component is not None:
            raise click.UsageError("--alpha and --component are for one adapter, not a tree")
        app.stopped = "stopped; the adapters that were added before are recorded"
        _tell_tree(app, app.registry.add_tree(path, **wishes), dry_run=dry_run)
        return
    added = app.registry.add(path, alpha=alpha, component=component, **wishes)
    if app.json:
        app.output.json(_plain(added))
        return
    app.output.line(_line(added, dry_run=dry_run))
    for remark in added.remarks:
        app.output.remark(remark)
    for file, reason in added.left_out:
        app.output.remark(f"left out {file}: {reason}")


def _tell_tree(app: App, done: TreeAdded, *, dry_run: bool) -> None:
    if app.json:
        app.output.json(
            {
                "added": [_plain(one) for one in done.added],
                "known": [_plain(one) for one in done.known],
                "refused": done.refused,
            }
        )
    else:
        for one in (*done.added, *done.known):
            app.output.line(_line(one, dry_run=dry_run))
        for refusal in done.refused:
            app.output.remark(f"refused {refusal.message}")
        verb = "would be added" if dry_run else "added"
        app.output.remark(
            f"{len(done.added):,} {verb}, {len(done.known):,} known already,"
            f" {len(done.refused):,} refused"
        )
    if done.refused:
        raise click.exceptions.Exit(1)


def _plain(added: Added) -> dict[str, Any]:
    facts = {one.name: getattr(added, one.name) for one in fields(added)}
    return {"reference": added.reference, **facts}


def _line(added: Added, *, dry_run: bool) -> str:
    if not added.new:
        again = " (its stored files were damaged, and are whole again)" if added.repaired else ""
        what = f", converted from {added.converted}," if added.converted else ""
        return f"{added.path}{what} is known already, as {added.reference}{again}"
    verb = "would add" if dry_run else "added"
    what = f"{added.peft_type} rank {added.rank}, {count(added.parameters)} parameters"
    fits = ""
    if added.verdict is not None:
        fits = f", for {added.base} ({added.verdict.grade.value})"
    how = f", converted from {added.converted}" if added.converted else ""
    return f"{verb} {added.reference}: {what}, {size(added.bytes)}{fits}{how}"
