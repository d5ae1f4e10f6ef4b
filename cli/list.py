"""``adreg list``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adreg.cli.options import App, complete_base, examples, json_option, pass_app
from adreg.cli.output import Column
from adreg.registry.catalog.records import Kind, ListQuery, ListRow, SortKey
from adreg.registry.names import Tag

if TYPE_CHECKING:
    from adreg.registry.ops.listing import Listing

Command = TypeVar("Command", bound=Callable[..., Any])

SORTS: dict[str, SortKey] = {"name": "name", "date": "created", "rank": "rank", "size": "bytes"}
_KINDS: dict[str | None, Kind | None] = {
    None: None,
    "all": None,
    "adapters": "adapter",
    "models": "model",
}
_RANKS = re.compile(r"(?P<from>\d{1,9})-(?P<to>\d{1,9})|(?P<sign>>=|<=|>|<|)(?P<one>\d{1,9})")
_COLUMNS = (
    Column("NAME"),
    Column("TYPE"),
    Column("RANK", "number"),
    Column("BASE"),
    Column("SIZE", "size"),
    Column("ADDED", "time"),
    Column("ALIASES"),
    Column("TAGS"),
)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks that are wanted, both ends included."""

    low: int | None
    high: int | None


def read_ranks(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Ranks | None:
    """Read ``16``, ``8-64``, ``>=16``, ``>16``, ``<=16`` or ``<16``; raise BadParameter."""
    if value is None:
        return None
    found = _RANKS.fullmatch(value.replace(" ", ""))
    if found is None:
        text = f"{value!r} is not a rank: write 16, 8-64, '>=16' or '<16'"
        raise click.BadParameter(text, context, parameter)
    if found["from"]:
        return Ranks(int(found["from"]), int(found["to"]))
    one = int(found["one"])
    return {
        "": Ranks(one, one),
        ">=": Ranks(one, None),
        ">": Ranks(one + 1, None),
        "<=": Ranks(None, one),
        "<": Ranks(None, one - 1),
    }[found["sign"]]


def page_options(command: Command) -> Command:
    """Give a command ``--versions``, ``--sort``, ``--reverse`` and ``--limit``."""
    decorators = (
        click.option(
            "--versions", is_flag=True, help="All versions, not just the newest of each name."
        ),
        click.option("--sort", type=click.Choice(list(SORTS)), default="name", show_default=True),
        click.option(
            "--reverse", is_flag=True, help="The other way round: newest or largest first."
        ),
        click.option(
            "--limit",
            type=click.IntRange(min=0),
            default=50,
            show_default=True,
            help="Lines at most; 0 for all.",
        ),
    )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


@click.command(
    "list",
    short_help="List adapters and models.",
    epilog=examples(
        "adreg list",
        "adreg list support --base smollm2 --rank 8-64 --sort date --reverse",
        "adreg list --tag lang=de --tag reviewed --json",
        "adreg list --models --limit 0",
    ),
)
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option(
    "--base", shell_complete=complete_base, default="", help="Made for this base, by name."
)
@click.option("--type", "peft_type", default="", help="PEFT type, like LORA.")
@click.option("--rank", callback=read_ranks, metavar="RANK", help="16, 8-64, '>=16' or '<16'.")
@click.option(
    "--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="With this tag; may be repeated."
)
@click.option("--all", "kind", flag_value="all", help="Adapters and models (default).")
@click.option("--adapters", "kind", flag_value="adapters", help="Only adapters.")
@click.option("--models", "kind", flag_value="models", help="Only merged models.")
@page_options
@json_option
@pass_app
def command(
    app: App,
    *,
    words: tuple[str, ...],
    base: str,
    peft_type: str,
    rank: Ranks | None,
    tags: tuple[str, ...],
    kind: str | None,
    sort: str,
    limit: int,
    versions: bool,
    reverse: bool,
) -> None:
    """List adapters and models, the newest version of each name.

    Every WORD must stand in the name, a tag or a note; every filter must hold.
    """
    found = app.registry.list(
        ListQuery(
            kind=_KINDS[kind],
            base=base,
            peft_type=peft_type,
            rank_min=None if rank is None else rank.low,
            rank_max=None if rank is None else rank.high,
            tags=tuple(Tag.parse(one) for one in tags),
            text=" ".join(words),
            all_versions=versions,
            sort=SORTS[sort],
            descending=reverse,
            limit=limit or None,
        )
    )
    tell(app, found)


def tell(app: App, found: Listing) -> None:
    """Print a page of a listing, and how much more there is."""
    if app.json:
        app.output.json(found)
    else:
        app.output.table(_COLUMNS, map(_line, found.rows))
    if (more := found.total - len(found.rows)) > 0:
        app.output.remark(f"{more:,} more; --limit 0 shows all")


def _line(row: ListRow) -> tuple[object, ...]:
    return (
        str(row.key),
        row.peft_type or "model",
        row.rank,
        row.base or row.base_hint,
        row.bytes,
        row.created_at,
        " ".join(row.aliases),
        " ".join(map(str, row.tags)),
    )
