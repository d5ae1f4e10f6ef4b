"""Every method against its formula, written out on whole arrays in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from adreg.registry.merge.methods.draws import Draws
from adreg.registry.merge.methods.method import Method
from adreg.registry.tensors.arrays import Array

TENSOR = "model.layers.0.mlp.up_proj.weight"  # that the fixture combines
WEIGHTS = (0.75, -0.5, 1.25, 2.0)
Kind = Literal["fine", "coarse", "tiny"]


@dataclass(frozen=True)
class Case:
    """The shape of a tensor, how its deltas look, and how it is cut."""

    shape: tuple[int, int]
    kind: Kind
    tiling: dict[str, Any]


_WHOLE: dict[str, Any] = {"step": 100}
_ROWS: dict[str, Any] = {"step": 5}
_PIECES: dict[str, Any] = {"step": 7, "cut": True}
CASES = [  # each two of the three meet once
    Case((12, 20), "fine", _WHOLE),
    Case((12, 20), "coarse", _PIECES),
    Case((12, 20), "tiny", _ROWS),
    Case((1, 64), "fine", _PIECES),
    Case((1, 64), "coarse", _ROWS),
    Case((1, 64), "tiny", _WHOLE),
    Case((45, 1), "fine", _ROWS),
    Case((45, 1), "coarse", _WHOLE),
    Case((45, 1), "tiny", _PIECES),
]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.shape}-{c.kind}-{c.tiling}")
each_count = pytest.mark.parametrize("count", [1, 2, 4])
each_count_from_2 = pytest.mark.parametrize("count", [2, 3, 4])


def inputs(shape: tuple[int, int], kind: Kind, count: int) -> tuple[Array, list[Array]]:
    """Return W and deltas: all different, or with many equal and zero, or as small as LoRA's."""
    rng = np.random.default_rng([*shape, count])
    base = rng.standard_normal(shape)
    deltas = [rng.standard_normal(shape) for _ in range(count)]
    if kind == "coarse":
        deltas = [np.round(delta * 2) / 4 for delta in deltas]
    if kind == "tiny":
        deltas = [delta * 1e-5 for delta in deltas]
    if count > 3:
        deltas[3] = np.zeros(shape)
    return base, deltas


def agrees(expected: Array, merged: Array, scale: float = 1.0) -> None:
    """Compare, next to the largest element."""
    largest = np.abs(expected).max()
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-12 * max(largest, scale * 1e-5))


def by_magnitude(delta: Array, first: int, last: int) -> Array:
    """Return a mask of the elements from rank ``first`` to before ``last``, largest first."""
    mask = np.zeros(delta.size, np.bool_)
    mask[np.argsort(-np.abs(delta.ravel()), kind="stable")[first:last]] = True
    return mask.reshape(delta.shape)


def vote(deltas: Sequence[Array], sign: str) -> list[Array]:
    """Return which elements have the elected sign."""
    total = sum(np.sign(d) if sign == "frequency" else d for d in deltas)
    elected = np.where(total >= 0, 1, -1)
    return [np.sign(delta) == elected for delta in deltas]


def mergekit(  # the formula's parts
    deltas: Sequence[Array],
    weights: Sequence[float],
    masks: Sequence[Array],
    *,
    sign: str | None = None,
    normalize: bool = False,
    rescale: bool = False,
    factor: float = 1.0,
) -> Array:
    """Return mergekit's generalised task arithmetic."""
    parts = []
    for delta, weight, mask in zip(deltas, weights, masks, strict=True):
        kept = delta * mask
        if rescale and np.abs(delta).sum() >= 1e-7 and np.abs(kept).sum() >= 1e-7:
            kept = kept * (np.abs(delta).sum() / np.abs(kept).sum())
        parts.append(kept * weight)
    agree = vote(parts, sign) if sign else [np.ones(d.shape) for d in deltas]
    result = sum(p * a for p, a in zip(parts, agree, strict=True))
    if normalize:
        divisor = sum(a * abs(w) for a, w in zip(agree, weights, strict=True))
        result = result / np.where(divisor == 0, 1, divisor)
    return np.asarray(result * factor)


@each_case
@each_count
def test_linear(
    combine: Callable[..., Array],
    case: Case,
    count: int,
) -> None:
    """The weighted sum, times lambda; divided by the weights where that is asked."""
    base, deltas = inputs(case.shape, case.kind, count)
    weights = WEIGHTS[:count]

    total = sum(w * d for w, d in zip(weights, deltas, strict=True))

    agrees(np.asarray(total), combine(Method("linear"), base, deltas, weights, **case.tiling))
    method = Method("task_arithmetic", normalize=True, lambda_=0.3)
    expected = np.asarray(total) * 0.3 / sum(abs(w) for w in weights)
    agrees(expected, combine(method, base, deltas, weights, **case.tiling))


@each_case
@each_count
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_ties(
    combine: Callable[..., Array],
    case: Case,
    count: int,
    sign: Literal["total", "frequency"],
) -> None:
    """Trimmed to the largest, signs elected on weighted deltas, mean of those that agree."""
    base, deltas = inputs(case.shape, case.kind, count)
    weights = WEIGHTS[:count]
    kept = max(1, int(0.3 * base.size))
    masks = [by_magnitude(delta, 0, kept) for delta in deltas]

    expected = mergekit(deltas, weights, masks, sign=sign, normalize=True)
    agrees(
        expected,
        combine(Method("ties", density=0.3, sign=sign), base, deltas, weights, **case.tiling),
    )

    options: dict[str, Any] = {"sign": sign, "normalize": False, "rescale": True}
    expected = mergekit(deltas, weights, masks, factor=0.5, **options)
    method = Method("ties", density=0.3, lambda_=0.5, **options)
    agrees(expected, combine(method, base, deltas, weights, **case.tiling))


@each_case
@each_count
@pytest.mark.parametrize(("density", "gamma"), [(0.4, 0.1), (0.9, 0.3), (0.02, 0.01)])
def test_breadcrumbs(
    combine: Callable[..., Array],
    case: Case,
    count: int,
    density: float,
    gamma: float,
) -> None:
    """Without the largest and the small; fewer large ones go where the density asks."""
    base, deltas = inputs(case.shape, case.kind, count)
    weights = WEIGHTS[:count]
    kept = int(density * base.size)
    dropped = min(int(gamma * base.size), base.size - kept)
    masks = [by_magnitude(delta, dropped, dropped + kept) for delta in deltas]

    method = Method("breadcrumbs", density=density, gamma=gamma)
    agrees(mergekit(deltas, weights, masks), combine(method, base, deltas, weights, **case.tiling))
    method = Method("breadcrumbs_ties", density=density, gamma=gamma)
    expected = mergekit(deltas, weights, masks, sign="total")
    agrees(expected, combine(method, base, deltas, weights, **case.tiling))


@each_case
@each_count
def test_dare(
    combine: Callable[..., Array],
    case: Case,
    count: int,
) -> None:
    """A random choice by the seed, scaled to the L1 norm, with and without a vote."""
    base, deltas = inputs(case.shape, case.kind, count)
    weights = WEIGHTS[:count]
    draws = [Draws(9, TENSOR, place).uniform(0, base.size) for place in range(count)]
    masks = [(uniform < 0.4).reshape(case.shape) for uniform in draws]

    expected = mergekit(deltas, weights, masks, rescale=True)
    method = Method("dare_linear", density=0.4, seed=9)
    agrees(expected, combine(method, base, deltas, weights, **case.tiling))

    expected = mergekit(deltas, weights, masks, rescale=True, sign="total")
    method = Method("dare_ties", density=0.4, seed=9)
    agrees(expected, combine(method, base, deltas, weights, **case.tiling))


@each_case
@each_count
def test_della(combine: Callable[..., Array], case: Case, count: int) -> None:
    """The chance to be kept rises with the rank in the row; a vector is one row."""
    base, deltas = inputs(case.shape, case.kind, count)
    weights = WEIGHTS[:count]
    shape = case.shape
    masks = []
    for place, delta in enumerate(deltas):
        uniform = Draws(2, TENSOR, place).uniform(0, base.size)
        rows = delta.reshape(1, -1) if shape[1] == 1 else delta
        ranks = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1, kind="stable")
        chance = 0.5 - 0.2 + 2 * 0.2 * ranks / (rows.shape[1] - 1)
        masks.append((uniform < chance.ravel()).reshape(shape))
    # Its rows are whole in every tile: a method that ranks in rows refuses others.
    step = shape[0] if shape[1] == 1 else 5

    expected = mergekit(deltas, weights, masks, rescale=True, sign="total", normalize=True)
    method = Method("della", density=0.5, epsilon=0.2, seed=2)
    agrees(expected, combine(method, base, deltas, weights, step=step))

    expected = mergekit(deltas, weights, masks, rescale=True)
    method = Method("della_linear", density=0.5, epsilon=0.2, seed=2)
    agrees(expected, combine(method, base, deltas, weights, step=step))


@each_case
@each_count_from_2
@pytest.mark.parametrize("density", [0.25, 1.0])
def test_sce(
    combine: Callable[..., Array],
    case: Case,
    count: int,
    density: float,
) -> None:
    """Select by variance, weigh by squares, erase the minority's sign."""
    base, deltas = inputs(case.shape, case.kind, count)
    # Powers of two and equal weights: the variances that are equal stay so in any order.
    parts = [0.5 * delta for delta in deltas]
    if density < 1:
        # Differences from the first, as equal deltas must have no variance at all.
        variance = np.var(np.stack(parts) - parts[0], axis=0)
        mask = by_magnitude(variance, 0, int(density * np.count_nonzero(variance)))
        parts = [part * mask for part in parts]
    squares = np.array([np.square(part).sum() for part in parts])
    agree = vote(parts, "total")
    shares = squares / squares.sum()
    over = sum(s * a * p for s, a, p in zip(shares, agree, parts, strict=True))
    under = np.asarray(sum(s * a for s, a in zip(shares, agree, strict=True)))
    expected = np.asarray(over / np.where(under == 0, 1, under))

    merged = combine(Method("sce", density=density), base, deltas, [0.5] * count, **case.tiling)

    assert expected.any()
    agrees(expected, merged)


def slerp(first: Array, second: Array, t: float, straight: float) -> Array:
    """Return the point between two arrays on the sphere, or on a line beyond ``straight``."""
    cosine = float(np.sum(first * second) / np.linalg.norm(first) / np.linalg.norm(second))
    if abs(cosine) > straight:
        return (1 - t) * first + t * second
    angle = np.arccos(cosine)
    over = np.sin((1 - t) * angle) * first + np.sin(t * angle) * second
    return np.asarray(over / np.sin(angle))


@each_case
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(
    combine: Callable[..., Array],
    case: Case,
    t: float,
) -> None:
    """Between two models, or W and one, each tensor as one vector."""
    base, deltas = inputs(case.shape, case.kind, 2)
    first, second = base + 0.75 * deltas[0], base - 0.5 * deltas[1]

    merged = combine(Method("slerp", t=t), base, deltas, WEIGHTS[:2], **case.tiling)
    agrees(slerp(first, second, t, 0.9995) - base, merged, scale=1e3)
    merged = combine(Method("slerp", t=t), base, deltas[:1], WEIGHTS[:1], **case.tiling)
    agrees(slerp(base, first, t, 0.9995) - base, merged, scale=1e3)


@each_case
@pytest.mark.parametrize(("weights", "t"), [((1, 3), 0.75), ((2, -1), -1.0), ((1, -1), 0.5)])
def test_nuslerp(
    combine: Callable[..., Array],
    case: Case,
    weights: tuple[float, float],
    t: float,
) -> None:
    """Between two deltas, at the second weight's share of both."""
    base, deltas = inputs(case.shape, case.kind, 2)

    merged = combine(Method("nuslerp"), base, deltas, weights, **case.tiling)

    agrees(slerp(deltas[0], deltas[1], t, 1 - 1e-16), merged)


@each_case
@each_count_from_2
def test_model_stock(
    combine: Callable[..., Array],
    case: Case,
    count: int,
) -> None:
    """The mean delta times N cos / (1 + (N - 1) cos)."""
    base, deltas = inputs(case.shape, case.kind, count)
    parts = [w * d for w, d in zip(WEIGHTS, deltas, strict=False)]
    cosines = [
        np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b) if a.any() and b.any() else 0.0
        for i, a in enumerate(parts)
        for b in parts[i + 1 :]
    ]
    cosine = float(np.mean(cosines))
    expected = count * cosine / (1 + (count - 1) * cosine) * np.mean(parts, axis=0)

    merged = combine(Method("model_stock"), base, deltas, WEIGHTS[:count], **case.tiling)

    agrees(expected, merged)


@each_case
@each_count
def test_karcher(
    combine: Callable[..., Array],
    case: Case,
    count: int,
) -> None:
    """The point on the sphere to which all models' logarithms add up to zero, at mean norm."""
    base, deltas = inputs(case.shape, case.kind, count)
    models = [base + w * d for w, d in zip(WEIGHTS, deltas, strict=False)]
    norms = [float(np.linalg.norm(model)) for model in models]
    units = [model / norm for model, norm in zip(models, norms, strict=True)]

    merged = combine(Method("karcher"), base, deltas, WEIGHTS[:count], **case.tiling)

    mean = (base + merged) / np.mean(norms)
    assert np.linalg.norm(mean) == pytest.approx(1, abs=1e-12)
    pull = np.zeros(case.shape)
    for unit in units:
        cosine = float(np.clip(np.sum(mean * unit), -1, 1))
        angle = np.arccos(cosine)
        pull += (unit - cosine * mean) * (angle / np.sin(angle) if angle > 1e-6 else 1)
    assert np.linalg.norm(pull) / count < 2e-5  # where the steps end


def test_karcher_of_two_is_half_way(combine: Callable[..., Array]) -> None:
    """Of two models of one length the mean is the slerp at one half."""
    rng = np.random.default_rng(0)
    base, first, second = rng.standard_normal((3, 8, 8))
    second *= np.linalg.norm(first) / np.linalg.norm(second)
    deltas = [first - base, second - base]

    merged = combine(Method("karcher"), base, deltas, (1, 1))

    agrees(slerp(first, second, 0.5, 1) - base, merged)


def test_a_subtracted_skill_stays_subtracted(combine: Callable[..., Array]) -> None:
    """Normalised by weights of which one is negative, no delta's sign is turned."""
    delta = np.array([[1.0, -2.0, 3.0]])

    merged = combine(Method("ties", density=1), np.zeros((1, 3)), [delta, 0 * delta], (-2, 1))

    assert (-delta).tolist() == merged.tolist()
