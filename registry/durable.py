"""Writing so that what is there is whole and stays: aside, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import final

from filelock import FileLock, Timeout

from adreg.registry.digest import PIECE, FileDigest
from adreg.registry.errors import AdregError, DiskFull, MergeRefused, OutputRefused, WriteFailed
from adreg.registry.writeback import Behind

_MARK = ".adreg-"
"""Stands in the name of everything that is staged, so that it can be swept."""

_UNKEPT = ".unkept"
"""Ends the name of the mark of a folder that was published and not kept yet."""

_JOURNAL = ".journal"
"""Ends the name of the file that tells what is finished in a folder that may be gone on with."""

KEPT_FOR = 7 * 24 * 3600
"""Seconds after its last finished part that a folder to be gone on with is kept."""

_FINAL = (MergeRefused, OutputRefused)
"""Ends of work that nobody can go on with: it would end in the same way."""

_FULL = {errno.ENOSPC, errno.EDQUOT}

_LOOKED_AT_FOR = 1.0
"""Seconds that whoever sweeps may hold the lock of what it only looks at."""


def write_error(path: Path, error: OSError) -> AdregError:
    """Translate an operating system's refusal to write at ``path``."""
    reason = error.strerror or str(error)
    return DiskFull(path, reason) if error.errno in _FULL else WriteFailed(path, reason)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    if os.name == "nt":  # Windows cannot open a folder; NTFS journals its names.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably. Raises OSError."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync_folder(path.parent)


@final
class FileWriter:
    """A new file that is hashed while it is written, and made durable when it is closed.

    Leaving ``with`` by an exception removes the file.
    """

    def __init__(self, path: Path, *, large: bool = False) -> None:
        """Create ``path``, which must not exist. Raises WriteFailed.

        A ``large`` file is hashed and written back by a thread behind the writer: what is
        given to ``write`` must then not change any more.
        """
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        with _translated(path):
            self._file = path.open("xb", buffering=0)
        self._behind = Behind(self._file.fileno(), self._hash.update) if large else None

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, in pieces of at most 1 MiB. Raises WriteFailed or DiskFull."""
        view = memoryview(data).cast("B")
        whole = view
        if self._behind is None:
            self._hash.update(view)
        with _translated(self.path):
            while view:
                done = self._file.write(view[:PIECE])
                self.size += done
                view = view[done:]
        if self._behind is not None:
            self._behind.wrote(whole)

    def __enter__(self) -> FileWriter:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Make the file durable; remove it if an exception comes by."""
        if self._behind is not None:
            self._behind.finish() if kind is None else self._behind.abandon()
        if kind is None:
            with _translated(self.path):
                os.fsync(self._file.fileno())
                self._file.close()
            return
        self._file.close()
        self.path.unlink(missing_ok=True)

    def digest(self, name: str) -> FileDigest:
        """Return what was written so far, under the relative ``name``."""
        return FileDigest(name, self._hash.hexdigest(), self.size)


def replace_file(path: Path, data: bytes, folder: Path) -> None:
    """Write a small durable file in the place of ``path``, which is whole at any moment.

    It is written in ``folder``, of the same disk, which a kill may leave it in. Raises
    WriteFailed, DiskFull, OSError.
    """
    new = folder / f"{path.name}.new"
    with FileWriter(new) as writer:
        writer.write(data)
    new.replace(path)
    fsync_folder(path.parent)


def copy_file(
    source: Path, target: Path, name: str, advance: Callable[[int], None] | None = None
) -> FileDigest:
    """Copy bytes into a new durable file and return their digest under ``name``.

    A true copy: no link and no reflink ties it to the source. Raises WriteFailed for
    the target, OSError for the source.
    """
    buffer = memoryview(bytearray(PIECE))
    with source.open("rb", buffering=0) as file, FileWriter(target) as writer:
        while count := file.readinto(buffer):
            writer.write(buffer[:count])
            if advance is not None:
                advance(count)
    return writer.digest(name)


@final
class Staging:
    """A folder beside ``target`` that becomes ``target`` by ``publish``, or goes away.

    A lock held for its life tells the living from what a killed process left behind;
    ``sweep`` removes the latter. After publishing ``held`` comes ``keep`` or
    ``take_back``; of a process that was killed in between, ``withdraw`` knows.

    With a ``key``, a digest of all that decides what is written, the same work finds the
    folder again after a kill or an error, with what it had finished by ``journal``, a file
    of its own beside the folder. Without a journal there is nothing to keep.
    """

    def __init__(self, target: Path, key: str | None = None) -> None:
        """Make the folder, or find it again. Raises OutputRefused or WriteFailed.

        OutputRefused also when another process is at the same work.
        """
        check_target(target)
        self.target = target
        stem = _stem(target, key)
        self.folder = target.parent / stem
        self.journal = target.parent / f"{stem}{_JOURNAL}"
        self._mark = target.parent / f"{stem}{_UNKEPT}"
        self._lock = FileLock(target.parent / f"{stem}.lock")
        with _translated(target):
            make_folder(target.parent)
            try:
                self._lock.acquire(timeout=_LOOKED_AT_FOR)
            except Timeout:
                raise OutputRefused(
                    target, "another process makes the very same there", "Wait until it is done."
                ) from None
            if self.folder.is_symlink():  # the name can be guessed
                self.folder.unlink()
            self.folder.mkdir(exist_ok=key is not None)

    def clear(self) -> None:
        """Remove what was written so far. Raises WriteFailed."""
        with _translated(self.folder):
            shutil.rmtree(self.folder)
            self.folder.mkdir()

    def publish(self, *, held: bool = False) -> None:
        """Make everything in the folder durable under the target's name.

        Raises OutputRefused when something took the place meanwhile.
        """
        with _translated(self.target):
            for folder, _, _ in os.walk(self.folder):
                fsync_folder(Path(folder))
            if held:
                with FileWriter(self._mark) as mark:
                    mark.write(_identity(self.folder, self.target.name).encode())
                fsync_folder(self.target.parent)
        try:
            self.folder.rename(self.target)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise OutputRefused(self.target, "something is there by now") from error
            raise write_error(self.target, error) from error
        with _translated(self.target):
            fsync_folder(self.target.parent)

    def keep(self) -> None:
        """Let what was published ``held`` stay."""
        self._mark.unlink(missing_ok=True)

    def take_back(self) -> None:
        """Remove what was published, if it was."""
        if _is_held(self.target, self._mark):
            shutil.rmtree(self.target, ignore_errors=True)
        self._mark.unlink(missing_ok=True)

    def __enter__(self) -> Staging:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what was not published, unless an error came by that can be gone on after."""
        goes_on = kind is not None and not issubclass(kind, _FINAL)
        if goes_on and self.folder.is_dir() and self.journal.exists():
            self._lock.release()  # its file stays: it says to ``sweep`` what is here
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.journal.unlink(missing_ok=True)
        _release(self._lock)


def journal_of(target: Path, key: str) -> tuple[Path, Path]:
    """Return the folder and the journal that work with this key has, whether or not they exist."""
    stem = _stem(target, key)
    return target.parent / stem, target.parent / f"{stem}{_JOURNAL}"


def _stem(target: Path, key: str | None) -> str:
    """Return the hidden name that work into ``target`` has; one with a key tells the target."""
    about = uuid.uuid4().hex[:12] if key is None else f"{_tag(target.name)}-{key[:16]}"
    return f".{target.name[:64]}{_MARK}{about}"


def _tag(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def _release(lock: FileLock) -> None:
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _identity(folder: Path, name: str) -> str:
    """Return what stays the same of a folder that takes a name, until something in it changes."""
    seen = folder.stat()
    return f"{name}\n{seen.st_dev} {seen.st_ino} {seen.st_mtime_ns}"


def _is_held(target: Path, mark: Path) -> bool:
    """Whether ``target`` is the very folder that the mark describes, as it was published."""
    return mark.exists() and target.is_dir() and mark.read_text() == _identity(target, target.name)


def withdraw(target: Path, is_kept: Callable[[Path], bool]) -> None:
    """Remove a folder that a killed process published ``held`` at ``target`` and did not keep.

    Only that very folder, and only while nothing was added to it or taken from it: what
    stands there by now may be in use. ``is_kept`` says of a path whether it is to stay;
    such marks beside the target are cleared too. Raises WriteFailed.
    """
    for mark in sorted(target.parent.glob(f".*{_MARK}*{_UNKEPT}")):
        lock = FileLock(mark.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        with _translated(target):
            published = target.parent / (mark.read_text().partition("\n")[0] or "?")
            kept = is_kept(published)
            if published == target and not kept and _is_held(target, mark):
                shutil.rmtree(target)
            if published == target or kept:
                mark.unlink()
        _release(lock)


def check_target(target: Path) -> None:
    """Raise OutputRefused unless ``target`` is missing or an empty folder."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputRefused(target, "a file is there")
    if target.exists() and any(target.iterdir()):
        raise OutputRefused(target, "the folder is not empty")


def sweep(parent: Path, target: Path | None = None, key: str | None = None) -> list[Path]:
    """Remove the staging folders in ``parent`` whose process is gone; return them.

    What can be gone on with stays for a week, until its target is made, or until other work
    (with another ``key``, or none) is about to begin on the same ``target``.
    """
    swept = []
    locks = sorted(parent.glob(f".*{_MARK}*.lock")) if parent.is_dir() else []
    made = {_tag(path.name) for path in parent.iterdir() if _is_made(path)} if locks else set()
    ours = None if target is None else _tag(target.name)
    for path in locks:
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        folder = path.with_suffix("")
        tag, _, its_key = folder.name.rpartition(_MARK)[2].partition("-")
        wanted = tag not in made and (tag != ours or (key is not None and its_key == key[:16]))
        journal = path.with_suffix(_JOURNAL)
        if folder.is_dir() and wanted and _is_fresh(journal):
            lock.release()
            continue
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
        journal.unlink(missing_ok=True)
        _release(lock)
    return swept


def _is_made(path: Path) -> bool:
    """Whether it is more than an empty folder, whose place a ``Staging`` takes."""
    try:
        return not path.is_dir() or any(path.iterdir())
    except OSError:  # somebody else's
        return True


def _is_fresh(journal: Path) -> bool:
    return journal.exists() and time.time() - journal.stat().st_mtime < KEPT_FOR


def require_space(folder: Path, needed: int) -> None:
    """Raise DiskFull if the disk of ``folder`` has fewer than ``needed`` bytes free."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFull(folder, "there is not enough room", needed, free)
