"""The part of W that PiSSA and OLoRA take away when PEFT loads the adapter, by row blocks.

    PiSSA   U_r S_r V_r^T, the r leading singular triples of W  (Meng et al., 2024,
            arXiv 2404.02948; whatever the scale s is: A and B are divided by it)
    OLoRA   s Q_r Q_r^T W, Q from the QR of W as it is stored  (Bueyuekakyuez, 2024,
            arXiv 2406.01775)

As peft 0.21.2 computes them at each load (tuners/lora/layer.py, ``pissa_init`` and
``olora_init``), but in float64, and what is left of W is not rounded to the base's dtype.
PEFT's own float32 decompositions were seen to be off by 2.6 * 2^-24 of the largest singular
value, over the gap between the r-th and the next: where the gap is of that size, neither
training nor loading knew which part was taken away, and such a merge is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from adreg.registry.errors import MergeRefused
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.terms import Decomposed
from adreg.registry.tensors.arrays import Array

Load = Callable[[Tile], Array]
"""Reads a block of W; the array may be overwritten by the next call."""

Factors = tuple[Array, Array]
"""L (rows, r) and R (columns, r) of a part L R^T, in float64."""

_BLOCK = 4 << 20
"""Elements of W that are held at once, in float64."""

_UNKNOWN = 2.0**-18
"""The least gap, over the largest singular value, that a float32 decomposition resolves to a
twentieth; likewise the least part of a column that is not in the span of those before it."""


class Decompositions:
    """The parts of one tensor's W, each computed once and kept while the tensor is merged.

    Memory: (rows + columns) * r and some blocks of W, and for PiSSA five times the smaller
    side squared (its Gram matrix and what its eigenvectors need), all in float64. A rank
    as large as the smaller side takes all of W.
    """

    def __init__(self, name: str, load: Load, rows: int, columns: int) -> None:
        """Read nothing yet; ``name`` is the tensor's, for refusals."""
        self._name, self._load, self._rows, self._columns = name, load, rows, columns
        self._known: dict[Decomposed, Factors] = {}

    def part(self, term: Decomposed) -> Factors:
        """Return L and R of what is taken away.

        Raises MergeRefused where float32 does not tell which part that is.
        """
        if term not in self._known:
            compute = self._pissa if term.kind == "pissa" else self._olora
            self._known[term] = compute(term)
        return self._known[term]

    def _pissa(self, term: Decomposed) -> Factors:
        tall = self._columns <= self._rows
        gram = self._gram_of_columns() if tall else self._gram_of_rows()
        if not np.isfinite(gram).all():
            raise self._refusal("PiSSA's part: W holds values that are not finite")
        values, vectors = np.linalg.eigh(gram)
        del gram
        self._check_gap(np.sqrt(np.clip(values[::-1], 0, None)), term.rank)
        leading = np.ascontiguousarray(vectors[:, ::-1][:, : term.rank])
        # W V_r V_r^T, or U_r U_r^T W: the same part.
        return (self._times(leading), leading) if tall else (leading, self._transposed(leading))

    def _olora(self, term: Decomposed) -> Factors:
        first = np.empty((self._rows, min(term.rank, self._columns)))
        for row, block in self._blocks():
            first[row : row + len(block)] = block[:, : first.shape[1]]
        q, r = np.linalg.qr(first)
        if len(first) > first.shape[1]:
            # A column of zeros leaves Householder's vectors as they are: that is no doubt.
            own, whole = np.abs(np.diag(r)), np.linalg.norm(first, axis=0)
            doubtful = np.flatnonzero((own < _UNKNOWN * whole) & (whole > 0))
            if doubtful.size:
                raise self._refusal(
                    f"OLoRA's Q: column {doubtful[0]} is in the span of those before it"
                )
        return q * term.scale, self._transposed(q)

    def _check_gap(self, singular: Array, rank: int) -> None:
        if rank >= len(singular) or not singular[0]:
            return
        last, following = singular[rank - 1 : rank + 1] / singular[0]
        if last - following < _UNKNOWN < last:
            raise self._refusal(
                f"PiSSA's part of rank {rank}: singular values {rank} and {rank + 1} of W differ"
                f" by {(last - following) / last:.1g} of their size"
            )

    def _refusal(self, what: str) -> MergeRefused:
        return MergeRefused(
            (f"{self._name!r} does not tell {what}",),
            "Save the adapter with path_initial_model_for_weight_conversion, on the machine that"
            " trained it, to make it an ordinary LoRA.",
        )

    def _blocks(self, start: int = 0) -> Iterator[tuple[int, Array]]:
        """Give blocks of whole rows, in float64, with the number of the first row."""
        step = max(1, _BLOCK // max(1, self._columns))
        for row in range(start, self._rows, step):
            tile = Tile(row, min(self._rows, row + step), 0, self._columns)
            yield row, self._load(tile).astype(np.float64)

    def _gram_of_columns(self) -> Array:
        gram = np.zeros((self._columns, self._columns))
        for _, block in self._blocks():
            gram += block.T @ block
        return gram

    def _gram_of_rows(self) -> Array:
        """Return W W^T; each block of rows meets those after it, which are read again."""
        gram = np.zeros((self._rows, self._rows))
        for row, block in self._blocks():
            for other, second in self._blocks(row):
                product = block @ second.T
                gram[row : row + len(block), other : other + len(second)] = product
                gram[other : other + len(second), row : row + len(block)] = product.T
        return gram

    def _times(self, right: Array) -> Array:
        """Return W V."""
        result = np.empty((self._rows, right.shape[1]))
        for row, block in self._blocks():
            result[row : row + len(block)] = block @ right
        return result

    def _transposed(self, left: Array) -> Array:
        """Return W^T U."""
        result = np.zeros((self._columns, left.shape[1]))
        for row, block in self._blocks():
            result += block.T @ left[row : row + len(block)]
        return result


class Withdrawal:
    """Take L R^T away: what W was when the adapter was trained."""

    additive = True

    def __init__(self, factors: Factors, dtype: np.dtype[np.floating]) -> None:
        """Hold the factors in the type of the sums."""
        self._left, self._right = (np.ascontiguousarray(one, dtype) for one in factors)

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Subtract ``weight`` times the part."""
        left = self._left[tile.row : tile.row_stop] * block.dtype.type(weight)
        block -= left @ self._right[tile.column : tile.column_stop].T
