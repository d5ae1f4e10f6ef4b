"""Filling a registry from a backup, once every byte of it is checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from adreg.registry.catalog import blobs, listing, versions
from adreg.registry.catalog.engine import Catalog, Connection
from adreg.registry.catalog.records import ListQuery, VersionKey
from adreg.registry.catalog.replacing import is_empty, replace_all
from adreg.registry.digest import FileDigest, of_files
from adreg.registry.durable import (
    Staging,
    fsync_folder,
    make_folder,
    require_space,
    sweep,
    write_error,
)
from adreg.registry.errors import CatalogError, InputRefused, OutputRefused
from adreg.registry.names import file_fault
from adreg.registry.opening import open_regular
from adreg.registry.ops import history
from adreg.registry.ops.context import Context
from adreg.registry.ops.verify import UNREADABLE
from adreg.registry.settings import Settings
from adreg.registry.store.archive import CATALOG, Reader
from adreg.registry.store.blobs import Store
from adreg.registry.store.mending import files_below, mend_snapshot


@dataclass(frozen=True, slots=True)
class Restored:
    """A registry that is what the backup was; ``aside`` holds what was there before.

    ``models`` are merged models that are recorded and that a backup does not hold.
    """

    home: Path
    versions: int
    blobs: int
    models: tuple[str, ...]
    aside: Path | None


def restore(context: Context, source: Path, *, replace: bool = False) -> Restored:
    """Check all of a backup, then let the registry be what it holds, in one transaction.

    The home may hold a registry only with ``replace``; that one is then kept in a folder
    of the home, which is a home itself. Who works meanwhile sees the old or the new one.

    Raises InputRefused for a file that is no whole backup, OutputRefused,
    CatalogError for a catalog on a server, WriteFailed, DiskFull.
    """
    home = context.settings.home
    damaged = context.catalog.is_damaged()
    if not replace:
        if damaged:
            raise _taken(home)
        with context.catalog.read() as connection:
            _require_empty(home, connection)
    sweep(home)
    with Staging(home / "restored") as staging:
        new = Store(staging.folder / "store")
        found = _extract(context, source, staging.folder, new.root)
        try:
            with Catalog(Settings.at(staging.folder)).read() as connection:
                keys = _checked(connection, source, found, new)
                aside = _take_place(context, connection, new, source, replace, damaged)
        except CatalogError as error:
            if error.where != str(staging.folder / CATALOG):
                raise
            raise _refused(source, f"its catalog cannot be used: {error.reason}") from error
    models = tuple(str(key) for key in keys if key.kind == "model")
    return Restored(home, len(keys), len(found), models, aside)


def _extract(context: Context, source: Path, folder: Path, store: Path) -> dict[str, int]:
    """Write out what a backup holds, and return the sizes of its blobs."""
    try:
        with open_regular(source) as file:
            reader = Reader(source, file)
            total = reader.manifest.catalog_bytes + reader.manifest.bytes
            if total > os.fstat(file.fileno()).st_size:
                raise _refused(source, "it is smaller than what its manifest says")
            require_space(folder, total)
            for name in ("blobs", "snapshots"):
                (store / name).mkdir(parents=True)
            context.progress.start("Checking the backup", total)
            try:
                reader.catalog(folder / CATALOG, context.progress.advance)
                found = reader.blobs(store / "blobs", context.progress.advance)
            finally:
                context.progress.finish()
    except OSError as error:
        raise InputRefused(source, error.strerror or str(error)) from error
    for sha256 in found:
        (store / "blobs" / sha256).chmod(0o444)
    return found


def _checked(
    connection: Connection, source: Path, found: dict[str, int], new: Store
) -> tuple[VersionKey, ...]:
    """Do what ``_check`` does, and refuse what it cannot read."""
    try:
        return _check(connection, source, found, new)
    except UNREADABLE as error:
        raise _refused(source, f"a row of its catalog is damaged: {error}") from error


def _check(
    connection: Connection, source: Path, found: dict[str, int], new: Store
) -> tuple[VersionKey, ...]:
    """Compare the catalog with the blobs, and draw the snapshots that it tells of."""
    if blobs.every(connection) != found:
        raise _refused(source, "its files are not those that its catalog tells of")
    rows = listing.rows(connection, ListQuery(all_versions=True))
    for name in {name for row in rows for name in (row.key.name, *row.aliases)}:
        if any(file_fault(part) is not None for part in name.split("/")):
            raise _refused(source, f"its catalog has a name that nothing can have: {name[:200]!r}")
    keys = tuple(row.key for row in rows)
    for key in keys:
        if key.kind != "adapter":
            continue
        files = versions.files(connection, key.id)
        if of_files(files) != key.digest or any(_is_strange(file) for file in files):
            raise _refused(source, f"{key} is not made of the files that its catalog names")
        mend_snapshot(new.root, key.digest, files)
    return keys


def _is_strange(file: FileDigest) -> bool:
    return any(file_fault(part) is not None for part in file.name.split("/"))


def _take_place(  # noqa: PLR0913, PLR0917  # what comes, and what is there
    context: Context,
    restored: Connection,
    new: Store,
    source: Path,
    replace: bool,  # noqa: FBT001
    damaged: bool,  # noqa: FBT001
) -> Path | None:
    """Move the files in, and let the catalog be the restored one."""
    home, root = context.settings.home, context.store.root
    aside = home / f"before-restore-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    if damaged:
        _put_aside(context.catalog.file, aside)
    made = new.root.parent.parent / "kept"  # swept with the rest, should this be killed
    with context.catalog.write() as connection:
        taken = not is_empty(connection)
        if not replace:
            _require_empty(home, connection)
        kept = taken or damaged
        try:
            if kept:
                _keep(root, made / "store" / root.name)
            if taken:
                context.catalog.copy(made / CATALOG)
            for name in ("snapshots", "blobs"):
                _move_in(new.root / name, root / name)
            counts = replace_all(connection, restored, str(new.root.parent.parent / CATALOG))
            told = {"versions": counts["version"], "aside": str(aside) if kept else None}
            history.write(connection, history.now(), "restore", source.name[:1024], **told)
            if kept:
                _show(made, aside)
            connection.commit()
        except BaseException as error:
            if not damaged:
                shutil.rmtree(aside, ignore_errors=True)
            if isinstance(error, OSError):
                raise write_error(home, error) from error
            raise
    return aside if kept else None


def _put_aside(catalog: Path, aside: Path) -> None:
    """Move a catalog that nothing can read out of the way."""
    try:
        aside.mkdir()
        for path in (catalog, catalog.with_name(f"{catalog.name}-journal")):
            if path.exists():
                path.rename(aside / path.name)
    except OSError as error:
        raise write_error(aside, error) from error


def _keep(root: Path, target: Path) -> None:
    """Make the store over again in ``target``, of hard links where there can be some."""
    target.mkdir(parents=True)
    for name, copy in (("blobs", _link), ("snapshots", None)):
        if not (root / name).is_dir():
            continue
        take: Callable[[str, str], object] = copy or shutil.copy2
        shutil.copytree(root / name, target / name, symlinks=True, copy_function=take)
        fsync_folder(target / name)


def _show(made: Path, aside: Path) -> None:
    """Give what was kept its name in the home, durably."""
    aside.mkdir(exist_ok=True)
    for path in made.iterdir():
        path.rename(aside / path.name)
    fsync_folder(aside)
    fsync_folder(aside.parent)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links, or somebody else's file
        shutil.copy2(source, target)


def _move_in(source: Path, target: Path) -> None:
    """Move all that is in one folder into another; equal names are equal things, checked.

    A snapshot that is there and as it should be stays: it is of the registry that is
    there too, which a kill may leave in place.
    """
    make_folder(target)
    for path in source.iterdir():
        place = target / path.name
        if place.is_dir() and not place.is_symlink():
            if _links(place) == _links(path):
                continue
            shutil.rmtree(place)
        path.replace(place)
    fsync_folder(target)
    fsync_folder(target.parent)


def _links(folder: Path) -> dict[str, str | None]:
    """Return what each link below a folder holds; None for what is no link."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else None  # noqa: PTH115  # the text itself
        for path in files_below(folder)
    }


def _require_empty(home: Path, connection: Connection) -> None:
    if not is_empty(connection):
        raise _taken(home)


def _taken(home: Path) -> OutputRefused:
    advice = "Name another with --home, or pass --replace: what is there is kept aside."
    return OutputRefused(home, "there is a registry already", advice)


def _refused(source: Path, reason: str) -> InputRefused:
    return InputRefused(source, reason, "Take another backup: nothing was restored.")
