"""SCE: select what differs, calculate weights from squares, erase the minority's sign.

    d_i' = w_i d_i on the elements whose variance over the deltas is among the largest
           int(density * number of variances that are not zero), else 0
    c_i  = sum(d_i'^2) / sum over i of the same
    a_i  = has the sign elected among the d_i'
    sum(a_i c_i d_i') / sum(a_i c_i)

(Wan et al., arXiv 2408.07990; mergekit 0.1.5, merge_methods/sce.py, which has no w_i.
There c_i are all equal once the mean squares sum to less than 1e-6, as those of most LoRA
deltas do; here only when all are zero.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.combination import Choice
from adreg.registry.merge.methods.method import Sign
from adreg.registry.merge.methods.selection import Largest, magnitude_bits
from adreg.registry.merge.methods.signs import agreeing
from adreg.registry.tensors.arrays import Array


class Sce:
    """SCE of one tensor: the passes of a selection by variance, then one for the squares."""

    measures = True

    def __init__(  # noqa: PLR0913, PLR0917  # the formula's three, the tensor's three
        self,
        density: float,
        sign: Sign,
        weights: Sequence[float],
        rows: int,
        columns: int,
        dtype: np.dtype[Any],
    ) -> None:
        """Combine as many deltas as there are weights."""
        self._density = density
        self._sign = sign
        self._weights = weights
        self._columns = columns
        self._differing = 0
        self._counted = False
        # How many are sought is known after the first pass; until then, that some are.
        self._largest = None if density >= 1 else Largest(1, rows * columns + 1, dtype)
        self._squares = np.zeros(len(weights))
        self._squares_left = True
        self._shares = np.zeros(len(weights))

    @property
    def _selecting(self) -> Largest | None:
        return self._largest if self._largest is not None and self._largest.passes_left else None

    @property
    def passes_left(self) -> bool:
        """Whether the selection or the weights are not yet known."""
        return self._squares_left

    def _weighted(self, deltas: Sequence[Array]) -> list[Array]:
        return [d * d.dtype.type(weight) for d, weight in zip(deltas, self._weights, strict=True)]

    @staticmethod
    def _variance(parts: Sequence[Array]) -> Array:
        """Return the population variance; exactly zero where all are equal."""
        shifted = [part - parts[0] for part in parts]
        mean = np.zeros_like(parts[0])
        for part in shifted:
            mean += part
        mean /= len(parts)
        variance = np.zeros_like(mean)
        for part in shifted:
            variance += np.square(part - mean)
        variance /= len(parts)
        return variance

    def _mask(self, parts: Sequence[Array], tile: Tile) -> Array | None:
        """Return where the variance is among the largest, None for everywhere."""
        if self._largest is None:
            return None
        bits = magnitude_bits(self._variance(parts))
        kept: Array = self._largest.kept(bits, tile.start(self._columns))
        return kept.reshape(parts[0].shape)

    def _selected(
        self, deltas: Sequence[Array], tile: Tile, choice: Choice | None = None
    ) -> list[Array]:
        parts = self._weighted(deltas)
        kept = self._mask(parts, tile) if choice is None else choice.kept[0]
        return parts if kept is None else [part * kept for part in parts]

    @np.errstate(all="ignore")
    def look(self, base: Array, deltas: Sequence[Array], tile: Tile) -> Any:  # noqa: ANN401, ARG002
        """Return the variances' part of this pass, or the sums of squares."""
        if self._selecting is not None:
            variance = self._variance(self._weighted(deltas))
            return self._selecting.look(magnitude_bits(variance)), int(np.count_nonzero(variance))
        parts = self._selected(deltas, tile)
        return [float(np.square(part, dtype=np.float64).sum()) for part in parts]

    def take(self, tile: Tile, seen: Any) -> None:  # noqa: ANN401
        """Add a tile's share."""
        if self._selecting is None:
            self._squares += np.asarray(seen)
            return
        its, differing = seen
        self._selecting.take(tile.start(self._columns), its)
        self._differing += 0 if self._counted else differing

    @np.errstate(all="ignore")
    def close_pass(self) -> None:
        """Narrow the selection, or turn the squares into weights."""
        selecting = self._selecting
        if selecting is not None:
            if not self._counted:
                selecting.count = int(self._density * self._differing)
                self._counted = True
            selecting.close_pass()
            return
        total = self._squares.sum()
        count = len(self._squares)
        self._shares = np.full(count, 1 / count) if total == 0 else self._squares / total
        self._squares_left = False

    @np.errstate(all="ignore")
    def choose(self, deltas: Sequence[Array], tile: Tile) -> Choice:
        """Return what is selected, the same of all, and a_i."""
        parts = self._weighted(deltas)
        kept = self._mask(parts, tile)
        chosen = parts if kept is None else [part * kept for part in parts]
        return Choice([kept] * len(parts), agreeing(chosen, self._sign))

    @np.errstate(all="ignore")
    def combine(
        self, base: Array, deltas: Sequence[Array], tile: Tile, choice: Choice | None = None
    ) -> Array:
        """Return sum(a_i c_i d_i') / sum(a_i c_i) of a tile, 0 where none agrees."""
        parts = self._selected(deltas, tile, choice)
        given = None if choice is None else choice.agreeing
        agreeing_parts = agreeing(parts, self._sign) if given is None else given
        result = np.zeros_like(base)
        divisor = np.zeros_like(base)
        for part, agree, share in zip(parts, agreeing_parts, self._shares, strict=True):
            scale = agree * base.dtype.type(share)
            result += part * scale
            divisor += scale
        divisor[divisor == 0] = 1
        result /= divisor
        return result
