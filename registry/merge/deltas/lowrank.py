"""Products of low-rank factors, block by block.

    LoRA     s B A                   (Hu et al., 2021, arXiv 2106.09685)
    rsLoRA   the same with s = alpha / sqrt(r)  (Kalajdzievski, 2023, arXiv 2312.03732)
    AdaLoRA  s P diag(E) Q           (Zhang et al., 2023, arXiv 2303.10512)
    LoHa     s (B1 A1) * (B2 A2)     (Hyeon-Woo et al., 2022, arXiv 2108.06098)

Checked against peft 0.21.2, tuners/{lora,adalora,loha}/layer.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.scratch import scratch
from adreg.registry.merge.terms import Hadamard, LowRank
from adreg.registry.tensors.arrays import Array


class Product:
    """s L diag(d) R^T. R is held as (columns, r), so that both are sliced by rows."""

    additive = True

    def __init__(
        self, term: LowRank, adapter: int, rows: int, columns: int, opened: Opened
    ) -> None:
        """Read the factors that are small enough to hold."""
        self.scale = term.scale
        self.first, self.last = term.rows or (0, rows)
        if term.rank == 0:  # AdaLoRA's budget may leave a module nothing
            self.first = self.last = 0
            return
        self.left = opened.factor(adapter, term.left, self.last - self.first, term.rank)
        self.right = opened.factor(adapter, term.right, columns, term.rank)
        self.middle = None if term.middle is None else opened.whole(adapter, term.middle).ravel()

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Add ``weight`` times the product to the rows that it has."""
        start, stop = max(tile.row, self.first), min(tile.row_stop, self.last)
        if start >= stop:
            return
        if stop - start == len(block):
            block += self._product(start, stop, tile, weight, block.dtype)
        else:
            product = self._product(start, stop, tile, weight, block.dtype)
            block[start - tile.row : stop - tile.row] += product

    def write(self, block: Array, tile: Tile, weight: float) -> bool:
        """Write ``weight`` times the product, if it has all rows of the tile; else tell so."""
        if self.first <= tile.row and tile.row_stop <= self.last:
            self._product(tile.row, tile.row_stop, tile, weight, block.dtype, block)
            return True
        return False

    def _product(  # noqa: PLR0913, PLR0917  # a place in the matrix, and where to put it
        self,
        start: int,
        stop: int,
        tile: Tile,
        weight: float,
        dtype: np.dtype[Any],
        out: Array | None = None,
    ) -> Array:
        left = self.left.rows(start - self.first, stop - self.first)  # (rows, r)
        right = self.right.rows(tile.column, tile.column_stop)  # (columns, r)
        # In the type of W's block: a float64 W keeps its digits.
        left = left * dtype.type(weight * self.scale)
        if self.middle is not None:
            left *= self.middle
        if out is None:
            out = scratch("product", (len(left), len(right)), dtype)
        return np.matmul(left, right.T, out=out)

    def value(self, tile: Tile, like: Array) -> Array:
        """Return the product alone."""
        block = like.copy()
        block[...] = 0
        self.apply(block, tile, 1.0)
        return block


class ElementwiseProduct:
    """s times the elementwise product of two low-rank products."""

    additive = True

    def __init__(
        self, term: Hadamard, adapter: int, rows: int, columns: int, opened: Opened
    ) -> None:
        """Read the factors that are small enough to hold."""
        self.scale = term.scale
        self.first = Product(term.first, adapter, rows, columns, opened)
        self.second = Product(term.second, adapter, rows, columns, opened)

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Add ``weight`` times the product."""
        product = self.first.value(tile, block)
        product *= self.second.value(tile, block)
        product *= block.dtype.type(weight * self.scale)
        block += product
