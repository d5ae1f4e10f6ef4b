"""The bytes of all files, stored once under their sha256."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file of a commit: where its bytes are, and what git would call them."""

    sha256: str
    size: int
    oid: str
    """The git blob id: of the bytes, or of the LFS pointer to them."""
    lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub names the file by: the sha256 of a large file, else the git blob id."""
        return self.sha256 if self.lfs else self.oid


def blob_oid(size: int, pieces: Iterable[bytes]) -> str:
    """Return the id that git gives to a blob (sha1 over a header and the bytes)."""
    sha1 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for piece in pieces:
        sha1.update(piece)
    return sha1.hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """Return the text that git keeps in a large file's place (git-lfs spec, version 1)."""
    lines = "version https://git-lfs.github.com/spec/v1", f"oid sha256:{sha256}", f"size {size}"
    return ("\n".join(lines) + "\n").encode()


class Objects:
    """A folder of objects; each appears under its name whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Return where the object is, or would be."""
        return self.folder / sha256[:2] / sha256

    def __contains__(self, sha256: str) -> bool:
        """Return whether the object is there."""
        return self.path(sha256).is_file()

    def writer(self) -> ObjectWriter:
        """Return a writer for an object whose name is known only at its end."""
        return ObjectWriter(self)

    def put(self, data: bytes | Path) -> tuple[str, int]:
        """Store bytes, or a copy of a file; return sha256 and size."""
        with self.writer() as writer:
            if isinstance(data, bytes):
                writer.write(data)
            else:
                for piece in pieces(data):
                    writer.write(piece)
            return writer.commit()

    def entry(self, sha256: str, *, lfs: bool) -> Entry:
        """Describe a stored object as a file of a commit."""
        path = self.path(sha256)
        size = path.stat().st_size
        if lfs:
            text = pointer(sha256, size)
            return Entry(sha256, size, blob_oid(len(text), [text]), lfs=True)
        return Entry(sha256, size, blob_oid(size, pieces(path)), lfs=False)


class ObjectWriter:
    """One object on its way in; leaving without `commit` forgets it."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._path = objects.folder / f"incoming-{secrets.token_hex(8)}"
        self._file = self._path.open("xb")
        self._sha256 = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> ObjectWriter:  # noqa: PYI034  (Self is Python 3.11's)
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close, and drop what was not committed."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """The digest of what was written so far."""
        return self._sha256.hexdigest()

    def write(self, piece: bytes) -> None:
        """Append bytes."""
        self._file.write(piece)
        self._sha256.update(piece)
        self.size += len(piece)

    def commit(self) -> tuple[str, int]:
        """Keep the object under its digest; return sha256 and size."""
        self._file.close()
        target = self._objects.path(self.sha256)
        target.parent.mkdir(exist_ok=True)
        self._path.replace(target)
        return self.sha256, self.size


def pieces(path: Path) -> Iterable[bytes]:
    """Read a file a mebibyte at a time."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
