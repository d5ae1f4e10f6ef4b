"""A version's files on their way in: copied aside, then moved under the catalog's lock.

    staging/ID.lock   held while the process lives
    staging/ID/       the copies, the snapshot in the making, and intent.json

``settle`` is called inside the write transaction that records the version, and blobs
are discarded inside one too, so that neither can come between the other's look and
deed. A process that is killed between ``settle`` and the commit leaves its intent,
which names what it newly put into the store; the next one takes that back.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import final

from filelock import FileLock, Timeout

from adreg.registry.digest import FileDigest
from adreg.registry.durable import copy_file, fsync_folder, require_space, write_error
from adreg.registry.errors import InputRefused
from adreg.registry.progress import SILENT, Progress

_INTENT = "intent.json"
_READ_ONLY = 0o444


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a killed process may have put into the store without telling the catalog."""

    blobs: tuple[str, ...]
    snapshot: str


@final
class Publication:
    """The files of one version on their way into the store.

    ``with store.publication(digest, files) as publication``: ``copy``, then ``settle`` in
    the write transaction, then its commit. Leaving by an exception before ``settle``
    removes everything; after it, ``Store.leftovers`` offers what came in.
    """

    def __init__(self, root: Path, digest: str, files: tuple[FileDigest, ...]) -> None:
        """Make the staging folder in the store's ``root``. Raises WriteFailed or DiskFull."""
        self._root = root
        self._digest = digest
        self._files = files
        self._folder = root / "staging" / uuid.uuid4().hex
        self._lock = FileLock(self._folder.with_suffix(".lock"))
        self._settled = False
        try:
            for name in ("staging", "blobs", "snapshots"):
                _make_folder(root / name)
            self._lock.acquire()
            self._folder.mkdir()
        except OSError as error:
            raise write_error(root, error) from error

    def copy(self, folder: Path, progress: Progress = SILENT) -> None:
        """Copy the files from ``folder``, durably, and make sure that they are what was read.

        They are true copies, which nothing ties to the source. Raises InputRefused when
        a file changed since it was hashed, WriteFailed or DiskFull.
        """
        total = sum(file.size for file in self._files)
        require_space(self._root, total)
        progress.start(f"Copying {folder.name}", total)
        try:
            for file in self._files:
                target = self._folder / file.sha256
                if not target.exists():
                    _copy(folder / file.name, target, file, progress)
        finally:
            progress.finish()
        try:
            self._draw_snapshot()
        except OSError as error:
            raise write_error(self._folder, error) from error

    def settle(self) -> None:
        """Move everything in; call it inside the write transaction that records the version.

        A blob that is there already is replaced by the new copy, so that a damaged one
        is repaired. Raises WriteFailed or DiskFull.
        """
        blobs, snapshot = self._root / "blobs", self._root / "snapshots" / self._digest
        names = sorted({file.sha256 for file in self._files})
        new = [name for name in names if not (blobs / name).exists()]
        intent = {"blobs": new, "snapshot": "" if snapshot.exists() else self._digest}
        try:
            self._write_intent(intent)
            self._settled = True
            for name in names:
                (self._folder / name).replace(blobs / name)
            fsync_folder(blobs)
            if snapshot.exists():
                shutil.rmtree(snapshot)
            (self._folder / "snapshot").rename(snapshot)
            fsync_folder(snapshot.parent)
        except OSError as error:
            raise write_error(self._root, error) from error

    def _draw_snapshot(self) -> None:
        snapshot = self._folder / "snapshot"
        snapshot.mkdir()
        for file in self._files:
            link = snapshot / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(link_text(file))
        for folder, _, _ in os.walk(snapshot):
            fsync_folder(Path(folder))

    def _write_intent(self, intent: Mapping[str, object]) -> None:
        # Not fsynced: it outlives a kill without that, and all that a power cut can cost
        # here are files that nothing refers to, which `verify --all` names.
        aside = self._folder / f"{_INTENT}.part"
        aside.write_text(json.dumps(intent), encoding="ascii")
        aside.rename(self._folder / _INTENT)

    def __enter__(self) -> Publication:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the staging folder, but for the intent of what came in and may not be recorded."""
        if kind is not None and self._settled:
            self._lock.release()
            return
        _remove(self._folder, self._lock)


def link_text(file: FileDigest) -> str:
    """Return what the link of a file in a snapshot holds: the relative way to its blob."""
    return "../" * (2 + file.name.count("/")) + f"blobs/{file.sha256}"


def find_dead(root: Path) -> list[tuple[Leftover | None, Path, FileLock]]:
    """Return the staging folders whose process is gone, each with its lock, now held by us."""
    dead = []
    staging = root / "staging"
    for path in sorted(staging.glob("*.lock")) if staging.is_dir() else []:
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        dead.append((_read_intent(path.with_suffix("")), path.with_suffix(""), lock))
    return dead


def bury(folder: Path, lock: FileLock) -> None:
    """Remove the staging folder of a process that is gone."""
    _remove(folder, lock)


def _read_intent(folder: Path) -> Leftover | None:
    try:
        intent = json.loads((folder / _INTENT).read_bytes())
    except (FileNotFoundError, ValueError):  # ValueError: emptied by a power cut
        return None
    return Leftover(tuple(intent["blobs"]), intent["snapshot"])


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync_folder(path.parent)


def _copy(source: Path, target: Path, expected: FileDigest, progress: Progress) -> None:
    try:
        copied = copy_file(source, target, expected.name, progress.advance)
        target.chmod(_READ_ONLY)
    except OSError as error:
        raise InputRefused(source, error.strerror or str(error)) from error
    if copied != expected:
        raise InputRefused(
            source,
            "it changed while it was read",
            "Wait until nothing writes to it any more, and add it again.",
        )
