"""Sweeping what nothing refers to any more, and telling why each of it goes or stays.

Nothing that a running command has staged is touched: each holds a file lock for its life,
and files that are put into the store while the catalog is not told yet are put there
inside its write transaction, within which this looks again before it removes.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from adreg.registry import durable
from adreg.registry.catalog import blobs, versions
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.replacing import is_empty
from adreg.registry.durable import fsync_folder, write_error
from adreg.registry.ops.context import Context
from adreg.registry.ops.leftovers import take_back
from adreg.registry.store.leases import is_held, is_leased

GRACE = 24 * 3600.0
"""Seconds that what nothing refers to is left alone, unless told otherwise."""

ItemKind = Literal["blob", "snapshot", "staging", "download", "model", "lease", "quarantine"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNUSED = "nothing refers to it"
_STAGED = ".*.adreg-*.lock"
_FOREIGN = "the catalog is empty: that of these files may be another (see ADREG_DATABASE_URL)"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that the catalog does not refer to: whether it goes, and why or why not."""

    kind: ItemKind
    path: Path
    bytes: int
    removed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Swept:
    """What was found; after a dry run ``removed`` of an item means that it would go.

    ``used`` are the blobs that versions refer to, which are not among the items.
    """

    items: tuple[Item, ...]
    used: int
    dry_run: bool

    @property
    def freed(self) -> int:
        """Bytes of all that goes."""
        return sum(item.bytes for item in self.items if item.removed)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is old enough: last changed at ``before``, in seconds of the epoch, or earlier."""

    before: float
    dry_run: bool
    quarantine: bool

    def judge(self, kind: ItemKind, path: Path, held: str | None = None) -> Item:
        size, changed = _measure(path)
        if held is not None:
            return Item(kind, path, size, removed=False, reason=held)
        if changed > self.before:
            return Item(kind, path, size, removed=False, reason="it is younger than the grace")
        return Item(kind, path, size, removed=True, reason=_UNUSED)


def gc(
    context: Context,
    grace: float = GRACE,
    *,
    dry_run: bool = False,
    quarantine: bool = False,
) -> Swept:
    """Remove what no version refers to and nobody has touched for ``grace`` seconds.

    That are blobs and snapshots, what killed commands staged, downloads that came and
    were not taken in, merged models in the registry's own folder that it does not know,
    and, if asked, the quarantine. A dry run changes nothing. Raises CatalogError, WriteFailed.
    """
    rule = _Rule(time.time() - grace, dry_run, quarantine)
    try:
        items = [*_staged(context, rule), *_leases(context, rule)]
        stored, used = _stored(context, rule)
        items += [*stored, *_models(context, rule), *_downloads(context, rule)]
        items += _quarantined(context, rule)
    except OSError as error:
        raise write_error(context.settings.home, error) from error
    return Swept(tuple(sorted(items, key=lambda item: (item.kind, item.path))), used, dry_run)


def _staged(context: Context, rule: _Rule) -> list[Item]:
    """What commands that were killed left half done; what can be gone on with stays a week."""
    models, home = context.settings.models, context.settings.home
    locks = [
        *sorted((context.store.root / "staging").glob("*.lock")),
        *sorted(models.glob(_STAGED)),
        *sorted(home.glob(_STAGED)),
    ]
    items = [_of_command(lock) for lock in locks]
    if not rule.dry_run and any(item.removed for item in items):
        take_back(context)
        for parent in (models, home):
            durable.sweep(parent)
    return items


def _of_command(lock: Path) -> Item:
    folder, journal = lock.with_suffix(""), lock.with_suffix(".journal")
    size, _ = _measure(folder)
    if is_held(lock):
        return Item("staging", folder, size, removed=False, reason="a running command has it")
    with suppress(OSError):
        if folder.is_dir() and time.time() - journal.stat().st_mtime < durable.KEPT_FOR:
            reason = "the same merge can go on from it"
            return Item("staging", folder, size, removed=False, reason=reason)
    return Item("staging", folder, size, removed=True, reason="its command is gone")


def _leases(context: Context, rule: _Rule) -> list[Item]:
    items = []
    for lock in sorted((context.store.root / "leases").glob("*.lock")):
        held = is_held(lock)
        reason = "a running command has it" if held else "its command is gone"
        items.append(Item("lease", lock, 0, not held, reason))
        if not held and not rule.dry_run:
            lock.unlink(missing_ok=True)
    return items


def _stored(context: Context, rule: _Rule) -> tuple[list[Item], int]:
    """Blobs and snapshots: looked at first, and asked for again where they are removed."""
    store = context.store
    files, folders = store.stored()
    with context.catalog.read() as connection:
        used = len(blobs.every(connection))
        loose_files, loose_folders = _loose(connection, files, folders)
        held = _FOREIGN if is_empty(connection) else None
    held = "a running command reads the store" if is_leased(store.root) else held
    items = [rule.judge("blob", store.blob(one), _strange(one) or held) for one in loose_files]
    items += [
        rule.judge("snapshot", store.folder(one), _strange(one) or held) for one in loose_folders
    ]
    going = {item.path.name for item in items if item.removed}
    if rule.dry_run or not going:
        return items, used
    with context.catalog.write() as connection:
        gone = _loose(connection, going & set(loose_files), going & set(loose_folders))
        done = store.discard(*gone)
    removed = {*map(store.blob, gone[0]), *map(store.folder, gone[1])} if done else set()
    why = "it came into use" if done else "a running command reads the store"
    return [
        item if not item.removed or item.path in removed else _kept(item, why) for item in items
    ], used


def _loose(
    connection: Connection, files: Iterable[str], folders: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Return those of the blobs and snapshots that no version refers to."""
    drawn = sorted(folders)
    known = versions.find_by_digests(connection, "adapter", drawn)
    return list(blobs.unused(connection, files)), [one for one in drawn if one not in known]


def _strange(name: str) -> str | None:
    return None if _SHA256.fullmatch(name) else "adreg gives no such name"


def _models(context: Context, rule: _Rule) -> list[Item]:
    """Merged models in the registry's own folder."""
    parent = context.settings.models
    if not parent.is_dir():
        return []
    with context.catalog.read() as connection:
        unknown = _unknown(connection, parent)
        items = [rule.judge("model", one, _doubt(context, connection, one)) for one in unknown]
    going = [item.path for item in items if item.removed]
    if rule.dry_run or not going:
        return items
    lock = FileLock(parent / f".gone.adreg-{uuid.uuid4().hex[:12]}.lock")
    bin_ = Path(lock.lock_file).with_suffix("")
    with lock:
        bin_.mkdir()
        # A merge publishes and records in one write transaction: it is known by now, or gone.
        with context.catalog.write() as connection:
            gone = set(_unknown(connection, parent)) & set(going)
            for one in gone:
                one.rename(bin_ / one.name)
            fsync_folder(parent)
        shutil.rmtree(bin_)
        Path(lock.lock_file).unlink(missing_ok=True)
    return [
        item if not item.removed or item.path in gone else _kept(item, "it came into use")
        for item in items
    ]


def _unknown(connection: Connection, parent: Path) -> list[Path]:
    """Return what lies in the folder of models and is, or holds, none that the catalog knows."""
    known = {Path(text).resolve() for text in blobs.folders(connection)}
    known |= {above for one in known for above in one.parents}
    return [
        path
        for path in sorted(parent.iterdir())
        if not path.name.startswith(".") and path.resolve() not in known
    ]


def _doubt(context: Context, connection: Connection, path: Path) -> str | None:
    """Say why a model that the catalog does not know may be somebody's all the same."""
    if not _is_folder(path):
        return "it is no folder of a model's"
    if is_empty(connection):
        return _FOREIGN
    if replaced := sorted(context.settings.home.glob("before-restore-*")):
        return f"the registry that is kept in {replaced[-1].name} may know it"
    # A home that was moved: the catalog still says where its models lay before.
    lost = (one for one in map(Path, blobs.folders(connection)) if not one.exists())
    if path.name in {part for one in lost for part in one.parts}:
        return "a model that the catalog misses had its name: was the home moved?"
    return None


def _downloads(context: Context, rule: _Rule) -> list[Item]:
    """What came from the Hub and was not taken in, a repository after the other."""
    items = []
    for folder in sorted(context.settings.downloads.glob("models--*")):
        if not _is_folder(folder):
            continue
        path = folder.with_name(f"{folder.name}.lock")
        here = sorted([*folder.glob("blobs/*"), *folder.glob("snapshots/*")])
        lock = FileLock(path)
        try:
            if not rule.dry_run:
                lock.acquire(timeout=0)
            held = "a running pull has it" if rule.dry_run and is_held(path) else None
        except Timeout:
            held = "a running pull has it"
        judged = [rule.judge("download", one, held) for one in here]
        items += judged
        try:
            for item in judged if not rule.dry_run else ():
                if item.removed:
                    _delete(item.path)
        finally:
            lock.release()
    return items


def _quarantined(context: Context, rule: _Rule) -> list[Item]:
    items = []
    kept = None if rule.quarantine else "damaged files stay, unless --quarantine is given"
    for path in sorted((context.store.root / "quarantine").glob("*")):
        item = rule.judge("quarantine", path, kept)
        items.append(item)
        if item.removed and not rule.dry_run:
            _delete(path)
    return items


def _kept(item: Item, reason: str) -> Item:
    return replace(item, removed=False, reason=reason)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _delete(path: Path) -> None:
    shutil.rmtree(path) if _is_folder(path) else path.unlink(missing_ok=True)


def _below(folder: Path) -> Iterator[Path]:
    """Give a folder and all in it; rglob would raise for what goes meanwhile (Python 3.11)."""
    for parent, _, files in os.walk(folder):
        yield Path(parent)
        yield from (Path(parent, name) for name in files)


def _measure(path: Path) -> tuple[int, float]:
    """Return the bytes of a file or of all below a folder, and when any was last changed."""
    size, changed = 0, 0.0
    for one in _below(path) if _is_folder(path) else (path,):
        with suppress(OSError):  # it has just gone
            seen = one.lstat()
            size += seen.st_size if stat.S_ISREG(seen.st_mode) else 0
            changed = max(changed, seen.st_mtime)
    return size, changed
