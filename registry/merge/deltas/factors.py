"""The factors of a low-rank delta, read whole when small and by slices when large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.header import TensorFile, TensorInfo

_HELD = 16 << 20
"""Elements held whole: 64 MiB in float32. A larger factor (a vocabulary of 256,000 at
rank 128) is read again for each block, so that memory stays bounded."""


@dataclass
class Factor:
    """One factor as an (outer, inner) matrix, whichever way round it is stored.

    ``stored_transposed`` says that the file holds (inner, outer).
    """

    reader: TensorReader
    file: TensorFile
    info: TensorInfo
    outer: int
    inner: int
    stored_transposed: bool
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        """Hold a small factor whole."""
        self._whole: Array | None = None
        if self.outer * self.inner <= _HELD:
            flat = self.reader.read(self.file.path, self.info).astype(self.dtype)
            if self.stored_transposed:
                flat = np.ascontiguousarray(flat.reshape(self.inner, self.outer).T)
            self._whole = flat.reshape(self.outer, self.inner)

    def rows(self, start: int, stop: int) -> Array:
        """Return outer rows [start, stop): (stop - start, inner)."""
        if self._whole is not None:
            return self._whole[start:stop]
        return self._read(start, stop)

    def _read(self, start: int, stop: int) -> Array:
        if not self.stored_transposed:
            flat = self.reader.read(
                self.file.path, self.info, start * self.inner, stop * self.inner
            )
            return flat.astype(self.dtype).reshape(stop - start, self.inner)
        result = np.empty((stop - start, self.inner), self.dtype)
        for column in range(self.inner):
            begin = column * self.outer
            result[:, column] = self.reader.read(
                self.file.path, self.info, begin + start, begin + stop
            )
        return result
