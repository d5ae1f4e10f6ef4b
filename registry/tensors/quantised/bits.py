"""Small integers packed into 32-bit words, first value in the lowest bits."""

from __future__ import annotations

import numpy as np

from adreg.registry.tensors.arrays import Array


def unpack_columns(words: Array, bits: int) -> Array:
    """Return (rows, columns * 32 // bits) values of int32 words (rows, columns).

    ``bits`` divides 8; the values are unsigned, as uint8.
    """
    packed = np.ascontiguousarray(words).view(np.uint8)  # little-endian: lowest byte first
    if bits == 8:
        return packed
    count, mask = 8 // bits, np.uint8((1 << bits) - 1)
    values = np.empty((*packed.shape, count), np.uint8)
    for number in range(count):
        np.bitwise_and(packed >> np.uint8(number * bits), mask, out=values[:, :, number])
    return values.reshape(len(words), -1)


def unpack_rows(words: Array, bits: int) -> Array:
    """Return (rows * 32 // bits, columns) values of int32 words (rows, columns)."""
    return unpack_columns(words.T, bits).T
