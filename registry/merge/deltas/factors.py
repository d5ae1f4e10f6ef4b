"""The factors of a low-rank delta, read whole when small and by slices when large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adreg.registry.merge.terms import FactorView
from adreg.registry.tensors.arrays import Array
from adreg.registry.tensors.header import TensorInfo

_HELD = 64 << 20
"""Bytes held whole. A larger factor (a vocabulary of 256,000 at rank 128) is read again for
each block, so that memory stays bounded."""

_READ = 4 << 20
"""Elements that are read at once to keep some of them."""


@dataclass
class Factor:
    """One factor as an (outer, inner) matrix, whichever way round it is stored."""

    read: Callable[[int, int], Array]
    """Reads flat elements [start, stop) of the stored tensor."""
    info: TensorInfo
    view: FactorView
    outer: int
    inner: int
    itemsize: int

    def __post_init__(self) -> None:
        """Hold a small factor whole."""
        self._whole: Array | None = None
        if self.outer * self.inner * self.itemsize <= _HELD:
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
            # Experts' columns lie among those of all others: many more are read than kept.
            step = max(1, _READ // stored_inner)
            parts = []
            for row in range(start, stop, step):
                last = min(stop, row + step)
                flat = self.read(row * stored_inner, last * stored_inner)
                part = flat.reshape(last - row, stored_inner)[:, chosen][:, : self.inner]
                parts.append(np.ascontiguousarray(part))
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        if (start, stop) == (0, stored_outer) and view.inner_step == 1:
            first = view.inner_start * stored_outer
            flat = self.read(first, first + self.inner * stored_outer)
            return np.ascontiguousarray(flat.reshape(self.inner, stored_outer).T)
        columns = []
        for column in range(self.inner):
            begin = (view.inner_start + column * view.inner_step) * stored_outer
            columns.append(self.read(begin + start, begin + stop))
        return np.stack(columns, axis=1)

    def _stored(self) -> tuple[int, int]:
        """Return the (outer, inner) lengths of the whole stored tensor."""
        first = self.info.shape[0]
        second = self.info.count // first
        return (second, first) if self.view.transposed else (first, second)
