"""Putting right bytes in the place of wrong ones; the wrong ones go to quarantine.

    models--adreg/quarantine/TIME-NAME     what was there, to be looked at or recovered

Call these inside a write transaction in which the catalog said that the version is there,
so that nobody removes it meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from adreg.registry.digest import FileDigest
from adreg.registry.durable import fsync_folder, write_error
from adreg.registry.store.publication import link_text


def mend_blob(root: Path, sha256: str, copy: Path) -> None:
    """Let a checked, durable ``copy`` take a blob's place. Raises WriteFailed.

    The blob is never gone in between, where the file system knows hard links.
    """
    blob = root / "blobs" / sha256
    try:
        if os.path.lexists(blob):
            aside = _aside(root, sha256)
            try:
                os.link(blob, aside, follow_symlinks=False)
            except OSError:
                blob.rename(aside)
            fsync_folder(aside.parent)
        copy.replace(blob)
        fsync_folder(blob.parent)
    except OSError as error:
        raise write_error(blob, error) from error


def mend_snapshot(root: Path, digest: str, files: Iterable[FileDigest]) -> None:
    """Make a version's folder hold just the links that it should. Raises WriteFailed."""
    folder = root / "snapshots" / digest
    wanted = {file.name: link_text(file) for file in files}
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            folder.rename(_aside(root, digest))
        folder.mkdir(parents=True, exist_ok=True)
        for path in list(files_below(folder)):
            if path.relative_to(folder).as_posix() not in wanted:
                path.rename(_aside(root, path.name))
        for name, text in wanted.items():
            _mend_link(root, folder / name, text)
        for inside, _, _ in os.walk(folder):
            fsync_folder(Path(inside))
        fsync_folder(folder.parent)
    except OSError as error:
        raise write_error(folder, error) from error


def files_below(folder: Path) -> Iterator[Path]:
    """Give all that is below a folder and is no folder itself; a link to one is none."""
    for where, folders, names in os.walk(folder):
        yield from (Path(where) / name for name in names)
        yield from (path for name in folders if (path := Path(where) / name).is_symlink())


def _mend_link(root: Path, link: Path, text: str) -> None:
    with suppress(OSError):
        if os.readlink(link) == text:  # noqa: PTH115  # the text itself
            return
    link.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(link):
        link.rename(_aside(root, link.name))
    link.symlink_to(text)


def _aside(root: Path, name: str) -> Path:
    quarantine = root / "quarantine"
    if not quarantine.is_dir():
        quarantine.mkdir(parents=True, exist_ok=True)
        fsync_folder(root)
    return quarantine / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}-{name[:64]}"
