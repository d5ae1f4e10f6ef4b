"""``adreg pull``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adreg.cli.options import App, complete_base, examples, json_option, pass_app
from adreg.cli.output import count, several, size

if TYPE_CHECKING:
    from adreg.registry.ops.pull import Pulled, PulledAll


@click.command(
    "pull",
    short_help="Pull adapters from the Hugging Face Hub.",
    epilog=examples(
        "adreg pull someone/support-lora --name team/support --base smollm2 --alias prod",
        "adreg pull someone/support-lora@v2",
        "adreg pull someone/many --subfolder checkpoint-500",
        "adreg pull --all-from someone --filter base_model:adapter:HuggingFaceTB/SmolLM2-135M",
        "adreg pull --from adapters.txt",
        "adreg pull --update",
    ),
)
@click.argument("repos", nargs=-1, metavar="[OWNER/REPO[@REVISION]]...")
@click.option("--name", help="NAME or TEAM/NAME, else OWNER/REPO; of several the TEAM.")
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
@click.option("--subfolder", metavar="FOLDER", help="The adapter in this folder of the repository.")
@click.option("--all", "every", is_flag=True, help="Every adapter of the repository.")
@click.option("--all-from", "owner", metavar="OWNER", help="All adapters of an owner.")
@click.option("--filter", "filters", multiple=True, metavar="TAG", help="Only with this Hub tag.")
@click.option("--from", "listed", metavar="FILE", help="A file with one repository a line, or -.")
@click.option("--update", is_flag=True, help="What was pulled before, all or these names, again.")
@click.option("--fetch-base", is_flag=True, help="Fetch its base into the Hugging Face cache too.")
@click.option("--dry-run", is_flag=True, help="Say what would come, and fetch nothing.")
@json_option
@pass_app
def command(
    app: App,
    /,
    *,
    repos: tuple[str, ...],
    listed: str | None,
    update: bool,
    owner: str | None,
    filters: tuple[str, ...],
    dry_run: bool,
    **wishes: Any,  # noqa: ANN401  # handed through
) -> None:
    """Fetch adapters from the Hub, verify every byte, and add them as `adreg add` does.

    Only what an adapter needs is fetched. Each file is compared with the digest that the
    Hub names while it comes; what came before a failure is kept, and the next pull goes
    on there. An adapter that has not changed costs one request.

    A token is taken from HF_TOKEN or from `hf auth login`, another Hub from HF_ENDPOINT.
    """
    if sum((bool(repos) and not update, bool(listed), update, owner is not None)) != 1:
        raise click.UsageError("name repositories, or one of --from, --all-from and --update")
    if filters and owner is None:
        raise click.UsageError("--filter is for --all-from")
    app.stopped = "stopped; what was fetched is kept for the next pull"
    if update:
        kept = {key: wishes.pop(key) for key in ("tags", "aliases")}
        if given := [key for key, value in wishes.items() if value]:
            raise click.UsageError(f"--update keeps names and bases: leave out {given[0]!r}")
        done = app.registry.update(repos, **kept, dry_run=dry_run)
    else:
        texts = _read(listed) if listed else repos
        done = app.registry.pull(texts, owner=owner, filters=filters, dry_run=dry_run, **wishes)
    _tell(app, done, dry_run=dry_run)


def _read(listed: str) -> list[str]:
    """Return the repositories of a list: one a line, ``#`` begins a remark."""
    try:
        text = sys.stdin.read() if listed == "-" else Path(listed).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--from {listed}: {error}") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _tell(app: App, done: PulledAll, *, dry_run: bool) -> None:
    if app.json:
        app.output.json(done)
    else:
        for one in done.pulled:
            app.output.line(_line(one, dry_run=dry_run))
            for remark in one.added.remarks if one.added is not None else ():
                app.output.remark(remark)
        for refusal in done.refused:
            app.output.remark(f"refused {refusal.message}")
        if len(done.pulled) + len(done.refused) != 1:
            new = sum(one.new for one in done.pulled)
            app.output.remark(
                f"{several(new, 'adapter')} {'would come' if dry_run else 'pulled'},"
                f" {len(done.pulled) - new:,} known already, {len(done.refused):,} refused"
            )
    if done.refused:
        raise click.exceptions.Exit(1)


def _line(one: Pulled, *, dry_run: bool) -> str:
    place = "/".join(part for part in (one.repo, one.subfolder) if part)
    where = f"{place} at {one.commit[:12]}"
    if not one.new:
        return f"{where} is known already, as {one.reference}"
    if dry_run:
        files = several(len(one.files), "file")
        return f"would pull {where} as {one.name}: {files}, {size(one.fetched)} to fetch"
    what = ""
    if one.added is not None:
        added = one.added
        what = f": {added.peft_type} rank {added.rank}, {count(added.parameters)} parameters"
        if added.verdict is not None:
            what += f", for {added.base} ({added.verdict.grade.value})"
    return f"pulled {where} as {one.reference}{what}, {size(one.fetched)} fetched"
