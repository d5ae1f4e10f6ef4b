"""Weights with a grid of scales: w = (q - z) * s, one s (and z) for each block of q.

LLM.int8, FP8 with block, channel or tensor scales, and the integer and float layouts of
compressed-tensors are all this, with other names and other blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adreg.registry.errors import TensorFileBroken
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.quantised.bits import unpack_columns, unpack_rows
from adreg.registry.tensors.quantised.stored import Stored


class Codes(Protocol):
    """A matrix of small numbers, read by windows as float32."""

    def floats(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Return a window of codes."""


@dataclass(frozen=True, slots=True)
class PackedColumns:
    """Codes packed along the columns: code = bits - 2^(bits - 1)."""

    words: Stored
    bits: int

    def floats(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Return a window of codes; whole words are read."""
        per_word = 32 // self.bits
        first, last = columns.start // per_word, -(-columns.stop // per_word)
        words = self.words.window(reader, rows, slice(first, last))
        values = unpack_columns(words, self.bits)
        values = values[:, columns.start - first * per_word : columns.stop - first * per_word]
        return values.astype(np.float32) - np.float32(1 << (self.bits - 1))


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Codes packed along the rows: code = bits - 2^(bits - 1)."""

    words: Stored
    bits: int

    def floats(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Return a window of codes; whole words are read."""
        per_word = 32 // self.bits
        first, last = rows.start // per_word, -(-rows.stop // per_word)
        words = self.words.window(reader, slice(first, last), columns)
        values = unpack_rows(words, self.bits)
        values = values[rows.start - first * per_word : rows.stop - first * per_word]
        return values.astype(np.float32) - np.float32(1 << (self.bits - 1))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which scale belongs to which element, in each of ``stack`` matrices.

    A matrix of ``height`` rows has ``rows`` rows of scales, one for ``tall`` of its rows,
    and ``columns`` columns of scales, one for ``wide`` of its columns.
    """

    stack: int
    height: int
    rows: int
    columns: int
    tall: int
    wide: int

    def of_rows(self, rows: slice) -> Array:
        """Return the row of scales of each of these rows."""
        number = np.arange(rows.start, rows.stop)
        which: Array = number // self.height * self.rows + number % self.height // self.tall
        return which


def blocks_of(
    shape: tuple[int, ...],
    scales: tuple[int, ...],
    declared: tuple[int, int] | None = None,
) -> Blocks | None:
    """Return how scales of one shape cover codes of another, None if they cannot.

    A block of the ``declared`` size may hang over the edge (the last is then smaller, as
    in DeepSeek-V3); without one, blocks must divide the matrix (transformers 5.23,
    Fp8Dequantize).
    """
    if len(shape) < 2 or 0 in shape or 0 in scales:
        return None
    *leading, height, columns = shape
    stack = int(np.prod(leading, dtype=np.int64))
    if np.prod(scales, dtype=np.int64) == 1:
        return Blocks(1, stack * height, 1, 1, stack * height, columns)
    if not leading and scales == (height,):
        return Blocks(1, height, height, 1, 1, columns)
    if len(scales) != len(shape) or list(scales[:-2]) != leading:
        return None
    down, across = scales[-2:]
    tall, wide = declared or (0, 0)
    if tall and wide and (down, across) == (-(-height // tall), -(-columns // wide)):
        return Blocks(stack, height, down, across, tall, wide)
    divides = height % down == 0 and columns % across == 0
    return (
        Blocks(stack, height, down, across, height // down, columns // across) if divides else None
    )


@dataclass(frozen=True, slots=True)
class Grid:
    """w = (q - z) * s, and times ``factor`` where a layout has one; all in float32.

    ``groups`` holds the column of scales of each column, where they are not in order.
    """

    rows: int
    columns: int
    codes: Codes
    scales: Stored
    blocks: Blocks
    zeros: Codes | None = None
    groups: Stored | None = None
    factor: float | None = None

    def window(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Decode a window."""
        values = self.codes.floats(reader, rows, columns)
        down = self.blocks.of_rows(rows)
        across = self._of_columns(reader, columns)
        tall = slice(int(down[0]), int(down[-1]) + 1)
        wide = slice(int(across.min()), int(across.max()) + 1)
        if self.zeros is not None:
            values -= _spread(self.zeros.floats(reader, tall, wide), down, across)
        values *= _spread(self._scales(reader, tall, wide), down, across)
        if self.factor is not None:
            values *= np.float32(self.factor)
        return values

    def _of_columns(self, reader: TensorReader, columns: slice) -> Array:
        if self.groups is None:
            return np.arange(columns.start, columns.stop) // self.blocks.wide
        return groups_within(reader, self.groups, columns, self.blocks.columns)

    def _scales(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        stored = self.scales.window(reader, rows, columns)
        if stored.dtype == np.uint8:  # an E8M0 exponent under the name of a byte (MXFP8)
            return np.ldexp(np.float32(1), stored.astype(np.int32) - 127)
        return stored.astype(np.float32)


def _spread(block: Array, down: Array, across: Array) -> Array:
    """Repeat a grid over the elements; a single column is left to broadcasting."""
    tall: Array = block[down - down[0]]
    return tall if block.shape[1] == 1 else tall.take(across - across.min(), axis=1)


def groups_within(reader: TensorReader, groups: Stored, part: slice, count: int) -> Array:
    """Read the group numbers of a range; raise TensorFileBroken for one that is not there."""
    numbers: Array = groups.flat(reader, part.start, part.stop).astype(np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= count):
        raise TensorFileBroken(groups.path, f"{groups.info.name!r} names a group that has no scale")
    return numbers
