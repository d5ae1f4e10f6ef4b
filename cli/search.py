"""``adreg search``."""

from __future__ import annotations

import click

from adreg.cli.list import SORTS, page_options, tell
from adreg.cli.options import App, examples, json_option, pass_app
from adreg.registry.catalog.records import ListQuery


@click.command(
    "search",
    short_help="Find adapters and models by a condition.",
    epilog=examples(
        "adreg search 'rank>=16 and base:llama and (type:dora or target:q_proj)'",
        "adreg search 'support not tag:old' --sort date --reverse",
        "adreg search 'created>2026-11-01 size<50MB metric.accuracy>0.8' --json",
    ),
)
@click.argument("condition", nargs=-1, required=True, metavar="CONDITION...")
@page_options
@json_option
@pass_app
def command(
    app: App,
    *,
    condition: tuple[str, ...],
    versions: bool,
    sort: str,
    reverse: bool,
    limit: int,
) -> None:
    r"""Find the versions for which CONDITION holds, the newest of each name.

    Conditions are FIELD, an operator and a value, or a word that stands in the name, a
    tag or a note; they are joined by and, or, not and parentheses, and what stands side
    by side must hold together. Text fields take : for a part, = for all of it; numbers
    and dates take < <= > >= too.

    \b
      name base type target task tag alias note licence dtype method
      rank alpha size parameters version metric.NAME   (1.5GB, 7B)
      created                                          (2026-11-24, 2026-11, 7d ago)

    type:dora, type:rslora, type:model and type:adapter are understood too.
    """
    query = ListQuery(
        where=" ".join(condition),
        all_versions=versions,
        sort=SORTS[sort],
        descending=reverse,
        limit=limit or None,
    )
    tell(app, app.registry.list(query))
