"""Taking in all adapters of a tree: one after the other, each whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adreg.registry.adapters.peft_folder import find_adapters
from adreg.registry.errors import (
    AdregError,
    CatalogError,
    NameRefused,
    NotAnAdapter,
    WriteFailed,
)
from adreg.registry.names import Tag, check_alias, check_name, suggest_name
from adreg.registry.ops.add import Added, Wishes, add_read, default_name
from adreg.registry.ops.bases import open_base
from adreg.registry.ops.context import Context
from adreg.registry.ops.leftovers import take_back

_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True, slots=True)
class Refused:
    """A folder of the tree that was not taken in, and why."""

    path: Path
    error: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class TreeAdded:
    """What became of each adapter of a tree, in the order of their paths."""

    root: Path
    added: tuple[Added, ...]
    known: tuple[Added, ...]
    refused: tuple[Refused, ...]


def add_tree(  # noqa: PLR0913  # as ``add``
    context: Context,
    root: Path,
    *,
    name: str | None = None,
    base: str | None = None,
    tags: Sequence[Tag] = (),
    aliases: Sequence[str] = (),
    note: str | None = None,
    licence: str | None = None,
    convert_pickle: bool = False,
    dry_run: bool = False,
) -> TreeAdded:
    """Take in every adapter at or below ``root``; one that is refused does not stop the others.

    Names come from the paths: ``team/support`` for the folder of that name below
    ``root``; ``name``, a single part, is the team of all of them instead. The rest as
    ``add``. Raises what is wrong with the wishes, NotAnAdapter when the tree holds none,
    and what would befall every adapter: WriteFailed, DiskFull, CatalogError.
    """
    if name is not None and "/" in check_name(name):
        raise NameRefused("the name", name, "with --recursive it is the team: one part, no '/'")
    for alias in aliases:
        check_alias(alias)
    if not root.is_dir():
        raise NotAnAdapter(root, "there is no such folder")
    folders = tuple(find_adapters(root.absolute()))
    if not folders:
        raise NotAnAdapter(root, "no folder in it holds an adapter_config.json")
    if not dry_run:
        take_back(context)
    opened = open_base(context, base) if base is not None else None
    silent = Context(context.settings, context.catalog, context.store)
    done: list[Added] = []
    refused: list[Refused] = []
    context.progress.start(f"Adding {root.name or root}", len(folders), "items")
    try:
        for folder, called in zip(folders, tree_names(root.absolute(), folders, name), strict=True):
            marked = (tuple(tags), tuple(aliases), note, licence)
            wishes = Wishes(called, base, *marked, convert_pickle)
            try:
                done.append(add_read(silent, folder, wishes, opened, dry_run=dry_run))
            except AdregError as error:
                if _befalls_all(error):
                    raise
                refused.append(Refused(folder, type(error).__name__, error.sentence, error.hint))
            context.progress.advance(1)
    finally:
        context.progress.finish()
    return TreeAdded(
        root,
        tuple(one for one in done if one.new),
        tuple(one for one in done if not one.new),
        tuple(refused),
    )


def tree_names(root: Path, folders: Sequence[Path], team: str | None = None) -> tuple[str, ...]:
    """Make a name for each folder below ``root``; no two get the same, whatever the case."""
    taken: set[str] = set()
    names = []
    for folder in folders:
        wanted = name = _tree_name(root, folder, team)
        number = 1
        while name.casefold() in taken:
            number += 1
            start, slash, leaf = wanted.rpartition("/")
            name = f"{start}{slash}{leaf[:88]}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return tuple(names)


def _tree_name(root: Path, folder: Path, team: str | None) -> str:
    parts = list(folder.relative_to(root).parts)
    if not parts:
        name = default_name(root)
        return f"{team}/{name.rpartition('/')[2]}" if team else name
    if _CHECKPOINT.fullmatch(parts[-1]):
        run = parts[-2] if len(parts) > 1 else root.resolve().name
        parts[-2:] = [f"{run}-{parts[-1]}"]
    parts = [suggest_name(part) for part in parts]
    if team is None and len(parts) > 1:
        team, *parts = parts
    leaf = suggest_name("-".join(parts))
    return f"{team}/{leaf}" if team else leaf


def _befalls_all(error: AdregError) -> bool:
    return isinstance(error, WriteFailed | CatalogError)
