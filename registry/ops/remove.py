"""Removing a version, or a name with all its versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adreg.registry.catalog import blobs, models, series, versions
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import Series, VersionKey
from adreg.registry.errors import InUse
from adreg.registry.names import Reference
from adreg.registry.ops import history, resolve
from adreg.registry.ops.context import Context


@dataclass(frozen=True, slots=True)
class Removed:
    """What went from the catalog, or would go.

    ``used_in`` are models that were built from it, which lose nothing but the way to
    rebuild them. ``folders`` are those of removed models, which stay where they are.
    ``blobs`` and ``bytes`` are the files that left the store, none while a backup reads it:
    `adreg gc` removes them later; None after a dry run, which does not ask what else
    refers to them.
    """

    versions: tuple[VersionKey, ...]
    used_in: tuple[VersionKey, ...]
    folders: tuple[Path, ...]
    blobs: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class _Target:
    keys: tuple[VersionKey, ...]
    whole: Series | None
    used_in: tuple[VersionKey, ...]
    folders: tuple[Path, ...]
    sizes: dict[str, int]


def remove(
    context: Context, reference: str, *, force: bool = False, dry_run: bool = False
) -> Removed:
    """Remove the version that a reference means; a bare name means all versions of it.

    The number of a removed version is never given again while the name lives. The
    folder of a removed model stays. Files that no other version is made of leave the
    store once the removal is committed. A dry run changes nothing.

    Raises InUse for what other models were built from, unless forced; NotFound;
    NameRefused.
    """
    parsed = resolve.parse(reference)
    if dry_run:
        with context.catalog.read() as connection:
            target = _target(connection, parsed)
            _check(target, force=force)
        return Removed(target.keys, target.used_in, target.folders, None, None)
    at = history.now()
    with context.catalog.write() as connection:
        target = _target(connection, parsed)
        _check(target, force=force)
        if target.whole is not None:
            loose = series.remove(connection, target.whole)
        else:
            loose = versions.remove(connection, target.keys[0])
        history.write(
            connection,
            at,
            "remove",
            str(target.keys[0]) if target.whole is None else target.whole.name,
            versions={str(key): key.digest for key in target.keys},
            used_in=[str(key) for key in target.used_in],
        )
        connection.commit()
    # A second transaction holds off whoever would add an adapter that is made of
    # these files between the question and the deletion. A crash before it leaves
    # files that nothing refers to, which harm nobody.
    with context.catalog.write() as connection:
        gone = blobs.unused(connection, loose)
        digests = (key.digest for key in target.keys if key.kind == "adapter")
        known = versions.find_by_digest
        snapshots = [one for one in digests if known(connection, "adapter", one) is None]
        left = context.store.discard(gone, snapshots)
    freed = sum(target.sizes[one] for one in gone) if left else 0
    return Removed(target.keys, target.used_in, target.folders, len(gone) if left else 0, freed)


def _target(connection: Connection, reference: Reference) -> _Target:
    if resolve.is_bare_name(reference):
        whole = series.get(connection, reference.name)
        found = series.versions(connection, whole)
        used_in = models.built_from_series(connection, whole.id)
    else:
        whole = None
        found = (resolve.unweighted(connection, reference),)
        used_in = models.built_from(connection, found[0].id)
    folders = tuple(models.facts(connection, k.id).location for k in found if k.kind == "model")
    files = (one for key in found for one in versions.files(connection, key.id))
    return _Target(found, whole, used_in, folders, {one.sha256: one.size for one in files})


def _check(target: _Target, *, force: bool) -> None:
    if target.used_in and not force:
        text = target.whole.name if target.whole is not None else str(target.keys[0])
        raise InUse(text, tuple(str(key) for key in target.used_in))
