"""The k largest of many numbers, against a stable sort of all of them."""

from __future__ import annotations

import numpy as np
import pytest

from adreg.registry.merge.methods.selection import Largest, magnitude_bits
from adreg.registry.tensors.arrays import Array


def selected(array: Array, count: int, step: int) -> tuple[Array, int]:
    """Return the mask of the ``count`` largest of a flat array, and the passes it took."""
    pieces = [(start, array[start : start + step]) for start in range(0, array.size, step)]
    largest = Largest(count, array.size, array.dtype)
    passes = 0
    while largest.passes_left:
        for start, piece in pieces:
            largest.take(start, largest.look(magnitude_bits(piece)))
        largest.close_pass()
        passes += 1
    return np.concatenate([largest.kept(magnitude_bits(p), start) for start, p in pieces]), passes


def by_sorting(array: Array, count: int) -> Array:
    """Return the same mask from a sort; of equal ones the first."""
    mask = np.zeros(array.size, np.bool_)
    mask[np.argsort(-np.abs(array), kind="stable")[:count]] = True
    return mask


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 2, 499, 999, 1000])
@pytest.mark.parametrize("step", [1000, 7])
def test_the_largest_of_different_numbers(dtype: type[np.floating], count: int, step: int) -> None:
    """Exactly the k of largest magnitude are kept, over many powers of ten and both signs."""
    rng = np.random.default_rng(1)
    array = (rng.standard_normal(1000) * 10.0 ** rng.integers(-30, 30, 1000)).astype(dtype)

    mask, passes = selected(array, count, step)

    assert by_sorting(array, count).tolist() == mask.tolist()
    assert passes <= array.dtype.itemsize // 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 50, 340, 700])
@pytest.mark.parametrize("step", [1000, 64, 1])
def test_of_equal_numbers_the_first(dtype: type[np.floating], count: int, step: int) -> None:
    """Where the threshold is shared, those with the lowest index are kept, and k in all."""
    array = np.random.default_rng(2).integers(1, 4, 1000).astype(dtype)
    array[::2] *= -1

    mask, passes = selected(array, count, step)

    assert by_sorting(array, count).tolist() == mask.tolist()
    assert passes == array.dtype.itemsize // 2 + 1


def test_neighbours_in_the_last_bit() -> None:
    """Two numbers that differ in the last bit alone are told apart."""
    one = np.float32(1)
    array = np.array([one, np.nextafter(one, np.float32(2)), one], np.float32)

    assert selected(array, 1, 3)[0].tolist() == [False, True, False]


def test_zeros_at_the_threshold_cost_no_pass() -> None:
    """A delta with fewer numbers than k that are not zero keeps them all, in two passes."""
    array = np.zeros(500, np.float32)
    array[[3, 77, 400]] = [1e-40, -2, 5]  # the first is subnormal

    mask, passes = selected(array, 10, 50)

    assert passes == 2
    assert mask[[3, 77, 400]].all()


def test_what_is_no_number_is_largest() -> None:
    """A NaN is kept before all, and infinity next, so that neither is lost from sight."""
    array = np.array([1, np.nan, 3, -np.inf], np.float32)

    assert selected(array, 1, 2)[0].tolist() == [False, True, False, False]
    assert selected(array, 2, 2)[0].tolist() == [False, True, False, True]
