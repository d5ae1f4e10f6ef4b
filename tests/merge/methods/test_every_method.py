"""What holds for each method: any tiles and threads, little memory, nothing hidden."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.make import make_combination
from adreg.registry.merge.methods.method import METHODS, Method
from adreg.registry.tensors.arrays import Array

SUMS = {"dare_linear", "dare_ties", "della", "della_linear", "sce"}
SUMS |= {"slerp", "nuslerp", "model_stock", "karcher"}
"""Methods with sums over the tensor: their last bits are the tiling's, never the threads'."""

each_method = pytest.mark.parametrize("name", METHODS)


def chosen(name: str) -> Method:
    """Return a method that drops half of the elements, where it drops any."""
    return Method(name, density=0.5 if "density" in METHODS[name].parameters else None)


def inputs(name: str, dtype: Any) -> tuple[Array, list[Array], list[float]]:
    """Return W, as many deltas as the method takes, three at most, and weights."""
    rng = np.random.default_rng(6)
    count = min(3, METHODS[name].inputs[1] or 3)
    deltas = [np.round(rng.standard_normal((30, 44)) * 8) / 8 for _ in range(count)]
    base = rng.standard_normal((30, 44)).astype(dtype)
    return base, [d.astype(dtype) for d in deltas], [0.75, -0.5, 1.5][:count]


@each_method
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_threads_the_same_bits(
    combine: Callable[..., Array], name: str, dtype: type[np.floating]
) -> None:
    """Tiles that are looked at and combined in any order by threads give the same bytes."""
    values = inputs(name, dtype)

    one = combine(chosen(name), *values, step=4)
    many = combine(chosen(name), *values, step=4, threads=True)

    assert one.dtype == dtype
    assert one.any()
    assert one.tobytes() == many.tobytes()


@each_method
@pytest.mark.parametrize("tiling", [{"step": 1}, {"step": 7}, {"step": 16, "cut": True}])
def test_any_tiles_the_same_outcome(
    combine: Callable[..., Array], name: str, tiling: dict[str, Any]
) -> None:
    """Another tiling keeps the same elements; only sums may differ, in their last bits."""
    if METHODS[name].whole_rows and "cut" in tiling:
        pytest.skip("this method refuses cut rows; test_method.py has the words")
    values = inputs(name, np.float32)

    whole = combine(chosen(name), *values)
    cut = combine(chosen(name), *values, **tiling)

    if name in SUMS:
        np.testing.assert_allclose(cut, whole, rtol=3e-6, atol=1e-6)
        assert (whole == 0).tolist() == (cut == 0).tolist()
    else:
        assert whole.tobytes() == cut.tobytes()


@each_method
def test_float32_is_float64_rounded(combine: Callable[..., Array], name: str) -> None:
    """In float32 a method does the same as in float64, to float32's precision."""
    base, deltas, weights = inputs(name, np.float32)
    wide = [delta.astype(np.float64) for delta in deltas]

    single = combine(chosen(name), base, deltas, weights, step=4)
    double = combine(chosen(name), base.astype(np.float64), wide, weights, step=4)

    np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)


@each_method
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows(combine: Callable[..., Array], name: str, value: float) -> None:
    """A delta that is broken makes a broken outcome, without a warning: never a silent one."""
    base, deltas, weights = inputs(name, np.float32)
    deltas[0][3, 5] = value

    merged = combine(chosen(name), base, deltas, weights, step=4)

    assert not np.isfinite(merged[3, 5])


@each_method
def test_inputs_are_not_changed(combine: Callable[..., Array], name: str) -> None:
    """Neither W nor a delta is written to."""
    base, deltas, weights = inputs(name, np.float32)
    for array in (base, *deltas):
        array.flags.writeable = False

    combine(chosen(name), base, deltas, weights, step=4)


@each_method
def test_zero_deltas_change_nothing(combine: Callable[..., Array], name: str) -> None:
    """Where no adapter touches a tensor, the merged delta is zero."""
    base, deltas, weights = inputs(name, np.float64)

    merged = combine(chosen(name), base, [0 * delta for delta in deltas], weights, step=4)

    np.testing.assert_allclose(merged, 0, atol=1e-14)


@each_method
def test_an_empty_tensor(combine: Callable[..., Array], name: str) -> None:
    """A tensor without elements merges to one without elements."""
    base, deltas, weights = inputs(name, np.float32)

    merged = combine(chosen(name), base[:0], [d[:0] for d in deltas], weights, step=4)

    assert merged.shape == (0, 44)


@each_method
def test_no_tensor_is_held(name: str) -> None:
    """What is allocated stays under half of one delta, however many tiles there are."""
    rows, columns, step = 4096, 512, 32  # deltas of 8 MiB, tiles of 64 KiB
    count = METHODS[name].inputs[0]
    pattern = np.random.default_rng(8).standard_normal((count + 1, step, columns))
    blocks = [block.astype(np.float32) for block in pattern]
    combination = make_combination(
        chosen(name), "w", rows, columns, [1.0, -0.5][:count], np.float32
    )
    tiles = [Tile(row, row + step, 0, columns) for row in range(0, rows, step)]

    def deltas(tile: Tile) -> list[Array]:
        return [block * np.float32(1 + tile.row / rows) for block in blocks[1:]]

    tracemalloc.start()
    while combination.passes_left:
        for tile in tiles:
            combination.take(tile, combination.look(blocks[0], deltas(tile), tile))
        combination.close_pass()
    for tile in tiles:
        combination.combine(blocks[0], deltas(tile), tile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < rows * columns * 4 // 2


def test_ranks_of_equal_elements_in_both_precisions(combine: Callable[..., Array]) -> None:
    """Equal elements are ranked by their column, in float32 as in float64."""
    base, deltas, weights = inputs("della", np.float32)
    coarse = [np.round(delta) for delta in deltas]
    method = Method("della_linear", density=0.5, epsilon=0.4, rescale=False)

    single = combine(method, base, coarse, weights, step=4)
    wide = [delta.astype(np.float64) for delta in coarse]
    double = combine(method, base.astype(np.float64), wide, weights, step=4)

    assert double.tolist() == single.tolist()
