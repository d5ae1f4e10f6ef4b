"""The content-addressed store: each file under its SHA-256, each version a folder of links.

    models--adreg/blobs/SHA256             one file each, read-only, written once
    models--adreg/snapshots/DIGEST/NAME    a relative link into ../../blobs
    models--adreg/staging/                 what is on its way in (see ``publication``)
    models--adreg/leases/                  who reads (see ``leases``)
    models--adreg/quarantine/              what was damaged (see ``mending``)

It has the shape of a repository in the Hugging Face cache, the one place from which
links may lead out of an adapter's folder (``adapters.files.link_fault``), so that
whatever reads an adapter's folder reads a snapshot. A file's name and mode prove
nothing: ``verify`` reads it through.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from adreg.registry.digest import FileDigest
from adreg.registry.durable import fsync_folder, write_error
from adreg.registry.store.faults import Fault, find_fault
from adreg.registry.store.leases import is_leased, lease
from adreg.registry.store.mending import files_below
from adreg.registry.store.publication import Leftover, Publication, bury, find_dead, link_text


class Store:
    """The store in one folder; making one touches no disk."""

    def __init__(self, root: Path) -> None:
        """Take the folder; it need not exist yet."""
        self.root = root / "models--adreg"

    def blob(self, sha256: str) -> Path:
        """Return where the file with this SHA-256 lies, if it is stored."""
        return self.root / "blobs" / sha256

    def folder(self, digest: str) -> Path:
        """Return the snapshot of a version: its files under their names, as links."""
        return self.root / "snapshots" / digest

    def publication(self) -> Publication:
        """Begin to take in the files of versions. Raises WriteFailed or DiskFull."""
        return Publication(self.root)

    def holds(self, digest: str, files: Iterable[FileDigest]) -> bool:
        """Tell whether every file of a version is there with its size, without reading any."""
        folder = self.folder(digest)
        try:
            return all((folder / file.name).stat().st_size == file.size for file in files)
        except OSError:
            return False

    def verify(
        self,
        digest: str,
        files: tuple[FileDigest, ...],
        advance: Callable[[int], None] | None = None,
    ) -> tuple[Fault, ...]:
        """Read a version through and return what is damaged, missing or extra, by name.

        ``advance`` hears of the bytes of ``files`` in all. Changes nothing.
        """
        folder = self.folder(digest)
        faults = [fault for file in files if (fault := self._fault(folder, file, advance))]
        wanted = {file.name for file in files}
        faults += [
            Fault("extra", name, folder / name)
            for name in names_below(folder)
            if name not in wanted
        ]
        return tuple(sorted(faults, key=lambda fault: fault.name))

    def _fault(
        self, folder: Path, file: FileDigest, advance: Callable[[int], None] | None
    ) -> Fault | None:
        link = folder / file.name
        fault = find_fault(self.blob(file.sha256), file, advance)
        if fault is not None:
            return fault
        if not os.path.lexists(link):
            return Fault("missing", file.name, link, "the file is stored, its name is gone")
        if not link.is_symlink() or os.readlink(link) != link_text(file):  # noqa: PTH115  # the text itself
            return Fault("damaged", file.name, link, "it is not the link to its stored file")
        return None

    def stored(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the names of all blobs and of all snapshots that are there."""
        return _entries(self.root / "blobs"), _entries(self.root / "snapshots")

    def lease(self) -> AbstractContextManager[None]:
        """Keep ``discard`` from removing anything while the body runs; see ``leases``."""
        return lease(self.root)

    def discard(self, blobs: Iterable[str], snapshots: Iterable[str] = ()) -> bool:
        """Remove snapshots, then blobs; what is not there is no fault.

        Returns False, and leaves all to ``adreg gc``, while a running command has a lease.
        Call it inside a write transaction in which the catalog said that nothing refers
        to them. Raises WriteFailed.
        """
        if is_leased(self.root):
            return False
        try:
            for digest in snapshots:
                if self.folder(digest).is_dir():
                    shutil.rmtree(self.folder(digest))
            for sha256 in blobs:
                self.blob(sha256).unlink(missing_ok=True)
            for name in ("snapshots", "blobs"):
                if (self.root / name).is_dir():
                    fsync_folder(self.root / name)
        except OSError as error:
            raise write_error(self.root, error) from error
        return True

    def take_back(self, discard: Callable[[tuple[Leftover, ...]], None]) -> int:
        """Remove what killed processes left in staging; return how many there were.

        ``discard`` is called, if need be, with what they had put into the store; what it
        raises leaves that for the next time.
        """
        dead = find_dead(self.root)
        came_in = tuple(leftover for leftover, _, _ in dead if leftover is not None)
        done = False
        try:
            if came_in:
                discard(came_in)
            done = True
        finally:
            for leftover, folder, lock in dead:
                if done or leftover is None:
                    bury(folder, lock)
                else:
                    lock.release()
        return len(dead)


def names_below(folder: Path) -> list[str]:
    """Return all that is below a folder and is no folder itself; a link to one is none."""
    return sorted(path.relative_to(folder).as_posix() for path in files_below(folder))


def _entries(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()  # noqa: PTH208  # names
