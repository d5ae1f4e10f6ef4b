"""The file of a backup: a tar of the catalog and the blobs, written and read as one stream.

    manifest.json     format, the catalog's SHA-256 and bytes, how many blobs and bytes follow
    catalog.sqlite
    blobs/SHA256      each once, in the order of their names

Each member is one header of GNU tar (the type of a plain file; sizes from 8 GiB on in base
256) and its bytes, so that ``tar -tf`` reads it. The reader takes nothing else: no links,
no devices, no other names, no second header, nothing behind the end.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from adreg.registry import jsonio
from adreg.registry.digest import PIECE, FileDigest
from adreg.registry.durable import FileWriter
from adreg.registry.errors import Damaged, InputRefused
from adreg.registry.opening import open_regular

FORMAT = 1
MANIFEST, CATALOG, BLOBS = "manifest.json", "catalog.sqlite", "blobs/"
_BLOCK = tarfile.BLOCKSIZE
_MOST = 64 << 10
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADVICE = "Take another backup: nothing was restored."


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds: the catalog's SHA-256 and bytes, and how many blobs of how many bytes.

    ``adreg`` is the version that made it.
    """

    adreg: str
    catalog: str
    catalog_bytes: int
    blobs: int
    bytes: int


def write(
    writer: FileWriter,
    manifest: Manifest,
    catalog: Path,
    blobs: Iterator[tuple[FileDigest, Path]],
    advance: Callable[[int], None],
) -> None:
    """Write a backup; every byte is hashed on its way.

    Raises Damaged for a file that is not what its digest says, WriteFailed or DiskFull.
    """
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode("ascii")
    _begin(writer, MANIFEST, len(text))
    writer.write(text + b"\0" * (-len(text) % _BLOCK))
    _copy(writer, FileDigest(CATALOG, manifest.catalog, manifest.catalog_bytes), catalog, advance)
    for file, path in blobs:
        _copy(writer, file, path, advance)
    writer.write(b"\0" * (2 * _BLOCK))


def _begin(writer: FileWriter, name: str, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    writer.write(header.tobuf(tarfile.GNU_FORMAT))


def _copy(writer: FileWriter, file: FileDigest, path: Path, advance: Callable[[int], None]) -> None:
    """Write one member, hashed; ``file.name`` is its name in the tar."""
    _begin(writer, file.name, file.size)
    digest, rest = hashlib.sha256(), file.size
    try:
        with open_regular(path) as source:
            while piece := source.read(min(PIECE, rest + 1)):
                digest.update(piece)
                rest -= len(piece)
                if rest < 0:
                    break
                writer.write(piece)
                advance(len(piece))
    except OSError as error:
        raise Damaged((f"{path} is unreadable ({error.strerror or error})",)) from error
    if rest or digest.hexdigest() != file.sha256:
        raise Damaged((f"{path} is damaged",))
    writer.write(b"\0" * (-file.size % _BLOCK))


class Reader:
    """A backup that is read from its begin to its end, each member checked against its digest."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Read the manifest. Raises InputRefused."""
        self._path, self._file = path, file
        size = self._header(MANIFEST)
        if size > _MOST:
            raise self._refused(f"its manifest claims {size:,} bytes")
        text = self._exactly(size)
        self._padding(size)
        try:
            said = jsonio.parse_object(text)
            if said.pop("format", None) != FORMAT:
                raise self._refused(
                    "it is of another format than this adreg writes", "Use a newer adreg."
                )
            self.manifest = _manifest(said)
        except ValueError as error:
            raise self._refused(f"its manifest cannot be read: {error}") from None

    def catalog(self, target: Path, advance: Callable[[int], None]) -> None:
        """Write the catalog to a new file. Raises InputRefused, WriteFailed or DiskFull."""
        said = self.manifest
        self._extract(CATALOG, said.catalog, said.catalog_bytes, target, advance)

    def blobs(self, folder: Path, advance: Callable[[int], None]) -> dict[str, int]:
        """Write all blobs into a folder, and return their sizes; raises as ``catalog``."""
        found: dict[str, int] = {}
        total, last = 0, ""
        for _ in range(self.manifest.blobs):
            name, size = self._any_header()
            sha256 = name.removeprefix(BLOBS)
            if name == sha256 or not _SHA256.fullmatch(sha256) or sha256 <= last:
                raise self._refused(f"{name[:200]!r} is no blob's name, or not in its order")
            total, last = total + size, sha256
            if total > self.manifest.bytes:
                raise self._refused("its blobs are larger than its manifest says")
            self._write(name, sha256, size, folder / sha256, advance)
            found[sha256] = size
        if total != self.manifest.bytes:
            raise self._refused("its blobs are smaller than its manifest says")
        if self._file.read(2 * _BLOCK + 1) != b"\0" * (2 * _BLOCK):
            raise self._refused("it does not end where it should")
        return found

    def _extract(
        self, name: str, sha256: str, size: int, target: Path, advance: Callable[[int], None]
    ) -> None:
        if self._header(name) != size:
            raise self._refused(f"{name} has another size than the manifest says")
        self._write(name, sha256, size, target, advance)

    def _write(
        self, name: str, sha256: str, size: int, target: Path, advance: Callable[[int], None]
    ) -> None:
        rest = size
        with FileWriter(target) as writer:
            while rest:
                piece = self._exactly(min(PIECE, rest))
                writer.write(piece)
                advance(len(piece))
                rest -= len(piece)
            if writer.digest(name).sha256 != sha256:
                raise self._refused(f"{name} is damaged")
        self._padding(size)

    def _header(self, name: str) -> int:
        found, size = self._any_header()
        if found != name:
            raise self._refused(f"{found[:200]!r} stands in the place of {name}")
        return size

    def _any_header(self) -> tuple[str, int]:
        block = self._exactly(_BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise self._refused(f"a header cannot be read: {error}") from error
        if header.type != tarfile.REGTYPE:
            raise self._refused(f"{header.name[:200]!r} is not a plain file")
        # What was written is what its own fields give: nothing hides in the rest of a header.
        plain = tarfile.TarInfo(header.name)
        plain.size = header.size
        if header.size < 0 or block != plain.tobuf(tarfile.GNU_FORMAT):
            raise self._refused(f"{header.name[:200]!r} has a header that adreg does not write")
        return header.name, header.size

    def _padding(self, size: int) -> None:
        if any(self._exactly(-size % _BLOCK)):
            raise self._refused("there is something between its files")

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise self._refused("it is cut short")
        return data

    def _refused(self, reason: str, advice: str = _ADVICE) -> InputRefused:
        return InputRefused(self._path, f"it is no whole backup of adreg's: {reason}", advice)


def _manifest(said: dict[str, object]) -> Manifest:
    counts = [said.get(name) for name in ("catalog_bytes", "blobs", "bytes")]
    texts = [said.get(name) for name in ("adreg", "catalog")]
    if set(said) != set(Manifest.__dataclass_fields__):
        raise ValueError("it has other fields")
    if not all(type(one) is int and one >= 0 for one in counts):
        raise ValueError("a count is no number")
    if not all(isinstance(one, str) for one in texts) or not _SHA256.fullmatch(str(texts[1])):
        raise ValueError("a text is none")
    return Manifest(**said)  # type: ignore[arg-type]  # checked above
