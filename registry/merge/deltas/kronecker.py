"""LoKr's Kronecker products, block by block (Yeh et al., 2024, arXiv 2309.14859).

Checked against peft 0.21.2, tuners/lokr/layer.py, ``make_kron``.
"""

from __future__ import annotations

import numpy as np

from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.terms import Kronecker
from adreg.registry.tensors.arrays import Array


class KroneckerProduct:
    """s kron(P, Q). Both are held: Q has as many elements as W over those of P."""

    additive = True

    def __init__(self, term: Kronecker, adapter: int, opened: Opened) -> None:
        """Read P (a, b) and Q (c, d), each whole or as the product of two."""
        self.scale = term.scale
        self.p, self.q = (_matrix(keys, adapter, opened) for keys in (term.first, term.second))
        if term.transposed:
            self.p, self.q = self.p.T.copy(), self.q.T.copy()

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Add ``weight`` times the product: element (i, j) is P[i // c, j // d] Q[i % c, j % d]."""
        height, width = self.q.shape
        rows = np.arange(tile.row, tile.row_stop)
        columns = np.arange(tile.column, tile.column_stop)
        scale = block.dtype.type(weight * self.scale)
        for index, row in enumerate(rows):
            p, q = self.p[row // height], self.q[row % height] * scale
            block[index] += p[columns // width] * q[columns % width]


def _matrix(keys: tuple[str, ...], adapter: int, opened: Opened) -> Array:
    matrices = [opened.whole(adapter, key) for key in keys]
    return matrices[0] if len(matrices) == 1 else matrices[0] @ matrices[1]
