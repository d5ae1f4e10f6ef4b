"""Copying files in, in one pass: each byte is read once, seen, hashed and written.

A small file is made durable later, together with others: the first fsync then writes the
journal for all of them. A large one is hashed and written back behind the writer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import final

from adreg.registry.digest import PIECE, FileDigest
from adreg.registry.durable import FileWriter, write_error
from adreg.registry.errors import InputRefused

See = Callable[[bytes], object]
"""What is shown the bytes of a file in order, in pieces of at most 1 MiB."""

_LARGE = 8 << 20
_OPEN_AT_ONCE = 200
"""Files whose fsync may wait; a process can have 1,024 open by default."""
_READ_ONLY = 0o444
CHANGED = (
    "it changed while it was read",
    "Wait until nothing writes to it any more, and add it again.",
)


def read_through(source: Path, name: str, *see: See) -> FileDigest:
    """Return the digest of a file under ``name``, and show its bytes. Raises InputRefused."""
    digest, size = sha256(), 0
    for piece in _pieces(source):
        digest.update(piece)
        size += len(piece)
        for one in see:
            one(piece)
    return FileDigest(name, digest.hexdigest(), size)


@final
class Copies:
    """New files that were written by this process, durable from ``sync`` on."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._open: list[tuple[Path, int]] = []

    def __enter__(self) -> Copies:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the files, durable or not."""
        while self._open:
            os.close(self._open.pop()[1])

    def copy(self, source: Path, target: Path, name: str, *see: See) -> FileDigest:
        """Copy a file into a new, read-only one; return its digest under ``name``.

        A true copy: no link and no reflink ties it to the source. Raises InputRefused for
        the source, also when it changes meanwhile, WriteFailed or DiskFull for the target.
        """
        try:
            large = source.stat().st_size >= _LARGE
        except OSError as error:
            raise InputRefused(source, error.strerror or str(error)) from error
        if not large:
            return self._copy_small(source, target, name, see)
        with FileWriter(target, large=True) as writer:
            for piece in _pieces(source):
                writer.write(piece)
                for one in see:
                    one(piece)
        try:
            target.chmod(_READ_ONLY)
        except OSError as error:
            raise write_error(target, error) from error
        return writer.digest(name)

    def sync(self) -> None:
        """Make all files durable. Raises WriteFailed or DiskFull."""
        # Starts the writing of all of them, so that the first fsync commits for all: a file
        # that is not on its way yet would need a commit of its own (ext4 allocates late).
        if hasattr(os, "posix_fadvise"):
            for _, descriptor in self._open:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        while self._open:
            path, descriptor = self._open.pop()
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise write_error(path, error) from error
            finally:
                os.close(descriptor)

    def _copy_small(
        self, source: Path, target: Path, name: str, see: tuple[See, ...]
    ) -> FileDigest:
        if len(self._open) >= _OPEN_AT_ONCE:
            self.sync()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            # Not closed before its fsync: an error of writing back is told to those who
            # have the file open then (lwn.net/Articles/752063).
            descriptor = os.open(target, flags, _READ_ONLY)
            self._open.append((target, descriptor))
            target.chmod(_READ_ONLY)  # whatever the umask
        except OSError as error:
            raise write_error(target, error) from error

        def write(piece: bytes) -> None:
            try:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError as error:
                raise write_error(target, error) from error

        return read_through(source, name, write, *see)


def _pieces(source: Path) -> Iterator[bytes]:
    """Give the bytes of a file; raise InputRefused if it cannot be read, or changes meanwhile."""
    try:
        with source.open("rb", buffering=0) as file:
            before, size = os.fstat(file.fileno()), 0
            while piece := file.read(PIECE):
                size += len(piece)
                yield piece
            after = os.fstat(file.fileno())
    except OSError as error:
        raise InputRefused(source, error.strerror or str(error)) from error
    if (before.st_size, before.st_mtime_ns) != (size, after.st_mtime_ns):
        raise InputRefused(source, *CHANGED)
