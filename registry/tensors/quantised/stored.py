"""Tensors of any dtype as they are stored, read by windows of rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from adreg.registry.tensors.arrays import NUMPY, Array, TensorReader
from adreg.registry.tensors.checkpoint import Layout
from adreg.registry.tensors.header import TensorInfo

RAW = NUMPY | {
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
"""The numpy type of each stored type that occurs in quantised layouts."""

FLOATS8 = frozenset(code for code in RAW if code.startswith("F8_")) - {"F8_E8M0"}
"""8-bit floats that weights are stored in; E8M0 is a type of scales."""

_PIECE = 8 << 20
"""Bytes that are read at once where only a part of each row is wanted."""

_SHORT_ROW = 24 << 10
"""Bytes of a row up to which reading all of it costs less than a call a row (measured)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor in its file, seen as a matrix of ``rows`` x ``columns`` elements.

    All dimensions but the last are rows, unless ``columns`` says otherwise.
    """

    path: Path
    info: TensorInfo
    columns: int

    @classmethod
    def of(cls, layout: Layout, name: str, columns: int | None = None) -> Stored:
        """Return the layout's tensor of this name; raise KeyError."""
        file, info = layout.places[name]
        if columns is None:
            columns = info.shape[-1] if info.shape else 1
        return cls(file.path, info, columns)

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return self.info.count // self.columns if self.columns else 0

    def flat(self, reader: TensorReader, start: int, stop: int) -> Array:
        """Read elements [start, stop) in the stored dtype."""
        dtype = RAW[self.info.dtype]
        data = self.bytes(reader, start * dtype.itemsize, stop * dtype.itemsize)
        return data.view(dtype)

    def bytes(self, reader: TensorReader, start: int, stop: int) -> Array:
        """Read bytes [start, stop) of the tensor as uint8."""
        data = np.empty(stop - start, np.uint8)
        if stop > start:
            reader.read_into(self.path, self.info.start + start, data.data)
        return data

    def window(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Read rows x columns, a part of the matrix, in the stored dtype."""
        count, width = rows.stop - rows.start, columns.stop - columns.start
        if width == self.columns:
            flat = self.flat(reader, rows.start * width, rows.stop * width)
            return flat.reshape(count, width)
        dtype = RAW[self.info.dtype]
        row_bytes = self.columns * dtype.itemsize
        out = np.empty((count, width), dtype)
        if row_bytes > _SHORT_ROW:
            size = width * dtype.itemsize
            view = out.view(np.uint8).reshape(-1).data
            start = self.info.start + rows.start * row_bytes + columns.start * dtype.itemsize
            for number in range(count):
                part = view[number * size : (number + 1) * size]
                reader.read_into(self.path, start + number * row_bytes, part)
            return out
        step = max(1, _PIECE // max(1, row_bytes))
        for first in range(0, count, step):
            last = min(count, first + step)
            start, stop = (rows.start + first) * self.columns, (rows.start + last) * self.columns
            piece = self.flat(reader, start, stop).reshape(last - first, self.columns)
            out[first:last] = piece[:, columns]
        return out

    def floats(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Read a window as float32, which holds every value of up to 16 bits exactly."""
        return self.window(reader, rows, columns).astype(np.float32)
