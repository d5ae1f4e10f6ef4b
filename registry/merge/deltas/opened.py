"""The inputs of a merge, ready to be read from by key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.merge.deltas.factors import Factor
from adreg.registry.merge.terms import FactorView
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.header import TensorInfo

_KEPT = 128 << 20
"""Bytes of interleaved factors kept at once. On a checkpoint of one tensor an expert, each
of hundreds of experts picks its columns out of the same factor."""


class Opened:
    """The inputs' tensors by number of the input and key, in the precision of the sums."""

    def __init__(
        self, specs: Sequence[AdapterSpec | Base], reader: TensorReader, dtype: np.dtype[Any]
    ) -> None:
        """Index the tensors; nothing is read."""
        self.reader = reader
        self.dtype = dtype
        self._specs = specs
        self._cache: dict[tuple[int, str], Array] = {}
        self._infos = [
            {t.name: t for t in spec.layout}
            if isinstance(spec, Base)
            else {t.key: t.info for t in spec.tensors}
            for spec in specs
        ]

    def info(self, number: int, key: str) -> TensorInfo:
        """Return the header of an input's tensor."""
        return self._infos[number][key]

    def slice(self, number: int, key: str, start: int, stop: int) -> Array:
        """Read flat elements [start, stop)."""
        spec = self._specs[number]
        if isinstance(spec, Base):
            return spec.read(self.reader, key, start, stop).astype(self.dtype)
        info = self.info(number, key)
        return self.reader.read(spec.weights.path, info, start, stop).astype(self.dtype)

    def whole(self, number: int, key: str) -> Array:
        """Read a small tensor in its own shape."""
        info = self.info(number, key)
        return self.slice(number, key, 0, info.count).reshape(info.shape)

    def factor(self, number: int, view: FactorView, outer: int, inner: int) -> Factor:
        """Return a tensor, or a part of one, as an (outer, inner) matrix."""
        info, size = self.info(number, view.key), self.dtype.itemsize

        def read(start: int, stop: int) -> Array:
            return self.slice(number, view.key, start, stop)

        if view.inner_step > 1 and (kept := self._kept(number, view.key)) is not None:
            return Factor(lambda start, stop: kept[start:stop], info, view, outer, inner, size)
        return Factor(read, info, view, outer, inner, size)

    def _kept(self, number: int, key: str) -> Array | None:
        """Return a tensor of interleaved experts, kept for the next expert if it is not huge."""
        count, limit = self.info(number, key).count, _KEPT // self.dtype.itemsize
        if count > limit:
            return None
        if (number, key) not in self._cache:
            while self._cache and sum(map(len, self._cache.values())) + count > limit:
                self._cache.pop(next(iter(self._cache)))
            self._cache[number, key] = self.slice(number, key, 0, count)
        return self._cache[number, key]
