"""Deltas thinned out, then summed: task arithmetic, TIES, DARE, DELLA, Breadcrumbs.

mergekit's order (0.1.5, merge_methods/generalized_task_arithmetic.py and sparsify.py):

    d_i' = w_i s_i m_i d_i      m_i: what is kept; s_i = |d_i|_1 / |m_i d_i|_1, or 1
    a_i  = has the sign elected among the d_i', or 1
    lambda sum(a_i d_i') / sum(a_i |w_i|)    the divisor only with normalize; 0 becomes 1

    mergekit divides by sum(a_i w_i): the same while no weight is negative, but with one
    it turns the sign of the outcome, and a skill that was to be subtracted is added.

PEFT's (0.21.2, utils/merge_utils.py):

    d_i' = m_i d_i, divided by the density where m_i is by chance
    a_i  = has the sign elected among the d_i', or 1
    sum(a_i w_i d_i') / max(1, sum(a_i))     the divisor only where signs are elected
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.combination import Choice
from adreg.registry.merge.methods.masks import Everything, Mask
from adreg.registry.merge.methods.method import Method, Sign
from adreg.registry.merge.methods.signs import agreeing
from adreg.registry.tensors.arrays import Array

_NO_NORM = 1e-7
"""An L1 norm below which mergekit 0.1.5 does not rescale (sparsify.py, ``eps``)."""

_NO_WEIGHT = 1e-8
"""A sum of weights, no sign elected, that mergekit 0.1.5 does not divide by."""


class _Masked:
    """The passes that the masks need, and one for the L1 norms where ``rescale``."""

    def __init__(self, masks: Sequence[Mask], columns: int, *, rescale: bool) -> None:
        self._masks = masks
        self._columns = columns
        self.measures = rescale and not all(isinstance(mask, Everything) for mask in masks)
        self._norms_left = self.measures
        self._norms = np.zeros((len(masks), 2))  # of each delta: whole, and what is kept of it
        self.factors = np.ones(len(masks))

    @property
    def _masks_left(self) -> bool:
        return any(mask.passes_left for mask in self._masks)

    @property
    def passes_left(self) -> bool:
        """Whether a mask or a norm is not yet known."""
        return self._masks_left or self._norms_left

    @np.errstate(all="ignore")
    def look(self, base: Array, deltas: Sequence[Array], tile: Tile) -> list[Any]:  # noqa: ARG002
        """Return what each mask must know, or the tile's two L1 norms of each delta."""
        pairs = list(zip(self._masks, deltas, strict=True))
        if self._masks_left:
            return [m.look(delta, tile) if m.passes_left else None for m, delta in pairs]
        return [self._two_norms(mask, delta, tile) for mask, delta in pairs]

    @staticmethod
    def _two_norms(mask: Mask, delta: Array, tile: Tile) -> tuple[float, float]:
        magnitude = np.abs(delta)
        whole = float(magnitude.sum(dtype=np.float64))
        kept = mask.kept(delta, tile)
        if kept is None:
            return whole, whole
        return whole, float((magnitude * kept).sum(dtype=np.float64))

    def take(self, tile: Tile, seen: list[Any]) -> None:
        """Add a tile's share."""
        if not self._masks_left:
            self._norms += np.asarray(seen)
            return
        for mask, its in zip(self._masks, seen, strict=True):
            if mask.passes_left:
                mask.take(tile, its)

    @np.errstate(all="ignore")
    def close_pass(self) -> None:
        """Close the masks' pass, or turn the norms into factors."""
        if not self._masks_left:
            whole, kept = self._norms.T
            usable = ~((whole < _NO_NORM) | (kept < _NO_NORM))  # a NaN is used, and shows
            self.factors = np.where(usable, whole / np.where(usable, kept, 1), 1)
            self._norms_left = False
            return
        for mask in self._masks:
            if mask.passes_left:
                mask.close_pass()

    def kept(self, deltas: Sequence[Array], tile: Tile) -> list[Array | None]:
        """Return m_i, None for all."""
        return [mask.kept(delta, tile) for mask, delta in zip(self._masks, deltas, strict=True)]

    @staticmethod
    def thinned(deltas: Sequence[Array], masks: Sequence[Array | None]) -> list[Array]:
        """Return m_i d_i. A product, not a choice: what is not finite must not be dropped."""
        pairs = zip(deltas, masks, strict=True)
        return [delta.copy() if mask is None else delta * mask for delta, mask in pairs]


class MergekitSum(_Masked):
    """mergekit's generalised task arithmetic; ``sign`` None elects none."""

    def __init__(
        self,
        method: Method,
        masks: Sequence[Mask],
        weights: Sequence[float],
        columns: int,
        *,
        sign: Sign | None,
    ) -> None:
        """Combine with the method's normalize, rescale and lambda."""
        super().__init__(masks, columns, rescale=bool(method.rescale))
        self._weights = weights
        self._sign = sign
        self._normalize = method.normalize
        self._lambda = 1.0 if method.lambda_ is None else method.lambda_

    def _parts(self, deltas: Sequence[Array], masks: Sequence[Array | None]) -> list[Array]:
        parts = self.thinned(deltas, masks)
        for part, weight, factor in zip(parts, self._weights, self.factors, strict=True):
            np.multiply(part, part.dtype.type(factor), out=part)
            np.multiply(part, part.dtype.type(weight), out=part)
        return parts

    @np.errstate(all="ignore")
    def choose(self, deltas: Sequence[Array], tile: Tile) -> Choice:
        """Return m_i and a_i of a tile."""
        kept = self.kept(deltas, tile)
        if self._sign is None:
            return Choice(kept)
        return Choice(kept, agreeing(self._parts(deltas, kept), self._sign))

    @np.errstate(all="ignore")
    def combine(
        self, base: Array, deltas: Sequence[Array], tile: Tile, choice: Choice | None = None
    ) -> Array:
        """Return lambda sum(a_i d_i') / sum(a_i |w_i|) of a tile."""
        number = base.dtype.type
        parts = self._parts(deltas, self.kept(deltas, tile) if choice is None else choice.kept)
        agree: Sequence[Array] | None = None
        if self._sign is not None:
            agree = agreeing(parts, self._sign) if choice is None else choice.agreeing
        result = np.zeros_like(base)
        for position, part in enumerate(parts):
            result += part if agree is None else part * agree[position]
        if self._normalize:
            result /= self._divisor(agree, base.dtype)
        if self._lambda != 1:
            result *= number(self._lambda)
        return result

    def _divisor(self, agree: Sequence[Array] | None, dtype: np.dtype[Any]) -> Array:
        if agree is None:
            total = sum(abs(weight) for weight in self._weights)
            return np.asarray(1 if total < _NO_WEIGHT else total, dtype)
        divisor = np.zeros(agree[0].shape, dtype)
        for mask, weight in zip(agree, self._weights, strict=True):
            divisor += mask * dtype.type(abs(weight))
        divisor[divisor == 0] = 1
        return divisor


class PeftSum(_Masked):
    """PEFT's combinations of full deltas; ``divisor`` is the density of a random choice."""

    def __init__(
        self,
        masks: Sequence[Mask],
        weights: Sequence[float],
        columns: int,
        *,
        sign: Sign | None,
        divisor: float = 1.0,
    ) -> None:
        """Elect signs before the weights, or none where ``sign`` is None."""
        super().__init__(masks, columns, rescale=False)
        self._weights = weights
        self._sign = sign
        self._divisor = divisor

    def _parts(self, deltas: Sequence[Array], masks: Sequence[Array | None]) -> list[Array]:
        parts = self.thinned(deltas, masks)
        if self._divisor != 1:
            for part in parts:
                np.divide(part, part.dtype.type(self._divisor), out=part)
        return parts

    @np.errstate(all="ignore")
    def choose(self, deltas: Sequence[Array], tile: Tile) -> Choice:
        """Return m_i and a_i of a tile."""
        kept = self.kept(deltas, tile)
        if self._sign is None:
            return Choice(kept)
        return Choice(kept, agreeing(self._parts(deltas, kept), self._sign))

    @np.errstate(all="ignore")
    def combine(
        self, base: Array, deltas: Sequence[Array], tile: Tile, choice: Choice | None = None
    ) -> Array:
        """Return sum(a_i w_i d_i'), where signs are elected over the number that agree."""
        number = base.dtype.type
        parts = self._parts(deltas, self.kept(deltas, tile) if choice is None else choice.kept)
        agree: Sequence[Array] | None = None
        if self._sign is not None:
            agree = agreeing(parts, self._sign) if choice is None else choice.agreeing
        result = np.zeros_like(base)
        count = np.zeros_like(base)
        for position, (part, weight) in enumerate(zip(parts, self._weights, strict=True)):
            np.multiply(part, number(weight), out=part)
            if agree is None:
                result += part
            else:
                result += part * agree[position]
                count += agree[position]
        if agree is not None:
            result /= np.maximum(count, 1)
        return result
