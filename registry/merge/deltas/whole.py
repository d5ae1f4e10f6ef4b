"""What replaces, adds to or scales a tensor element by element."""

from __future__ import annotations

import numpy as np

from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.scratch import scratch
from adreg.registry.merge.terms import Full, Normalised, Rows, Scaling, Vector
from adreg.registry.tensors.arrays import Array


class Addition:
    """b += s v: the bias of lora_B."""

    additive = True

    def __init__(self, term: Vector, adapter: int, columns: int, opened: Opened) -> None:
        """Read nothing yet."""
        self._term, self._adapter, self._columns, self._opened = term, adapter, columns, opened

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Add ``weight`` times the vector."""
        start = tile.start(self._columns)
        values = self._opened.slice(self._adapter, self._term.key, start, start + block.size)
        block += values.reshape(block.shape) * block.dtype.type(weight * self._term.scale)


class Replacement:
    """A whole parameter in place of W: modules_to_save, a trained bias."""

    additive = False

    def __init__(self, term: Full, adapter: int, columns: int, opened: Opened) -> None:
        """Read nothing yet."""
        self._term, self._adapter, self._columns, self._opened = term, adapter, columns, opened

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Overwrite the block."""
        del weight
        start = tile.start(self._columns)
        values = self._opened.slice(self._adapter, self._term.key, start, start + block.size)
        block[...] = values.reshape(block.shape)


class RowReplacement:
    """Single trained rows in place of W's (peft 0.21.2, tuners/trainable_tokens/layer.py)."""

    additive = False

    def __init__(self, term: Rows, adapter: int, opened: Opened) -> None:
        """Read nothing yet."""
        self._places = {number: place for place, number in enumerate(term.numbers)}
        self._key, self._adapter, self._opened = term.key, adapter, opened

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Overwrite the numbered rows in the block."""
        del weight
        width = self._opened.info(self._adapter, self._key).shape[1]
        for row in range(tile.row, tile.row_stop):
            if (place := self._places.get(row)) is not None:
                start, stop = place * width + tile.column, place * width + tile.column_stop
                values = self._opened.slice(self._adapter, self._key, start, stop)
                block[row - tile.row] = values


class Scaled:
    """Each row or column times its element: (IA)3 (Liu et al., 2022, arXiv 2205.05638)."""

    additive = False

    def __init__(self, term: Scaling, adapter: int, opened: Opened) -> None:
        """Read the vector."""
        self._vector = opened.whole(adapter, term.key).ravel()
        self._of = term.of

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Multiply the block."""
        del weight
        if self._of == "rows":
            block *= self._vector[tile.row : tile.row_stop, None]
        else:
            block *= self._vector[None, tile.column : tile.column_stop]


class Normalisation:
    """DoRA's m / |W + delta|.

    The norms of rows are taken of a block of whole rows itself; those of columns, and of
    rows that are cut, must be added up of all blocks before.
    """

    additive = False

    def __init__(
        self, term: Normalised, adapter: int, rows: int, columns: int, opened: Opened
    ) -> None:
        """Start from sums of squares of zero."""
        self._term, self._adapter, self._opened = term, adapter, opened
        self._of_rows = term.norm_of == "rows"
        self._columns = columns
        self._squares = np.zeros(rows if self._of_rows else columns, np.float64)
        self._factor: Array | None = None

    def is_within(self, columns: int) -> bool:
        """Tell whether a block as wide as this holds all that a norm is taken of."""
        return self._of_rows and columns == self._columns

    def squares(self, direction: Array) -> Array:
        """Return the sums of squares of one block of W + delta, which is overwritten."""
        np.square(direction, out=direction)
        return np.asarray(direction.sum(axis=1 if self._of_rows else 0, dtype=np.float64))

    def add(self, tile: Tile, squares: Array) -> None:
        """Add one block's sums; the order of calls decides the last bits."""
        if self._of_rows:
            self._squares[tile.row : tile.row_stop] += squares
        else:
            self._squares[tile.column : tile.column_stop] += squares

    def close(self) -> None:
        """Turn the sums of squares into the factors m / norm."""
        self._factor = self._factors(0, self._squares)

    def _factors(self, start: int, squares: Array) -> Array:
        magnitude = self._opened.slice(
            self._adapter, self._term.magnitude, start, start + len(squares)
        )
        return (magnitude / np.sqrt(squares)).astype(magnitude.dtype)

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Scale the block, which holds W + delta."""
        del weight
        if self.is_within(tile.shape[1]):
            squared = scratch("squares", block.shape, block.dtype)
            squared[...] = block
            block *= self._factors(tile.row, self.squares(squared))[:, None]
            return
        if self._factor is None:
            raise RuntimeError("the norms are not known yet")
        if self._of_rows:
            block *= self._factor[tile.row : tile.row_stop, None]
        else:
            block *= self._factor[None, tile.column : tile.column_stop]
