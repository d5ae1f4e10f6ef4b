"""Which elements of one delta are kept: by magnitude, by chance, or by both."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from adreg.registry.errors import MergeRefused
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.draws import Draws
from adreg.registry.merge.methods.selection import Largest, magnitude_bits
from adreg.registry.tensors.arrays import Array


class Mask(Protocol):
    """Which elements of a delta are kept; asked as a Combination is, pass by pass."""

    @property
    def passes_left(self) -> bool:
        """Whether another look at all tiles is needed before ``kept``."""
        ...

    def look(self, delta: Array, tile: Tile) -> Any:  # noqa: ANN401  # each mask's own
        """Return what this pass must know of a tile; pure."""
        ...

    def take(self, tile: Tile, seen: Any) -> None:  # noqa: ANN401
        """Add what ``look`` returned, in the order of the tiles."""
        ...

    def close_pass(self) -> None:
        """End a pass."""
        ...

    def kept(self, delta: Array, tile: Tile) -> Array | None:
        """Return a boolean mask (rows, columns) of a tile, None for all of it; pure."""
        ...


class _AtOnce:
    """A mask that needs no pass."""

    passes_left = False

    def look(self, delta: Array, tile: Tile) -> None:
        """Have nothing to ask."""

    def take(self, tile: Tile, seen: None) -> None:
        """Learn nothing."""

    def close_pass(self) -> None:
        """Decide nothing."""


class Everything(_AtOnce):
    """All elements are kept."""

    def kept(self, delta: Array, tile: Tile) -> None:  # noqa: ARG002
        """Return None: all."""
        return


class Chance(_AtOnce):
    """Each element is kept with chance ``density`` (DARE; Yu et al., arXiv 2311.03099)."""

    def __init__(self, density: float, draws: Draws, columns: int) -> None:
        """Keep what draws below ``density``."""
        self._density = density
        self._draws = draws
        self._columns = columns

    def kept(self, delta: Array, tile: Tile) -> Array:
        """Return which elements drew less than the density."""
        uniform = self._draws.uniform(tile.start(self._columns), delta.size)
        mask: Array = (uniform < self._density).reshape(delta.shape)
        return mask


class RankedChance(_AtOnce):
    """Elements are kept by chance, the larger in their row the likelier (DELLA's MagPrune).

    Ranked by magnitude from 0 to n - 1 in a row of n (of equal ones the earlier is lower),
    the chance is density - epsilon + 2 epsilon rank / (n - 1) (Deep et al., arXiv
    2406.11617; mergekit 0.1.5, sparsify.py, which calls a one-dimensional tensor one row).
    A row of one has the density. Raises MergeRefused where a tile cuts a row.
    """

    def __init__(
        self, density: float, epsilon: float, draws: Draws, rows: int, columns: int
    ) -> None:
        """Rank in rows; a tensor of one column is one row."""
        self._density = density
        self._epsilon = epsilon
        self._draws = draws
        self._rows = rows
        self._columns = columns

    def kept(self, delta: Array, tile: Tile) -> Array:
        """Return which elements drew less than the chance that their rank gives."""
        cut = delta.shape[0] < self._rows if self._columns == 1 else delta.shape[1] < self._columns
        if cut:
            raise MergeRefused(
                (f"{self._draws.tensor!r} has rows too long for della, which ranks whole rows",),
                "Use dare_ties, dare_linear or ties, which need no ranks.",
            )
        length = delta.size if self._columns == 1 else self._columns
        order = _ascending(magnitude_bits(delta).reshape(-1, length))
        share = np.linspace(0, 1, length) if length > 1 else np.full(1, 0.5)
        by_rank = self._density - self._epsilon + 2 * self._epsilon * share
        chance = np.empty(order.shape)
        np.put_along_axis(chance, order, np.broadcast_to(by_rank, chance.shape), axis=1)
        uniform = self._draws.uniform(tile.start(self._columns), delta.size)
        mask: Array = (uniform < chance.ravel()).reshape(delta.shape)
        return mask


def _ascending(bits: Array) -> Array:
    """Return the columns of each row in ascending order; of equal ones the earlier first."""
    if bits.dtype.itemsize == 8:
        return np.argsort(bits, axis=1, kind="stable")
    # One sort of (number, column) pairs is several times faster than a stable argsort.
    pairs = bits.astype(np.uint64) << np.uint64(32)
    pairs |= np.arange(bits.shape[1], dtype=np.uint64)
    pairs.sort(axis=1)
    pairs &= np.uint64(0xFFFFFFFF)
    return pairs.astype(np.intp)


class Magnitude:
    """The largest elements are kept, but for the very largest (``dropped`` of them).

    TIES trims so (Yadav et al., arXiv 2306.01708), and with ``dropped`` Model Breadcrumbs
    (Davari and Belilovsky, arXiv 2312.06795). Of equal elements the earlier count as larger.
    """

    def __init__(self, kept: int, dropped: int, rows: int, columns: int, dtype: Any) -> None:  # noqa: ANN401  # numpy's dtype
        """Keep ``kept`` of the (rows, columns) elements, below the ``dropped`` largest."""
        self._columns = columns
        self._parts = [
            Largest(count, rows * columns, np.dtype(dtype))
            for count in ((kept + dropped, dropped) if dropped else (kept,))
        ]

    @property
    def passes_left(self) -> bool:
        """Whether a threshold is not yet known."""
        return any(part.passes_left for part in self._parts)

    def look(self, delta: Array, tile: Tile) -> list[Any]:  # noqa: ARG002
        """Return what each threshold's pass must know."""
        bits = magnitude_bits(delta)
        return [part.look(bits) if part.passes_left else None for part in self._parts]

    def take(self, tile: Tile, seen: list[Any]) -> None:
        """Hand each threshold its own."""
        for part, its in zip(self._parts, seen, strict=True):
            if part.passes_left:
                part.take(tile.start(self._columns), its)

    def close_pass(self) -> None:
        """End the pass of each threshold that is not yet known."""
        for part in self._parts:
            if part.passes_left:
                part.close_pass()

    def kept(self, delta: Array, tile: Tile) -> Array:
        """Return which elements are among the largest, and not among the very largest."""
        bits = magnitude_bits(delta)
        start = tile.start(self._columns)
        mask = self._parts[0].kept(bits, start)
        for part in self._parts[1:]:
            mask &= ~part.kept(bits, start)
        return mask.reshape(delta.shape)
