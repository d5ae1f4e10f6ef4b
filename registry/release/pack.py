"""Filling a release's folder: files copied and held against what was recorded while they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adreg.registry import digest
from adreg.registry.digest import FileDigest
from adreg.registry.durable import FileWriter, copy_file
from adreg.registry.errors import Damaged
from adreg.registry.progress import SILENT, Progress


def copy_verified(
    source: Path,
    files: Sequence[FileDigest],
    target: Path,
    what: str,
    progress: Progress = SILENT,
) -> None:
    """Copy ``files`` from one folder into another, durably; ``what`` names them in an error.

    Every file is read before it is judged, so that all faults come in one Damaged. Raises
    WriteFailed or DiskFull for the target.
    """
    faults = []
    for file in files:
        path = target / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            copied = copy_file(source / file.name, path, file.name, progress.advance)
        except OSError as error:
            faults.append(f"{what}: {file.name}: {error.strerror or error}")
            continue
        if copied != file:
            faults.append(f"{what}: {file.name} is not what was recorded")
    if faults:
        raise Damaged(tuple(faults))


def write_text(folder: Path, name: str, text: str) -> FileDigest:
    """Write a text file, durably, and return its digest. Raises WriteFailed or DiskFull."""
    with FileWriter(folder / name) as writer:
        writer.write(text.encode())
    return writer.digest(name)


def of_text(name: str, text: str) -> FileDigest:
    """Return the digest that ``write_text`` would."""
    data = text.encode()
    return FileDigest(name, digest.of_bytes(data), len(data))
