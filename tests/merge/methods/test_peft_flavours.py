"""PEFT's flavours, against PEFT's own functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from adreg.registry.merge.methods.method import Method
from adreg.registry.tensors.arrays import Array

SHAPES = [(16, 24), (1, 50), (37, 1)]
WEIGHTS = (0.7, -0.4, 1.3, 0.2)


def inputs(shape: tuple[int, int], count: int) -> tuple[Array, list[Array], list[float]]:
    """Return W, deltas of which the third is zero, and weights of which the second is below."""
    rng = np.random.default_rng(4)
    base = rng.standard_normal(shape).astype(np.float32)
    deltas = [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]
    if count > 2:
        deltas[2][:] = 0
    return base, deltas, list(WEIGHTS[:count])


def by_peft(
    function: Callable[..., torch.Tensor],
    deltas: Sequence[Array],
    weights: Sequence[float],
    **settings: object,
) -> Array:
    """Return what PEFT makes of the deltas."""
    tensors = [torch.from_numpy(delta) for delta in deltas]
    result: Array = function(tensors, torch.tensor(weights), **settings).numpy()
    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_ties(
    combine: Callable[..., Array],
    shape: tuple[int, int],
    count: int,
    density: float,
    sign: Literal["total", "frequency"],
) -> None:
    """peft_ties is PEFT's ties, by either way to elect signs."""
    base, deltas, weights = inputs(shape, count)

    expected = by_peft(
        merge_utils.ties, deltas, weights, density=density, majority_sign_method=sign
    )
    merged = combine(Method("peft_ties", density=density, sign=sign), base, deltas, weights, step=5)

    assert expected.any()
    np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.99])
def test_magnitude_prune(
    combine: Callable[..., Array], shape: tuple[int, int], count: int, density: float
) -> None:
    """peft_magnitude_prune is PEFT's magnitude_prune."""
    base, deltas, weights = inputs(shape, count)

    expected = by_peft(merge_utils.magnitude_prune, deltas, weights, density=density)
    method = Method("peft_magnitude_prune", density=density)
    merged = combine(method, base, deltas, weights, step=5)

    assert expected.any()
    np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["peft_dare_linear", "peft_dare_ties"])
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.filterwarnings("ignore:The density 1.0 is greater:UserWarning")
def test_dare(
    combine: Callable[..., Array], monkeypatch: pytest.MonkeyPatch, name: str, density: float
) -> None:
    """Given the elements that a seed keeps, peft_dare_* is PEFT's dare_*."""
    base, deltas, weights = inputs((16, 24), 4)
    ones = [np.ones_like(base)]
    linear = Method("dare_linear", density=density, seed=5, rescale=False)
    # What the places of the recipe keep, seen through deltas of ones at one place each.
    masks = []
    for place in range(4):
        alone = [ones[0] * (place == other) for other in range(4)]
        masks.append(torch.from_numpy(combine(linear, base, alone, [1.0] * 4)))
    left = iter(masks)
    monkeypatch.setattr(torch, "bernoulli", lambda _: next(left))

    function = getattr(merge_utils, name.removeprefix("peft_"))
    expected = by_peft(function, deltas, weights, density=density)
    method = Method(name, density=density, seed=5)
    merged = combine(method, base, deltas, weights, step=24, cut=True)

    np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-7)
    assert sum(int(mask.sum()) for mask in masks) == pytest.approx(4 * 384 * density, rel=0.1)


def test_the_weighted_sum(combine: Callable[..., Array]) -> None:
    """Linear is PEFT's task_arithmetic, the arithmetic of its svd combination."""
    base, deltas, weights = inputs((16, 24), 4)

    expected = by_peft(merge_utils.task_arithmetic, deltas, weights)

    np.testing.assert_allclose(
        combine(Method("linear"), base, deltas, weights, step=3), expected, rtol=1e-6, atol=1e-6
    )
