"""Files of versions on their way in: copied aside, then moved under the catalog's lock.

    staging/ID.lock   held while the process lives
    staging/ID/       the copies, the snapshots in the making, and intent.json

``settle`` is called inside the write transaction that records the versions, and blobs
are discarded inside one too, so that neither can come between the other's look and
deed. A process that is killed between ``settle`` and the commit leaves its intent,
which names what it newly put into the store; the next one takes that back.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import final

from filelock import FileLock, Timeout

from adreg.registry.digest import FileDigest
from adreg.registry.durable import fsync_folder, make_folder, require_space, write_error
from adreg.registry.errors import InputRefused
from adreg.registry.store.copying import Copies, See

_INTENT = "intent.json"


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a killed process may have put into the store without telling the catalog."""

    blobs: tuple[str, ...]
    snapshots: tuple[str, ...]


@final
class Publication:
    """The files of versions on their way into the store.

    ``with store.publication() as publication``: ``take`` the files of each version and
    ``draw`` its snapshot, ``sync``, then ``settle`` in the write transaction, then its
    commit. Leaving by an exception before ``settle`` removes everything; after it,
    ``Store.take_back`` offers what came in.
    """

    def __init__(self, root: Path) -> None:
        """Make the staging folder in the store's ``root``. Raises WriteFailed or DiskFull."""
        self._root = root
        self._folder = root / "staging" / uuid.uuid4().hex
        self._lock = FileLock(self._folder.with_suffix(".lock"))
        self._copies = Copies()
        self._drawn: dict[str, tuple[FileDigest, ...]] = {}
        self._taken = 0
        self._moved: set[str] = set()  # one blob may be of several versions
        self._settled = False
        try:
            for name in ("staging", "blobs", "snapshots"):
                make_folder(root / name)
            self._lock.acquire()
            self._folder.mkdir()
        except OSError as error:
            raise write_error(root, error) from error

    def take(
        self, files: Mapping[str, Path], see: Mapping[str, See], advance: Callable[[int], None]
    ) -> tuple[FileDigest, ...]:
        """Copy the files that a version is made of, by name, and return what they are.

        Each is read once: what stands in ``see`` for a name is shown its bytes, and
        ``advance`` hears of all of them. Raises InputRefused, WriteFailed or DiskFull.
        """
        require_space(self._root, sum(_size(path) for path in files.values()))
        return tuple(
            self._take(name, path, *([see[name]] if name in see else []), _counting(advance))
            for name, path in sorted(files.items())
        )

    def place(self, file: FileDigest) -> Path:
        """Return where the copy of a file that was taken lies until it is settled."""
        return self._folder / file.sha256

    def draw(self, digest: str, files: tuple[FileDigest, ...]) -> None:
        """Make a version's snapshot, of files that were taken. Raises WriteFailed or DiskFull."""
        if digest in self._drawn:
            return
        snapshot = self._snapshot(digest)
        try:
            snapshot.mkdir()
            for file in files:
                link = snapshot / file.name
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(link_text(file))
        except OSError as error:
            raise write_error(snapshot, error) from error
        self._drawn[digest] = files

    def sync(self) -> None:
        """Make all that was taken and drawn durable. Raises WriteFailed or DiskFull."""
        self._copies.sync()
        try:
            for digest in self._drawn:
                for folder, _, _ in os.walk(self._snapshot(digest)):
                    fsync_folder(Path(folder))
        except OSError as error:
            raise write_error(self._folder, error) from error

    def settle(self, *digests: str) -> None:
        """Move these versions in, whole; call it inside the write transaction that records them.

        They were drawn and synced. A blob that is there already is replaced by the new
        copy, so that a damaged one is repaired. Raises WriteFailed or DiskFull.
        """
        blobs, snapshots = self._root / "blobs", self._root / "snapshots"
        names = sorted({file.sha256 for digest in digests for file in self._drawn[digest]})
        intent = {
            "blobs": [name for name in names if not (blobs / name).exists()],
            "snapshots": [one for one in digests if not (snapshots / one).exists()],
        }
        try:
            self._write_intent(intent)
            self._settled = True
            for name in names:
                if name not in self._moved or not (blobs / name).exists():
                    (self._folder / name).replace(blobs / name)
                self._moved.add(name)
            fsync_folder(blobs)
            for digest in digests:
                if digest not in intent["snapshots"]:
                    shutil.rmtree(snapshots / digest)
                self._snapshot(digest).rename(snapshots / digest)
                del self._drawn[digest]
            fsync_folder(snapshots)
        except OSError as error:
            raise write_error(self._root, error) from error

    def committed(self) -> None:
        """Say that what was settled is recorded, so that it is nobody's to take back."""
        self._settled = False

    def _take(self, name: str, path: Path, *see: See) -> FileDigest:
        part = self._folder / f"part-{self._taken}"
        self._taken += 1
        taken = self._copies.copy(path, part, name, *see)
        try:
            if self.place(taken).exists():
                part.unlink()
            else:
                part.rename(self.place(taken))
        except OSError as error:
            raise write_error(part, error) from error
        return taken

    def _snapshot(self, digest: str) -> Path:
        return self._folder / f"snapshot-{digest}"

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
        self._copies.__exit__(kind, error, traceback)
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
    return Leftover(tuple(intent["blobs"]), tuple(intent["snapshots"]))


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputRefused(path, error.strerror or str(error)) from error


def _counting(advance: Callable[[int], None]) -> See:
    return lambda piece: advance(len(piece))
