"""The two formats of torch.save taken apart: the pickle, and where each storage's bytes lie.

Since torch 1.6 a zip archive whose entries are stored and not compressed: ``data.pkl`` and
one entry a storage. Before, five pickles after each other (a magic number, a version, facts
of the machine, the object, the keys of the storages), then for each storage its number of
elements in 8 bytes and its bytes (torch 2.13, serialization.py, _save and _legacy_save).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast

from adreg.registry.tensors import dtypes
from adreg.registry.tensors.torch_names import Forbidden, Storage
from adreg.registry.tensors.unpickle import MAX_BYTES, Bounded, Machine

ZIP = b"PK\x03\x04"

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_ENCRYPTED = 1
_LOCAL_HEADER = 30
_MAX_LIST = 16 << 20
"""The longest list of entries: a hundred thousand storages take about 10 MB."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file holds: the object, and the place (start, end) of each storage by its key."""

    value: object
    places: Mapping[str, tuple[int, int]]


def read_zip(file: BinaryIO) -> Saved:
    """Read the archive's list and its pickle; raise ValueError, or Forbidden."""
    size = os.fstat(file.fileno()).st_size
    try:
        # zipfile reads the whole list of entries at once: a lying one must not fill the memory.
        with zipfile.ZipFile(cast("BinaryIO", _Seeking(file))) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"its zip archive is broken: {error}") from error
    except (NotImplementedError, OSError, EOFError, OverflowError, UnicodeError) as error:
        raise ValueError("its zip archive is broken") from error
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) != len(entries):
        raise ValueError("two entries of its zip archive have one name")
    pickles = [name for name in by_name if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Forbidden("it is a zip archive that torch.save did not write")
    root = pickles[0].removesuffix("data.pkl")
    if root + "constants.pkl" in by_name:
        raise Forbidden("it is TorchScript: a program with its weights")
    if (order := by_name.get(root + "byteorder")) is not None:
        start, end = _place(file, order, size)
        if end - start != 6 or _at(file, start, 6) != b"little":
            raise Forbidden("it was saved on a big-endian machine")
    start, end = _place(file, by_name[pickles[0]], size)
    file.seek(start)
    value = Machine(Bounded(file, min(MAX_BYTES, end - start))).load()
    return Saved(
        value,
        {
            name.removeprefix(root + "data/"): _place(file, entry, size)
            for name, entry in by_name.items()
            if name.startswith(root + "data/")
        },
    )


class _Seeking:
    """A file that reads at most ``_MAX_LIST`` bytes in one go."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._read = file.read

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_LIST:
            count = _MAX_LIST + 1
        data = self._read(count)
        if len(data) > _MAX_LIST:
            raise zipfile.BadZipFile("its list of entries is longer than any of torch's")
        return data


def _place(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Return where an entry's bytes begin and end; they are the tensor's own only if stored."""
    name = entry.filename if entry.filename.isprintable() else repr(entry.filename)
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise Forbidden(f"its entry {name} is compressed, which torch.save never does")
    if entry.flag_bits & _ENCRYPTED:
        raise Forbidden(f"its entry {name} is encrypted")
    # The list's and the entry's own header differ in length: torch pads the latter so that
    # the bytes begin at a multiple of 64.
    header = _at(file, entry.header_offset, _LOCAL_HEADER)
    if len(header) != _LOCAL_HEADER or not header.startswith(ZIP):
        raise ValueError(f"its entry {name} is not where its zip archive says")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = entry.header_offset + _LOCAL_HEADER + lengths
    end = start + entry.file_size
    if end > size:
        raise ValueError(f"its entry {name} reaches beyond the end of the file")
    return start, end


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    if not 0 <= offset < 1 << 62:  # seek raises OverflowError from 1 << 63 on
        return b""
    file.seek(offset)
    return file.read(count)


def read_legacy(file: BinaryIO) -> Saved:
    """Read the five pickles and the sizes of the storages; raise ValueError, or Forbidden."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    source = Bounded(file)
    if Machine(source).load() != _MAGIC:
        raise Forbidden("it is a pickle that torch.save did not write")
    if Machine(source).load() != _VERSION:
        raise Forbidden("it is of a version of torch.save that is not known")
    facts = Machine(source).load()
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise Forbidden("it was saved on a big-endian machine")
    machine = Machine(source)
    value = machine.load()
    keys = Machine(source).load()
    if not isinstance(keys, list):
        raise ValueError("its list of storages is broken")  # noqa: TRY004  # a fault of the data
    return Saved(value, _legacy_places(file, machine.storages, keys, size))


def _legacy_places(
    file: BinaryIO, storages: Mapping[str, Storage], keys: list[object], size: int
) -> dict[str, tuple[int, int]]:
    places: dict[str, tuple[int, int]] = {}
    position = file.tell()
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.key in places:
            raise ValueError("its list of storages does not agree with its tensors")
        if storage.kind.code is None:
            raise Forbidden(f"it holds a {storage.kind.name}, which safetensors does not have")
        if int.from_bytes(_at(file, position, 8), "little", signed=True) != storage.count:
            raise ValueError("a storage has another size than its tensors say, or is cut off")
        end = position + 8 + storage.count * dtypes.BITS[storage.kind.code] // 8
        if end > size:
            raise ValueError(f"it is cut short: {end:,} bytes are described, it has {size:,}")
        places[storage.key] = position + 8, end
        position = end
    if position != size:
        raise ValueError("it is followed by unknown bytes")
    return places
