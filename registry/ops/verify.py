"""Reading what is stored through, and naming what is not as it was recorded; it changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adreg.registry import digest
from adreg.registry.adapters.files import CONFIG
from adreg.registry.catalog import adapters, blobs, listing, models, versions
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import ListQuery, VersionKey
from adreg.registry.digest import FileDigest
from adreg.registry.errors import CatalogError
from adreg.registry.ops import resolve
from adreg.registry.ops.context import Context
from adreg.registry.store.blobs import names_below
from adreg.registry.store.faults import Fault, find_fault

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What reading a row raises in which a flipped bit made a time or a list unreadable."""


@dataclass(frozen=True, slots=True)
class VersionVerified:
    """One version, where it lies, how much was read, and its faults by file name.

    ``catalog`` tells what the catalog says of it that cannot be so.
    """

    key: VersionKey
    folder: Path
    files: int
    bytes: int
    faults: tuple[Fault, ...]
    catalog: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found; ``unknown`` are files of the store that no version refers to."""

    versions: tuple[VersionVerified, ...]
    unknown: tuple[Path, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """All faults, one line each, with the version's name."""
        return tuple(
            f"{one.key}: {fault}" for one in self.versions for fault in (*one.faults, *one.catalog)
        )


def verify(context: Context, reference: str | None = None) -> Verified:
    """Re-hash one version or model, or all of them, and name what is damaged, missing or extra.

    What the catalog says of a version is checked too: the list of its files against its
    digest, its configuration against the file. Nothing is changed or repaired, and damage
    is in the answer, not an error. Raises NotFound and NameRefused, and CatalogError for a
    catalog that cannot be read.
    """
    try:
        with context.catalog.read() as connection:
            keys = _keys(connection, reference)
            work = [_work(context, connection, key) for key in keys]
            known = frozenset(blobs.every(connection)) if reference is None else None
    except UNREADABLE as error:
        raise unreadable(context, error) from error
    context.progress.start("Verifying", sum(one.bytes for one in work))
    try:
        done = tuple(_verify(context, one, context.progress.advance) for one in work)
    finally:
        context.progress.finish()
    unknown = () if known is None else _unknown(context, known, {key.digest for key in keys})
    if unknown or any(one.faults for one in done):
        done, unknown = _still(context, done, unknown)
    return Verified(done, unknown)


def unreadable(context: Context, error: Exception) -> CatalogError:
    """Return the error for a catalog with a row that raised one of ``UNREADABLE``."""
    reason = f"a row of it is damaged: {error}"
    advice = "Put a backup in its place, or keep what `sqlite3 FILE .recover` can read."
    return CatalogError(context.catalog.where, reason, advice)


def _still(
    context: Context, done: tuple[VersionVerified, ...], unknown: tuple[Path, ...]
) -> tuple[tuple[VersionVerified, ...], tuple[Path, ...]]:
    """Drop what others removed or recorded meanwhile: it is neither damaged nor unknown."""
    with context.catalog.read() as connection:
        keys = _all_keys(connection)
        known = blobs.every(connection).keys() | {one.digest for one in keys}
    there = {one.id for one in keys}
    return (
        tuple(one for one in done if not one.faults or one.key.id in there),
        tuple(path for path in unknown if path.name not in known and os.path.lexists(path)),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    key: VersionKey
    folder: Path
    files: tuple[FileDigest, ...]
    catalog: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def _keys(connection: Connection, reference: str | None) -> tuple[VersionKey, ...]:
    if reference is None:
        return _all_keys(connection)
    return (resolve.unweighted(connection, reference),)


def _all_keys(connection: Connection) -> tuple[VersionKey, ...]:
    rows = listing.rows(connection, ListQuery(all_versions=True))
    return tuple(row.key for row in rows)


def _work(context: Context, connection: Connection, key: VersionKey) -> _Work:
    files = versions.files(connection, key.id)
    is_model = key.kind == "model"
    folder = models.facts(connection, key.id).location if is_model else None
    folder = folder or context.store.folder(key.digest)
    wrong = []
    if digest.of_files(files) != key.digest:
        wrong.append("the catalog's list of its files is damaged: it has another digest")
    if not is_model:
        told = digest.of_bytes(adapters.facts(connection, key.id).config.encode())
        if told not in {file.sha256 for file in files if file.name == CONFIG}:
            wrong.append(f"the catalog's configuration is damaged: it is not that of {CONFIG}")
    return _Work(key, folder, files, tuple(wrong))


def _verify(context: Context, work: _Work, advance: Callable[[int], None]) -> VersionVerified:
    if work.key.kind == "model":
        faults = _model_faults(work, advance)
    else:
        faults = context.store.verify(work.key.digest, work.files, advance)
    read = len(work.files), work.bytes
    return VersionVerified(work.key, work.folder, *read, faults, work.catalog)


def _model_faults(work: _Work, advance: Callable[[int], None]) -> tuple[Fault, ...]:
    faults = [
        fault
        for file in work.files
        if (fault := find_fault(work.folder / file.name, file, advance)) is not None
    ]
    wanted = {file.name for file in work.files}
    faults += [
        Fault("extra", inside, work.folder / inside)
        for inside in names_below(work.folder)
        if inside not in wanted
    ]
    return tuple(sorted(faults, key=lambda fault: fault.name))


def _unknown(context: Context, known: frozenset[str], digests: set[str]) -> tuple[Path, ...]:
    stored, snapshots = context.store.stored()
    extra = [context.store.blob(one) for one in stored - known]
    extra += [context.store.folder(one) for one in snapshots - digests]
    return tuple(sorted(extra))
