"""The digests of a base's files, hashed once and remembered while size and time stay the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from adreg.registry import digest
from adreg.registry.bases.base import CONFIG, Base
from adreg.registry.catalog.records import BaseFile
from adreg.registry.digest import FileDigest
from adreg.registry.errors import BaseRefused
from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.checkpoint import index_of


def names(base: Base) -> tuple[str, ...]:
    """Return the names of the files that a merge takes anything from, sorted."""
    found = {file.path.name for file in base.layout.files} | {CONFIG, *base.side_files}
    if (index := index_of(base.folder)) is not None:
        found.add(index.name)
    return tuple(sorted(found))


def hash_files(
    base: Base, known: Iterable[BaseFile] = (), progress: Progress = SILENT
) -> tuple[BaseFile, ...]:
    """Return the files of a base with their digests; only those that changed are read.

    ``known`` is what the catalog remembers. Raises BaseRefused for a file that cannot be
    read or changes meanwhile.
    """
    digests = {(one.path, one.size, one.mtime_ns): one.sha256 for one in known}
    seen = [look(base.folder, name) for name in names(base)]
    unknown = [one for one in seen if not digests.get((one.path, one.size, one.mtime_ns))]
    if unknown:
        progress.start(f"Hashing {base.folder.name}", sum(one.size for one in unknown))
        try:
            for one in unknown:
                digests[one.path, one.size, one.mtime_ns] = _hash(base.folder, one, progress)
        finally:
            progress.finish()
    return tuple(
        BaseFile(one.path, one.size, one.mtime_ns, digests[one.path, one.size, one.mtime_ns])
        for one in seen
    )


def look(folder: Path, name: str) -> BaseFile:
    """Return a file's size and time of change. Raises BaseRefused."""
    try:
        status = (folder / name).stat()
    except OSError as error:
        raise BaseRefused(folder, f"{name}: {error.strerror or error}") from error
    return BaseFile(name, status.st_size, status.st_mtime_ns)


def as_digests(files: Iterable[BaseFile]) -> tuple[FileDigest, ...]:
    """Return hashed files as what a lock file holds."""
    return tuple(FileDigest(f.path, f.sha256, f.size) for f in files if f.sha256 is not None)


def _hash(folder: Path, file: BaseFile, progress: Progress) -> str:
    try:
        sha256 = digest.of_file(folder / file.path, progress.advance)
    except OSError as error:
        raise BaseRefused(folder, f"{file.path}: {error.strerror or error}") from error
    if look(folder, file.path) != file:
        raise BaseRefused(folder, f"{file.path} changed while it was read", "Try again.")
    return sha256
