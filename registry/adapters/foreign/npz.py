"""Where the arrays of an .npz archive lie: numpy's and mlx's way to save several.

An .npz is a zip of .npy files (numpy, format version 1 to 3). mlx stores them without
compression and writes bfloat16, which numpy does not know, as the descriptor ``V2``.
"""

from __future__ import annotations

import io
import tokenize
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from adreg.registry.errors import TensorFileBroken
from adreg.registry.tensors.header import TensorFile, TensorInfo

_CODES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "|V2": "BF16"}
_MAX_HEADER = 1 << 16
_UNREADABLE = (
    *(ValueError, OverflowError, TypeError, KeyError, EOFError, RecursionError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, NotImplementedError),
)
"""What zipfile and numpy's reader of headers, which parses Python, run into on a file that lies."""

_LOCAL = 30
"""Bytes of a zip's local header before the name (APPNOTE 4.3.7)."""


def read_npz(path: Path) -> TensorFile:
    """Read where each array lies; the arrays themselves are not read, and nothing is unpickled.

    Raises TensorFileBroken for what is no such archive, is compressed or cut short, or
    holds arrays that are not floats in C order.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            tensors = tuple(_read(file, entry, size) for entry in archive.infolist())
    except OSError as error:
        raise TensorFileBroken(path, error.strerror or str(error)) from error
    except _UNREADABLE as error:
        advice = "Save it again as safetensors."
        raise TensorFileBroken(path, f"it is no readable .npz: {error}", advice) from error
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise TensorFileBroken(path, "a name stands in it twice", "Save it again as safetensors.")
    return TensorFile(path, size, tensors, {})


def _read(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> TensorInfo:
    name = entry.filename
    if not name.endswith(".npy") or not name.isprintable():
        raise ValueError(f"the entry {name!r} is no array")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"the entry {name!r} is compressed")
    file.seek(entry.header_offset)
    local = file.read(_LOCAL)
    if len(local) < _LOCAL:
        raise ValueError("it is cut short")
    begin = entry.header_offset + _LOCAL
    begin += int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    file.seek(begin)
    head = io.BytesIO(file.read(min(_MAX_HEADER, entry.file_size)))
    version = np.lib.format.read_magic(head)
    reader = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        reader = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(head)
    code = _CODES.get(dtype.str)
    if code is None or (fortran and len(shape) > 1):
        raise ValueError(f"the entry {name!r} holds {dtype.str}, or columns before rows")
    count = 1
    for length in shape:
        if length < 0:
            raise ValueError(f"the entry {name!r} has the impossible shape {shape!r}")
        count *= length
    start = begin + head.tell()
    end = start + count * dtype.itemsize
    if end > min(size, begin + entry.file_size):
        raise ValueError(f"the entry {name!r} is cut short")
    return TensorInfo(name.removesuffix(".npy"), code, tuple(shape), start, end)
