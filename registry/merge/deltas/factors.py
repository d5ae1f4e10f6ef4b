"""The factors of a low-rank delta, read whole when small and by slices when large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from adreg.registry.merge.terms import FactorView
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.header import TensorFile, TensorInfo

_HELD = 16 << 20
"""Elements held whole: 64 MiB in float32. A larger factor (a vocabulary of 256,000 at
rank 128) is read again for each block, so that memory stays bounded."""


@dataclass
class Factor:
    """One factor as an (outer, inner) matrix, whichever way round it is stored."""

    reader: TensorReader
    file: TensorFile
    info: TensorInfo
    view: FactorView
    outer: int
    inner: int
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        """Hold a small factor whole."""
        self._whole: Array | None = None
        if self.outer * self.inner <= _HELD:
            self._whole = self._read(0, self.outer)

    def rows(self, start: int, stop: int) -> Array:
        """Return outer rows [start, stop): (stop - start, inner)."""
        if self._whole is not None:
            return self._whole[start:stop]
        return self._read(start, stop)

    def _read(self, start: int, stop: int) -> Array:
        view = self.view
        start, stop = view.outer_start + start, view.outer_start + stop
        stored_outer, stored_inner = self._stored()
        chosen = slice(view.inner_start, None, view.inner_step)
        if not view.transposed:
            flat = self._slice(start * stored_inner, stop * stored_inner)
            rows = flat.reshape(stop - start, stored_inner)[:, chosen][:, : self.inner]
            return np.ascontiguousarray(rows, dtype=self.dtype)
        if (start, stop) == (0, stored_outer) and view.inner_step == 1:
            first = view.inner_start * stored_outer
            flat = self._slice(first, first + self.inner * stored_outer)
            return np.ascontiguousarray(flat.reshape(self.inner, stored_outer).T, dtype=self.dtype)
        result = np.empty((stop - start, self.inner), self.dtype)
        for column in range(self.inner):
            begin = (view.inner_start + column * view.inner_step) * stored_outer
            result[:, column] = self._slice(begin + start, begin + stop)
        return result

    def _stored(self) -> tuple[int, int]:
        """Return the (outer, inner) lengths of the whole stored tensor."""
        first = self.info.shape[0]
        second = self.info.count // first
        return (second, first) if self.view.transposed else (first, second)

    def _slice(self, start: int, stop: int) -> Array:
        return self.reader.read(self.file.path, self.info, start, stop)
