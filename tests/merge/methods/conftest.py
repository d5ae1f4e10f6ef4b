"""How the tests carry a method out: on whole arrays, cut in tiles, as the engine does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.make import make_combination
from adreg.registry.merge.methods.method import Method
from adreg.registry.tensors.arrays import Array

Combine = Callable[..., Array]

TENSOR = "model.layers.0.mlp.up_proj.weight"
MOST_PASSES = 7
"""Four digits of a float64, one for equal elements, one for norms, and one too many."""


def tiles(rows: int, columns: int, step: int, *, cut: bool = False) -> list[Tile]:
    """Cut in blocks of ``step`` whole rows, or each row in pieces of ``step`` columns."""
    if cut:
        starts = [(row, column) for row in range(rows) for column in range(0, columns, step)]
        return [Tile(r, r + 1, c, min(columns, c + step)) for r, c in starts]
    return [Tile(row, min(rows, row + step), 0, columns) for row in range(0, rows, step)]


def block(array: Array, tile: Tile) -> Array:
    """Return a tile of an array."""
    return array[tile.row : tile.row_stop, tile.column : tile.column_stop]


def _combine(
    method: Method,
    base: Array,
    deltas: Sequence[Array],
    weights: Sequence[float],
    *,
    step: int | None = None,
    cut: bool = False,
    threads: bool = False,
) -> Array:
    rows, columns = base.shape
    cuts = tiles(rows, columns, step or rows, cut=cut)
    combination = make_combination(method, TENSOR, rows, columns, weights, base.dtype)

    def blocks(tile: Tile) -> tuple[Array, list[Array]]:
        return block(base, tile), [block(delta, tile) for delta in deltas]

    def everywhere(ask: Callable[[Array, list[Array], Tile], Any]) -> list[Any]:
        """Ask of each tile; with threads, in another order than the tiles'."""
        if not threads:
            return [ask(*blocks(tile), tile) for tile in cuts]
        shuffled = random.Random(0).sample(range(len(cuts)), len(cuts))  # noqa: S311  # no secret
        with ThreadPoolExecutor(4) as pool:
            futures = {i: pool.submit(ask, *blocks(cuts[i]), cuts[i]) for i in shuffled}
        return [futures[i].result() for i in range(len(cuts))]

    passes = 0
    while combination.passes_left:
        passes += 1
        assert passes < MOST_PASSES
        for tile, seen in zip(cuts, everywhere(combination.look), strict=True):
            combination.take(tile, seen)
        combination.close_pass()
    result = np.full_like(base, np.nan)
    for tile, merged in zip(cuts, everywhere(combination.combine), strict=True):
        block(result, tile)[...] = merged
    return result


@pytest.fixture
def combine() -> Combine:
    """Return what merges whole arrays by a method, tile by tile."""
    return _combine
