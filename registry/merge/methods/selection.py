"""The k largest of many numbers, exactly, without holding them: a radix selection.

The bits of a non-negative IEEE float, read as an unsigned integer, are in the order of the
floats. So the k-th largest is found 16 bits at a time, from histograms of all tiles: two
passes in float32, four in float64, and one more only where some of several equal elements
are kept. Of those, the ones with the lowest flat index are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adreg.registry.tensors.arrays import Array

_DIGIT = 16
_BINS = 1 << _DIGIT

Seen = tuple[Array, Array] | int
"""Bins that a tile fills and their counts; or its number of elements at the threshold."""


def magnitude_bits(block: Array) -> Array:
    """Return |block| as flat unsigned integers of the same order and width; NaN is largest."""
    magnitude = np.abs(block).ravel()
    return magnitude.view(np.dtype(f"u{magnitude.dtype.itemsize}"))


class Largest:
    """Which elements are the ``count`` largest: look at all tiles, once a pass, then ask.

    ``count`` may be set until the first pass is closed. Elements that are zero may all
    count as kept or dropped where they are equal at the threshold: nothing depends on it.
    """

    def __init__(self, count: int, total: int, dtype: np.dtype[Any]) -> None:
        """Seek the ``count`` largest of ``total`` elements of a float ``dtype``."""
        self.count = count
        self._total = total
        self._shift = dtype.itemsize * 8 - _DIGIT  # of the digit that this pass decides
        self._digit_left = True
        self._prefix = 0  # the digits decided so far; after the last, the threshold
        self._wanted = 0  # how many at the prefix are kept
        self._histogram = np.zeros(_BINS, np.int64)
        self._counting = False  # the pass that finds where equal elements are cut
        self._equal = 0
        self._cut: tuple[int, int] | None = None  # a tile's start, and how many there are kept

    @property
    def passes_left(self) -> bool:
        """Whether another look at all tiles is needed."""
        return (self._digit_left or self._counting) and 0 < self.count < self._total

    def look(self, bits: Array) -> Seen:
        """Return what this pass wants to know of a tile; pure."""
        if self._counting:
            return int(np.count_nonzero(bits == self._prefix))
        if self._shift + _DIGIT < bits.dtype.itemsize * 8:
            bits = bits[(bits >> bits.dtype.type(self._shift + _DIGIT)) == self._prefix]
        digits = ((bits >> bits.dtype.type(self._shift)) & bits.dtype.type(_BINS - 1)).astype(
            np.uint16
        )
        if digits.size < _BINS // 16:
            return np.unique(digits, return_counts=True)
        counts = np.bincount(digits, minlength=_BINS)
        bins = np.flatnonzero(counts)
        return bins.astype(np.uint16), counts[bins]

    def take(self, start: int, seen: Seen) -> None:
        """Add a tile that begins at flat index ``start``; tiles come in their order."""
        if not isinstance(seen, int):
            bins, counts = seen
            self._histogram[bins] += counts
            return
        if self._cut is None and self._equal + seen > self._wanted:
            self._cut = (start, self._wanted - self._equal)
        self._equal += seen

    def close_pass(self) -> None:
        """Decide a digit of the threshold, or the cut."""
        if self._counting or not self.passes_left:
            self._counting = self._digit_left = False
            return
        wanted = self._wanted or self.count
        from_top = np.cumsum(self._histogram[::-1])
        place = int(np.searchsorted(from_top, wanted))
        digit = _BINS - 1 - place
        there = int(self._histogram[digit])
        self._wanted = wanted - (int(from_top[place]) - there)
        self._prefix = (self._prefix << _DIGIT) | digit
        self._histogram[:] = 0
        self._digit_left = self._shift > 0
        self._shift -= _DIGIT
        self._counting = not self._digit_left and self._wanted < there and self._prefix > 0

    def kept(self, bits: Array, start: int) -> Array:
        """Return a flat mask of a tile's elements that are kept; pure."""
        if self.count <= 0:
            return np.zeros(bits.shape, np.bool_)
        if self.count >= self._total:
            return np.ones(bits.shape, np.bool_)
        if self._cut is None or start < self._cut[0]:
            return bits >= self._prefix
        mask = bits > self._prefix
        if start == self._cut[0]:
            mask[np.flatnonzero(bits == self._prefix)[: self._cut[1]]] = True
        return mask
