"""Taking in all adapters of a tree: some at a time, each whole or not at all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adreg.registry.adapters.peft_folder import find_adapters
from adreg.registry.errors import AdregError, NameRefused, NotAnAdapter
from adreg.registry.names import Tag, check_alias, check_name, suggest_name
from adreg.registry.ops.adding import Added, Wishes, default_name
from adreg.registry.ops.bases import OpenedBase, open_base
from adreg.registry.ops.context import Context
from adreg.registry.ops.intake import Intake, befalls_all
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
    wishes = Wishes(None, base, tuple(tags), tuple(aliases), note, licence, convert_pickle)
    done: list[Added] = []
    refused: list[tuple[int, Refused]] = []
    context.progress.start(f"Adding {root.name or root}", len(folders), "items")
    try:
        with Intake(context, dry_run=dry_run) as intake:
            tree = _Tree(context, intake, folders)
            names = tree_names(root.absolute(), folders, name)
            for index, called in enumerate(names):
                tree.put(index, replace(wishes, name=called), opened)
            tree.commit()
            done, refused = tree.done, sorted(tree.refused, key=lambda one: one[0])
    finally:
        context.progress.finish()
    return TreeAdded(
        root,
        tuple(one for one in done if one.new),
        tuple(one for one in done if not one.new),
        tuple(one for _, one in refused),
    )


class _Tree:
    """The adapters of a tree on their way in, and what became of those before."""

    def __init__(self, context: Context, intake: Intake, folders: Sequence[Path]) -> None:
        self._progress = context.progress
        self._intake = intake
        self._folders = folders
        self._put: list[int] = []
        self.done: list[Added] = []
        self.refused: list[tuple[int, Refused]] = []

    def put(self, index: int, wishes: Wishes, opened: OpenedBase | None) -> None:
        """Stage one adapter; now and then all that are staged are recorded."""
        try:
            self._intake.put(self._folders[index], wishes, opened)
        except AdregError as error:
            if befalls_all(error):
                # Those before it are whole; a disk that takes no more may still take them.
                with contextlib.suppress(AdregError):
                    self.commit()
                raise
            self._refuse(index, error)
            return
        self._put.append(index)
        if self._intake.is_full:
            self.commit()

    def commit(self) -> None:
        """Record all that is staged; the progress tells of no adapter before."""
        put, self._put = self._put, []
        for index, outcome in zip(put, self._intake.commit(), strict=True):
            if isinstance(outcome, AdregError):
                self._refuse(index, outcome)
            else:
                self.done.append(outcome)
                self._progress.advance(1)

    def _refuse(self, index: int, error: AdregError) -> None:
        one = Refused(self._folders[index], type(error).__name__, error.sentence, error.hint)
        self.refused.append((index, one))
        self._progress.advance(1)


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
