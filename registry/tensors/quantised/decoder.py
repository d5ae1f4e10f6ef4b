"""A quantised weight as a checkpoint of floats would hold it, read by flat ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from adreg.registry.tensors import dtypes
from adreg.registry.tensors.arrays import NUMPY, Array, TensorReader
from adreg.registry.tensors.header import TensorInfo


class Matrix(Protocol):
    """A weight in its quantised layout, rows x columns, decoded by windows."""

    @property
    def rows(self) -> int:
        """The number of its rows."""

    @property
    def columns(self) -> int:
        """The number of its columns."""

    def window(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Return a window as float32 (rows, columns), before it is rounded to the output."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoded weight: ``info`` is its name, dtype and shape in the logical checkpoint.

    ``transposed`` tells that the checkpoint of floats has each of the ``stack`` matrices
    (columns, rows). Safe to share between threads; nothing is kept between reads.
    """

    info: TensorInfo
    matrix: Matrix = field(repr=False)
    transposed: bool = False
    stack: int = 1

    def read(self, reader: TensorReader, start: int, stop: int) -> Array:
        """Return the flat logical elements [start, stop) as float32.

        The values are those of ``info.dtype``: rounded to it once, as if the decoded
        checkpoint stood on disk. Raises TensorFileBroken.
        """
        if stop <= start:
            return np.empty(0, np.float32)
        width = self.matrix.rows // self.stack if self.transposed else self.matrix.columns
        first, last = start // width, -(-stop // width)
        with np.errstate(all="ignore"):  # infinities and NaNs are for the merge to refuse
            rows = self._rows(reader, first, last)
            values = rows.reshape(-1)[start - first * width : stop - first * width]
            out = NUMPY[self.info.dtype]
            return values if out == np.float32 else values.astype(out).astype(np.float32)

    def _rows(self, reader: TensorReader, first: int, last: int) -> Array:
        """Return logical rows [first, last), all dimensions but the last flattened."""
        columns = self.matrix.columns
        if not self.transposed:
            return self.matrix.window(reader, slice(first, last), slice(0, columns))
        height = self.matrix.rows // self.stack
        pieces = []
        for number in range(first // columns, -(-last // columns)):
            physical = slice(number * height, (number + 1) * height)
            begin = max(0, first - number * columns)
            window = slice(begin, min(columns, last - number * columns))
            pieces.append(self.matrix.window(reader, physical, window).T)
        return np.concatenate(pieces)


@dataclass(frozen=True, slots=True)
class Found:
    """A weight that a layout holds in several tensors.

    ``name`` and ``shape`` are the logical ones; ``place`` is the stored tensor whose
    place in the order it takes; ``used`` are all tensors that it is made of.
    """

    name: str
    shape: tuple[int, ...]
    place: str
    used: frozenset[str]
    matrix: Matrix = field(repr=False)
    transposed: bool = False
    stack: int = 1

    def decoder(self, dtype: str, start: int) -> Decoder:
        """Return its decoder into a float type; ``start`` is where ``place`` begins."""
        end = start + dtypes.nbytes(dtype, self.shape)
        info = TensorInfo(self.name, dtype, self.shape, start, end)
        return Decoder(info, self.matrix, self.transposed, self.stack)
