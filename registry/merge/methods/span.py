"""Methods whose outcome lies in the span of W and the deltas: one pass, then coefficients.

The pass takes all inner products of {W, w_1 d_1, ..., w_k d_k} in float64, each tensor as
one vector; the rest is arithmetic on k + 1 numbers. So a model W + w_i d_i is a row of
coefficients, and the outcome is coefficients too, with W's brought down by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.combination import Choice
from adreg.registry.merge.methods.method import METHODS, Method
from adreg.registry.tensors.arrays import Array

Solver = Callable[[Array], Array]
"""From the (k + 1, k + 1) inner products to the (k + 1) coefficients of the merged delta."""


class InSpan:
    """A merged delta c_0 W + sum(c_i w_i d_i), its coefficients known after one pass."""

    measures = True

    def __init__(self, method: Method, weights: Sequence[float]) -> None:
        """Combine as many deltas as there are weights."""
        self._solve = _solver(method, weights)
        # nuslerp's weights say where between the two, not how far each is taken.
        self._weights = [1.0] * len(weights) if method.name == "nuslerp" else list(weights)
        self._uses_base = METHODS[method.name].uses_base
        self._gram = np.zeros((len(weights) + 1, len(weights) + 1))
        self._coefficients = np.zeros(len(weights) + 1)
        self.passes_left = True

    @np.errstate(all="ignore")
    def look(self, base: Array, deltas: Sequence[Array], tile: Tile) -> Array:  # noqa: ARG002
        """Return the tile's inner products."""
        gram = np.zeros_like(self._gram)
        vectors: list[Array | None] = [base.astype(np.float64) if self._uses_base else None]
        vectors += [
            delta.astype(np.float64) * weight
            for delta, weight in zip(deltas, self._weights, strict=True)
        ]
        for row, left in enumerate(vectors):
            for column, right in enumerate(vectors[: row + 1]):
                if left is not None and right is not None:
                    # No matrix product: its last bits may depend on the BLAS.
                    gram[row, column] = gram[column, row] = (left * right).sum()
        return gram

    def take(self, tile: Tile, seen: Array) -> None:  # noqa: ARG002
        """Add a tile's inner products."""
        self._gram += seen

    @np.errstate(all="ignore")
    def close_pass(self) -> None:
        """Solve for the coefficients."""
        self._coefficients = self._solve(self._gram)
        self._coefficients[1:] *= self._weights
        self.passes_left = False

    def choose(self, deltas: Sequence[Array], tile: Tile) -> Choice:  # noqa: ARG002
        """Decide nothing of an element."""
        return Choice([None] * len(deltas))

    @np.errstate(all="ignore")
    def combine(
        self,
        base: Array,
        deltas: Sequence[Array],
        tile: Tile,  # noqa: ARG002
        choice: Choice | None = None,  # noqa: ARG002
    ) -> Array:
        """Return the coefficients' sum of a tile."""
        number = base.dtype.type
        first, *rest = self._coefficients
        result = base * number(first) if self._uses_base else np.zeros_like(base)
        for coefficient, delta in zip(rest, deltas, strict=True):
            result += delta * number(coefficient)
        return result


def _solver(method: Method, weights: Sequence[float]) -> Solver:
    if method.name == "slerp":
        return partial(_slerp, t=0.5 if method.t is None else method.t)
    if method.name == "nuslerp":
        total = weights[0] + weights[1]
        # mergekit 0.1.5: half way where the weights cancel out.
        return partial(_nuslerp, t=0.5 if abs(total) < 1e-6 else weights[1] / total)
    return {"model_stock": _model_stock, "karcher": _karcher}[method.name]


def _arc(t: float, cosine: float) -> tuple[float, float]:
    angle = np.arccos(cosine)
    return np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)


def _cosine(gram: Array, left: int, right: int, least: float = 0.0) -> float:
    """Return the cosine of two vectors; 0 where one is no longer than ``least``."""
    norms = np.sqrt(np.diag(gram))
    if norms[left] <= least or norms[right] <= least:
        return 0.0
    return float(np.clip(gram[left, right] / (norms[left] * norms[right]), -1, 1))


def _models(gram: Array) -> tuple[Array, Array]:
    """Return the models as rows of coefficients over {W, deltas}, and their inner products."""
    count = len(gram) - 1
    rows = np.concatenate([np.ones((count, 1)), np.eye(count)], axis=1)
    return rows, rows @ gram @ rows.T


def _slerp(gram: Array, t: float) -> Array:
    """Spherical interpolation of two models, or from W to the only one.

    sin((1-t) a)/sin(a) x + sin(t a)/sin(a) y, a the angle between; a straight line where
    |cos a| > 0.9995 (Shoemake, SIGGRAPH 1985; mergekit 0.1.5, merge_methods/slerp.py).
    """
    rows, products = _models(gram)
    if len(rows) == 1:
        rows = np.array([[1.0, 0.0], [1.0, 1.0]])
        products = rows @ gram @ rows.T
    cosine = _cosine(products, 0, 1, least=1e-8)
    if abs(cosine) > 0.9995:
        return _less_base(np.array([1 - t, t]), rows, total=1.0)
    first, second = _arc(t, cosine)
    return _less_base(np.array([first, second]), rows, total=first + second)


def _less_base(shares: Array, rows: Array, total: float) -> Array:
    """Return sum(share * model) - W as coefficients."""
    coefficients: Array = shares @ rows
    coefficients[0] = total - 1  # exactly 0 on a straight line
    return coefficients


def _nuslerp(gram: Array, t: float) -> Array:
    """Spherical interpolation of two deltas by their directions, applied to them unscaled.

    A straight line where 1 - cos^2 <= 1e-16 (mergekit 0.1.5, merge_methods/nuslerp.py,
    with nuslerp_flatten, its default; there norms count as 1e-7 at least).
    """
    cosine = _cosine(gram, 1, 2)
    if 1 - cosine**2 <= 1e-16:
        return np.array([0.0, 1 - t, t])
    return np.array([0.0, *_arc(t, cosine)])


def _model_stock(gram: Array) -> Array:
    """Return t / k for each delta: t = k c / (1 + (k-1) c), c their mean pairwise cosine.

    0 where the divisor vanishes (Jang et al., arXiv 2403.19522; mergekit 0.1.5,
    merge_methods/model_stock.py; there products of norms count as 1e-6 at least, which
    shrinks the outcome for small deltas).
    """
    count = len(gram) - 1
    pairs = [(i, j) for i in range(1, count + 1) for j in range(i + 1, count + 1)]
    cosine = float(np.mean([_cosine(gram, i, j) for i, j in pairs]))
    divisor = 1 + (count - 1) * cosine
    share = 0.0 if abs(divisor) < 1e-6 else count * cosine / divisor
    return np.array([0.0, *[share / count] * count])


def _karcher(gram: Array) -> Array:
    """The mean of the models' directions on the sphere, times their mean norm.

    At most 10 steps of mean <- exp(mean, mean of log(mean, direction)), from the mean in
    space, until a step is under 1e-5 (arXiv 2603.04972; mergekit 0.1.5,
    merge_methods/karcher.py). Models that are no longer than 1e-5 have no direction, but
    count in the mean norm.
    """
    rows, products = _models(gram)
    norms = np.sqrt(np.clip(np.diag(products), 0, None))
    count = len(norms)
    if count == 1:
        return np.array([0.0, 1.0])
    valid = np.flatnonzero(~(norms <= _TOLERANCE))
    if not valid.size:
        return np.array([-1.0, *[0.0] * count])  # the mean of nothing is zero, as there
    cosines = (products / np.outer(norms, norms))[np.ix_(valid, valid)]
    mean = _mean_direction(cosines)
    shares = np.zeros(count)
    shares[valid] = norms.mean() * mean / norms[valid]
    return _less_base(shares, rows, total=float(shares.sum()))


_TOLERANCE = 1e-5
_STEPS = 10


def _mean_direction(cosines: Array) -> Array:
    """Return the coefficients, over unit vectors with these cosines, of their Karcher mean."""

    def length(vector: Array) -> float:
        return float(np.sqrt(np.maximum(vector @ cosines @ vector, 0)))

    count = len(cosines)
    units = np.eye(count)
    mean = np.full(count, 1 / count)
    mean = units[0] if length(mean) < _TOLERANCE else mean / length(mean)
    for _ in range(_STEPS):
        step = np.zeros(count)
        for unit in units:
            cosine = np.clip(mean @ cosines @ unit, -1, 1)
            angle = np.arccos(cosine)
            if not angle < _TOLERANCE:
                step += angle / np.sin(angle) / count * (unit - cosine * mean)
        size = length(step)
        if size < _TOLERANCE:
            break
        mean = np.cos(size) * mean + np.sin(size) * step / size
        mean /= length(mean)
    return mean
