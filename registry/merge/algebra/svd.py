"""The best approximation of a matrix that is only ever seen by blocks of rows.

Randomised SVD with power iterations: Halko, Martinsson and Tropp, Finding structure
with randomness, SIAM Review 53 (2011), algorithms 4.4 and 5.1. The draws come from the
tensor's name, so that order and threads do not matter. Memory is
O((rows + columns) (rank + oversampling)) and one block; the matrix is read again for
each pass, unless it is small enough to be held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from adreg.registry.merge.algebra.draws import generator
from adreg.registry.merge.algebra.low_rank import Factors, Target, balanced
from adreg.registry.tensors.arrays import Array

_BLOCK = 4 << 20
"""Elements of a block: 16 MiB in float32."""

_HELD = 16 << 20
"""Elements held whole, 64 MiB in float32, instead of being read again for each pass."""

_EXACT = 1 << 19
"""Elements up to which LAPACK's full SVD takes less than a second."""

_OVERSAMPLING = 16
_POWERS = 3
"""Power iterations: each cubes how far the singular values that are kept stand out."""

_FIRST = 32
"""The first guess of a rank that is to be found by energy."""


class Rows(Protocol):
    """A matrix by blocks of rows; the same rows always come in the same blocks."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def rows(self, start: int, stop: int) -> Array:
        """Return rows [start, stop) in float32."""


@dataclass(frozen=True, slots=True)
class Held:
    """A matrix that is in memory."""

    matrix: Array

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.matrix.shape[0]), int(self.matrix.shape[1])

    def rows(self, start: int, stop: int) -> Array:
        """Return rows [start, stop)."""
        return self.matrix[start:stop]


@dataclass(frozen=True, slots=True)
class Approximation:
    """Factors close to a matrix, the norm of it, and how far they are from it.

    ``error`` is the Frobenius norm of the difference, measured on the very values of
    ``factors``. ``reached`` is false when no rank that saves room has the energy asked for.
    """

    factors: Factors
    norm: float
    error: float
    reached: bool = True


def blocks(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Give the blocks of rows, as (start, stop), that a matrix is read in."""
    step = max(1, _BLOCK // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def square_norm(matrix: Rows) -> float:
    """Return the squared Frobenius norm, in float64."""
    return sum(
        float(np.sum(np.square(matrix.rows(*block), dtype=np.float64)))
        for block in blocks(matrix.shape)
    )


def distance(matrix: Rows, factors: Factors) -> float:
    """Return the Frobenius norm of the matrix minus B A, in one more pass."""
    total = 0.0
    b, a = factors.b.astype(np.float32), factors.a.astype(np.float32)
    for start, stop in blocks(matrix.shape):
        rest = matrix.rows(start, stop) - b[start:stop] @ a
        total += float(np.sum(np.square(rest, dtype=np.float64)))
    return math.sqrt(total)


def break_even(shape: tuple[int, int]) -> int:
    """Return the largest rank at which the factors are not larger than the matrix."""
    return max(1, shape[0] * shape[1] // max(1, shape[0] + shape[1]))


def approximate(
    matrix: Rows, target: Target, name: str, dtype: np.dtype[Any], *, exact: int = _EXACT
) -> Approximation:
    """Return factors of the rank that ``target`` picks, near the best that there are.

    They are rounded once, to ``dtype``. Matrices of at most ``exact`` elements go through
    LAPACK's full SVD. A rank that is asked for by energy alone is at most ``break_even``.
    """
    rows, columns = matrix.shape
    if rows * columns <= _HELD and not isinstance(matrix, Held):
        matrix = Held(np.concatenate([matrix.rows(*block) for block in blocks(matrix.shape)]))
    total = square_norm(matrix)
    limit = min(rows, columns, break_even(matrix.shape) if target.rank is None else target.rank)
    wanted = Target(limit, target.energy)
    if rows * columns <= exact:
        u, s, v = np.linalg.svd(_whole(matrix).astype(np.float64), full_matrices=False)
    else:
        u, s, v = _randomised(matrix, wanted, total, name)
    kept = wanted.pick(s, total)
    # Values that the dtype does not have are the caller's to refuse, by name.
    with np.errstate(over="ignore", invalid="ignore"):
        factors = balanced(u[:, :kept], s[:kept], v[:kept]).astype(dtype)
        error = distance(matrix, factors)
    energy = float(np.sum(np.square(s[:kept], dtype=np.float64)))
    # The randomised singular values fall short of the true ones by some 1e-6.
    reached = target.energy is None or energy >= target.energy * total * (1 - 1e-5)
    return Approximation(factors, math.sqrt(total), error, reached)


def _whole(matrix: Rows) -> Array:
    return matrix.matrix if isinstance(matrix, Held) else matrix.rows(0, matrix.shape[0])


def _randomised(matrix: Rows, target: Target, total: float, name: str) -> tuple[Array, ...]:
    limit = target.rank or 1
    rank = limit if target.energy is None else min(_FIRST, limit)
    while True:
        u, s, v = _sketch(matrix, rank, name)
        found = float(np.sum(np.square(s[:rank], dtype=np.float64)))
        if rank == limit or target.energy is None or found >= target.energy * total:
            return u, s, v
        rank = min(2 * rank, limit)


def _sketch(matrix: Rows, rank: int, name: str) -> tuple[Array, Array, Array]:
    rows, columns = matrix.shape
    width = min(rank + _OVERSAMPLING, rows, columns)
    draws = generator("svd", name).standard_normal((columns, width), dtype=np.float32)
    y = _times(matrix, draws)
    for _ in range(_POWERS):
        z = _transposed_times(matrix, np.linalg.qr(y)[0])
        y = _times(matrix, np.linalg.qr(z)[0])
    q = np.linalg.qr(y)[0]  # (rows, width)
    z = _transposed_times(matrix, q)  # (columns, width)
    right, s, left = np.linalg.svd(z, full_matrices=False)  # z = right s left
    return q @ left.T, s, right.T


def _times(matrix: Rows, right: Array) -> Array:
    """Return matrix @ right: (rows, width)."""
    right = right.astype(np.float32)
    return np.concatenate([matrix.rows(*block) @ right for block in blocks(matrix.shape)])


def _transposed_times(matrix: Rows, left: Array) -> Array:
    """Return matrix.T @ left, summed over the blocks in float64: (columns, width)."""
    result = np.zeros((matrix.shape[1], left.shape[1]), np.float64)
    for start, stop in blocks(matrix.shape):
        result += matrix.rows(start, stop).T @ left[start:stop].astype(np.float32)
    return result
