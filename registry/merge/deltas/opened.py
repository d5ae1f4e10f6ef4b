"""The inputs of a merge, ready to be read from by key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.merge.deltas.factors import Factor
from adreg.registry.merge.terms import FactorView
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.header import TensorInfo


class Opened:
    """The adapters' files: tensors by adapter and key, in the precision of the sums."""

    def __init__(
        self, specs: Sequence[AdapterSpec], reader: TensorReader, dtype: np.dtype[Any]
    ) -> None:
        """Index the tensors; nothing is read."""
        self.reader = reader
        self.dtype = dtype
        self.specs = specs
        self._infos = [{t.key: t.info for t in spec.tensors} for spec in specs]

    def info(self, adapter: int, key: str) -> TensorInfo:
        """Return the header of an adapter's tensor."""
        return self._infos[adapter][key]

    def slice(self, adapter: int, key: str, start: int, stop: int) -> Array:
        """Read flat elements [start, stop)."""
        path = self.specs[adapter].weights.path
        return self.reader.read(path, self.info(adapter, key), start, stop).astype(self.dtype)

    def whole(self, adapter: int, key: str) -> Array:
        """Read a small tensor in its own shape."""
        info = self.info(adapter, key)
        return self.slice(adapter, key, 0, info.count).reshape(info.shape)

    def factor(self, adapter: int, view: FactorView, outer: int, inner: int) -> Factor:
        """Return a tensor, or a part of one, as an (outer, inner) matrix."""
        info = self.info(adapter, view.key)
        file = self.specs[adapter].weights
        return Factor(self.reader, file, info, view, outer, inner, self.dtype)
