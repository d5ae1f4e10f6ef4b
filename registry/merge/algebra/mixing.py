"""Combining tensors element by element, as PEFT does in ``add_weighted_adapter``.

The formulas of peft 0.21.2, utils/merge_utils.py, in its flavour: signs are voted on
before the weights count, and what is kept is divided by how many agree
(TIES: Yadav et al., 2023, arXiv 2306.01708), random pruning divides by the density
(DARE: Yu et al., 2023, arXiv 2311.03099). Unlike there, the draws have a seed, and of
equal magnitudes the first are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adreg.registry.merge.algebra.draws import generator
from adreg.registry.tensors.arrays import Array

Majority = Literal["total", "frequency"]
Pruning = Literal["none", "magnitude", "random"]


@dataclass(frozen=True, slots=True)
class Mix:
    """One way to combine: how each tensor is pruned first, and whether signs are elected."""

    pruning: Pruning
    elects: bool


MIXES: dict[str, Mix] = {
    "linear": Mix("none", elects=False),
    "ties": Mix("magnitude", elects=True),
    "dare_linear": Mix("random", elects=False),
    "dare_ties": Mix("random", elects=True),
    "magnitude_prune": Mix("magnitude", elects=False),
}
"""PEFT's combination types that work element by element, by its names for them."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The top k magnitudes: all above ``bits``, and of those equal the first, up to ``last``.

    ``bits`` is a float32 without its sign, read as an integer: the order is the same.
    """

    bits: int
    last: int

    def keeps(self, block: Array, start: int) -> Array:
        """Return the mask of a float32 block whose first element has the flat place ``start``."""
        bits = _magnitude_bits(block)
        places = np.arange(start, start + block.size).reshape(block.shape)
        kept: Array = (bits > self.bits) | ((bits == self.bits) & (places <= self.last))
        return kept


def find_cut(blocks: Callable[[], Iterable[Array]], keep: int) -> Cut:
    """Return the cut that keeps the ``keep`` largest magnitudes of a tensor seen by blocks.

    ``blocks`` gives the float32 blocks in order, anew at each call: two passes narrow the
    magnitude down by 16 bits each, a third finds the last of the equal ones.
    """
    if keep <= 0:
        return Cut(1 << 31, -1)
    high, above = _bucket((_magnitude_bits(block) >> 16 for block in blocks()), keep)
    low, above_low = _bucket(
        (bits[bits >> 16 == high] & 0xFFFF for bits in map(_magnitude_bits, blocks())),
        keep - above,
    )
    threshold = high << 16 | low
    remaining, start = keep - above - above_low, 0
    for block in blocks():
        equal = np.flatnonzero(_magnitude_bits(block) == threshold)
        if len(equal) >= remaining:
            return Cut(threshold, start + int(equal[remaining - 1]))
        remaining -= len(equal)
        start += block.size
    return Cut(threshold, start)


def keep_count(density: float, size: int) -> int:
    """Return how many elements a density keeps (PEFT cuts off the fraction)."""
    return int(density * size)


def prune_randomly(block: Array, density: float, *names: str | int) -> Array:
    """Return a block with elements dropped at random and the rest divided by the density."""
    kept = generator("dare", *names).random(block.shape, dtype=np.float32) < density
    pruned: Array = np.where(kept, block, block.dtype.type(0)) / block.dtype.type(density)
    return pruned


def mix(
    pruned: Sequence[Array], weights: Sequence[float], how: Mix, majority: Majority = "total"
) -> Array:
    """Return the combination of pruned tensors of one shape, in their own precision."""
    dtype = pruned[0].dtype.type
    if not how.elects:
        total: Array = pruned[0] * dtype(weights[0])
        for tensor, weight in zip(pruned[1:], weights[1:], strict=True):
            total += tensor * dtype(weight)
        return total
    votes = [np.sign(tensor) if majority == "frequency" else tensor for tensor in pruned]
    elected: Array = np.where(sum(votes[1:], votes[0]) >= 0, dtype(1), dtype(-1))
    total = np.zeros_like(pruned[0])
    count: Array = np.zeros(total.shape, dtype)
    for tensor, weight in zip(pruned, weights, strict=True):
        agrees = np.sign(tensor) == elected
        total += np.where(agrees, tensor * dtype(weight), dtype(0))
        count += agrees
    total /= np.maximum(count, dtype(1))
    return total


def _magnitude_bits(block: Array) -> Array:
    flat = np.ascontiguousarray(block, dtype=np.float32).view(np.uint32)
    bits: Array = flat & np.uint32(0x7FFF_FFFF)
    return bits


def _bucket(halves: Iterable[Array], keep: int) -> tuple[int, int]:
    """Return the 16 bits that the ``keep``-th largest has, and how many are above them."""
    counts = np.zeros(1 << 16, np.int64)
    for half in halves:
        counts += np.bincount(half.reshape(-1), minlength=1 << 16)
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, keep))
    above = int(from_top[place - 1]) if place else 0
    return (1 << 16) - 1 - place, above
