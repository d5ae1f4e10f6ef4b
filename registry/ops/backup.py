"""The whole registry in one file: its catalog at one moment, and all files that it refers to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from adreg.registry import digest
from adreg.registry.catalog import blobs, listing, versions
from adreg.registry.catalog.engine import Catalog, Connection
from adreg.registry.catalog.records import ListQuery, ListRow
from adreg.registry.digest import FileDigest
from adreg.registry.durable import (
    FileWriter,
    Staging,
    fsync_folder,
    require_space,
    sweep,
    write_error,
)
from adreg.registry.errors import Damaged, OutputRefused
from adreg.registry.ops.context import Context
from adreg.registry.ops.verify import UNREADABLE, unreadable
from adreg.registry.settings import Settings
from adreg.registry.store import archive

_ADVICE = "Name a file that does not exist yet."


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A backup: its file, with its bytes and SHA-256, and what is in it.

    ``models`` are merged models whose recipes are in it and whose folders are not.
    """

    path: Path
    bytes: int
    sha256: str
    versions: int
    models: int
    blobs: int


def backup(context: Context, target: Path) -> BackedUp:
    """Write the catalog and every blob into one new file, hashing all on the way.

    It is the registry at one moment, however many write meanwhile: the catalog is copied
    first, under a lease that keeps its blobs from being removed. All or nothing.

    Raises OutputRefused, Damaged for stored bytes that are not what was recorded,
    CatalogError where there is no catalog or it is on a server, WriteFailed, DiskFull.
    """
    target = target.absolute()
    if os.path.lexists(target):
        raise OutputRefused(target, "something is there", _ADVICE)
    context.catalog.require_file()
    sweep(target.parent)
    with context.store.lease(), Staging(target) as staging:
        copy = staging.folder / archive.CATALOG
        context.catalog.copy(copy)
        with Catalog(Settings.at(staging.folder)).read() as connection:
            sizes = blobs.every(connection)
            rows = _rows(context, connection)
        manifest = archive.Manifest(
            adreg=version("adreg"),
            catalog=digest.of_file(copy),
            catalog_bytes=copy.stat().st_size,
            blobs=len(sizes),
            bytes=sum(sizes.values()),
        )
        require_space(target.parent, manifest.catalog_bytes + manifest.bytes)
        made = staging.folder / "backup.tar"
        context.progress.start("Backing up", manifest.catalog_bytes + manifest.bytes)
        try:
            with FileWriter(made, large=True) as writer:
                members = _members(context, sizes)
                archive.write(writer, manifest, copy, members, context.progress.advance)
        finally:
            context.progress.finish()
        _publish(made, target)
        done = writer.digest(target.name)
    models = sum(row.key.kind == "model" for row in rows)
    return BackedUp(target, done.size, done.sha256, len(rows), models, len(sizes))


def _rows(context: Context, connection: Connection) -> tuple[ListRow, ...]:
    """Return all versions; what could not be restored is no backup."""
    try:
        rows = listing.rows(connection, ListQuery(all_versions=True))
        wrong = [
            str(row.key)
            for row in rows
            if row.key.kind == "adapter"
            and digest.of_files(versions.files(connection, row.key.id)) != row.key.digest
        ]
    except UNREADABLE as error:
        raise unreadable(context, error) from error
    if wrong:
        raise Damaged(tuple(f"the catalog's list of the files of {one}" for one in wrong))
    return rows


def _members(context: Context, sizes: dict[str, int]) -> Iterator[tuple[FileDigest, Path]]:
    for sha256, size in sorted(sizes.items()):
        yield FileDigest(f"{archive.BLOBS}{sha256}", sha256, size), context.store.blob(sha256)


def _publish(made: Path, target: Path) -> None:
    """Give a durable file its name, unless something has taken it. Raises OutputRefused."""
    try:
        try:
            os.link(made, target)  # a rename would replace what came there meanwhile
        except FileExistsError:
            raise OutputRefused(target, "something is there by now", _ADVICE) from None
        except OSError:  # a file system without hard links
            made.rename(target)
        fsync_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
