"""Reading what is stored through, and naming what is not as it was recorded; it changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adreg.registry.catalog import blobs, listing, models, versions
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import ListQuery, VersionKey
from adreg.registry.digest import FileDigest
from adreg.registry.ops import resolve
from adreg.registry.ops.context import Context
from adreg.registry.store.faults import Fault, find_fault


@dataclass(frozen=True, slots=True)
class VersionVerified:
    """One version, where it lies, how much was read, and its faults by file name."""

    key: VersionKey
    folder: Path
    files: int
    bytes: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found; ``unknown`` are files of the store that no version refers to."""

    versions: tuple[VersionVerified, ...]
    unknown: tuple[Path, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """All faults, one line each, with the version's name."""
        return tuple(f"{one.key}: {fault}" for one in self.versions for fault in one.faults)


def verify(context: Context, reference: str | None = None) -> Verified:
    """Re-hash one version or model, or all of them, and name what is damaged, missing or extra.

    Nothing is changed or repaired, and damage is in the answer, not an error. Raises
    NotFound and NameRefused.
    """
    with context.catalog.read() as connection:
        keys = _keys(connection, reference)
        work = [_work(context, connection, key) for key in keys]
        known = frozenset(blobs.every(connection)) if reference is None else None
    context.progress.start("Verifying", sum(one.bytes for one in work))
    try:
        done = tuple(_verify(context, one, context.progress.advance) for one in work)
    finally:
        context.progress.finish()
    unknown = () if known is None else _unknown(context, known, {key.digest for key in keys})
    return Verified(done, unknown)


@dataclass(frozen=True, slots=True)
class _Work:
    key: VersionKey
    folder: Path
    files: tuple[FileDigest, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def _keys(connection: Connection, reference: str | None) -> tuple[VersionKey, ...]:
    if reference is None:
        rows = listing.rows(connection, ListQuery(all_versions=True))
        return tuple(row.key for row in rows)
    return (resolve.unweighted(connection, reference),)


def _work(context: Context, connection: Connection, key: VersionKey) -> _Work:
    files = versions.files(connection, key.id)
    if key.kind == "model":
        return _Work(key, models.facts(connection, key.id).location, files)
    return _Work(key, context.store.folder(key.digest), files)


def _verify(context: Context, work: _Work, advance: Callable[[int], None]) -> VersionVerified:
    if work.key.kind == "model":
        faults = _model_faults(work, advance)
    else:
        faults = context.store.verify(work.key.digest, work.files, advance)
    return VersionVerified(work.key, work.folder, len(work.files), work.bytes, faults)


def _model_faults(work: _Work, advance: Callable[[int], None]) -> tuple[Fault, ...]:
    faults = [
        fault
        for file in work.files
        if (fault := find_fault(work.folder / file.name, file, advance)) is not None
    ]
    wanted = {file.name for file in work.files}
    for where, _, names in os.walk(work.folder):
        for name in names:
            path = Path(where) / name
            inside = path.relative_to(work.folder).as_posix()
            if inside not in wanted:
                faults.append(Fault("extra", inside, path))
    return tuple(sorted(faults, key=lambda fault: fault.name))


def _unknown(context: Context, known: frozenset[str], digests: set[str]) -> tuple[Path, ...]:
    stored, snapshots = context.store.stored()
    extra = [context.store.blob(one) for one in stored - known]
    extra += [context.store.folder(one) for one in snapshots - digests]
    return tuple(sorted(extra))
