"""Files on their way to the Hub: what they are, whether they are there, and how far they got."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adreg.registry.digest import PIECE, FileDigest
from adreg.registry.errors import Damaged
from adreg.registry.progress import Progress


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to be on the Hub under ``digest.name``: a path, or the bytes themselves."""

    digest: FileDigest
    source: Path | bytes

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return self.digest.name

    def git_sha1(self) -> str:
        """Return what git calls a blob of these bytes; raise OSError."""
        made = hashlib.sha1(f"blob {self.digest.size}\0".encode(), usedforsecurity=False)
        for piece in self.pieces():
            made.update(piece)
        return made.hexdigest()

    def pieces(self) -> Iterator[bytes]:
        """Give the bytes, at most 1 MiB at a time; raise OSError."""
        opened = io.BytesIO(self.source) if isinstance(self.source, bytes) else None
        with opened or Path(os.fspath(self.source)).open("rb") as file:  # type: ignore[arg-type]
            while piece := file.read(PIECE):
                yield piece


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a repository; ``sha256`` is None for one that git itself holds."""

    name: str
    size: int
    git_sha1: str
    sha256: str | None

    def same(self, other: RemoteFile | None) -> bool:
        """Tell whether another has the same content."""
        return other is not None and (self.size, self.sha256 or self.git_sha1) == (
            other.size,
            other.sha256 or other.git_sha1,
        )

    def holds(self, local: LocalFile) -> bool:
        """Tell whether it has a local file's content, by SHA-256 or git's SHA-1."""
        if self.size != local.digest.size:
            return False
        if self.sha256 is not None:
            return self.sha256 == local.digest.sha256
        return self.git_sha1 == local.git_sha1()


def check_local(files: Sequence[LocalFile], what: str, progress: Progress) -> None:
    """Read files through, so that nothing is sent that is not what was recorded; raise Damaged."""
    progress.start(f"Checking {what}", sum(file.digest.size for file in files))
    faults = []
    try:
        for file in files:
            made = hashlib.sha256()
            try:
                for piece in file.pieces():
                    made.update(piece)
                    progress.advance(len(piece))
            except OSError as error:
                faults.append(f"{what}: {file.name}: {error.strerror or error}")
                continue
            if made.hexdigest() != file.digest.sha256:
                faults.append(f"{what}: {file.name} is not what was recorded")
    finally:
        progress.finish()
    if faults:
        raise Damaged(tuple(faults))


def operation(file: LocalFile, advance: Callable[[int], None]) -> Any:  # noqa: ANN401  # made here
    """Return the operation of huggingface_hub that adds a file; ``advance`` hears what is read.

    The digest is what ``check_local`` saw, so that the file is not hashed again.
    """
    from huggingface_hub import CommitOperationAdd  # noqa: PLC0415  # start-up: 0.2 s

    class Counted(CommitOperationAdd):
        """Tells how far the LFS upload has read, in place of a bar of tqdm."""

        @contextmanager
        def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:  # noqa: FBT001, FBT002
            with super().as_file() as opened:
                yield _Counting(opened, advance) if with_tqdm else opened  # type: ignore[misc]

    source = file.source if isinstance(file.source, bytes) else str(file.source)
    made = Counted(path_in_repo=file.name, path_or_fileobj=source)
    made.upload_info.sha256 = bytes.fromhex(file.digest.sha256)
    return made


class _Counting(io.BufferedIOBase):
    """A file that tells how much of it was read for the first time."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance
        self._told = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._file.read(-1 if size is None else size)
        # A part that is sent again is read again.
        if (far := self._file.tell() - self._told) > 0:
            self._told += far
            self._advance(far)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()
