"""Products of two thin matrices: stacked, measured and cut to a rank, never multiplied out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adreg.registry.tensors.arrays import Array

_NOTHING = 1e-10
"""Singular values below this share of the largest are the noise of float64 on float32 inputs."""

_DOUBLE = 32 << 20
"""Elements of a factor up to which it is factorised in float64; larger ones (a vocabulary of
256,000 at a rank over 128) in the precision they came in, to keep memory small."""


@dataclass(frozen=True, slots=True)
class Target:
    """How much to keep: at most ``rank``, and no more than ``energy`` needs.

    ``energy`` is the share of the squared Frobenius norm, above 0 and at most 1. At least
    one of the two is given.
    """

    rank: int | None = None
    energy: float | None = None

    def pick(self, singular: Array, total: float) -> int:
        """Return how many of the descending ``singular`` values to keep, at least one.

        ``total`` is the squared Frobenius norm that they are a part of.
        """
        if not len(singular):
            return 0
        kept = int(np.count_nonzero(singular > singular[0] * _NOTHING))
        if self.energy is not None:
            sums = np.cumsum(np.square(singular, dtype=np.float64))
            # The last sums may miss the total by their rounding.
            kept = min(kept, int(np.searchsorted(sums, self.energy * total * (1 - 1e-12))) + 1)
        if self.rank is not None:
            kept = min(kept, self.rank)
        return max(1, kept)


@dataclass(frozen=True, slots=True)
class Factors:
    """A delta B A of one module, scale included: ``b`` (out, r), ``a`` (r, in)."""

    b: Array
    a: Array

    @property
    def rank(self) -> int:
        """The rank r that the two share."""
        return int(self.a.shape[0])

    def astype(self, dtype: np.dtype[Any]) -> Factors:
        """Return both rounded once to another type."""
        return Factors(self.b.astype(dtype), self.a.astype(dtype))


def stack(terms: Sequence[tuple[Factors, float]]) -> Factors:
    """Return the exact weighted sum of deltas: [B_i] [c_i A_i], of the sum of the ranks.

    This is what peft 0.21.2 calls ``cat`` (tuners/lora/model.py, ``add_weighted_adapter``).
    """
    a = np.concatenate([factors.a * factors.a.dtype.type(c) for factors, c in terms], axis=0)
    return Factors(np.concatenate([factors.b for factors, _ in terms], axis=1), a)


def inner(x: Factors, y: Factors) -> float:
    """Return the Frobenius inner product of two deltas of one shape, in float64.

    <B A, B' A'> is the sum of (B^T B') * (A A'^T): r r' numbers instead of out in.
    """
    left = np.zeros((x.rank, y.rank))
    right = np.zeros((x.rank, y.rank))
    for start in range(0, len(x.b), step := _step(x.rank + y.rank)):
        one, other = (f.b[start : start + step].astype(np.float64) for f in (x, y))
        left += one.T @ other
    for start in range(0, x.a.shape[1], step):
        one, other = (f.a[:, start : start + step].astype(np.float64) for f in (x, y))
        right += one @ other.T
    return float(np.sum(left * right))


def norm(x: Factors) -> float:
    """Return the Frobenius norm of a delta."""
    return math.sqrt(max(0.0, inner(x, x)))


def distance(x: Factors, y: Factors) -> float:
    """Return the Frobenius norm of the difference of two deltas.

    Differences below 1e-8 of the deltas drown in the rounding of float64.
    """
    return math.sqrt(max(0.0, inner(x, x) - 2 * inner(x, y) + inner(y, y)))


def compress(x: Factors, target: Target) -> Factors:
    """Return the best approximation of a delta at the rank that ``target`` picks.

    Q_B R_B = B and Q_A R_A = A^T turn it into Q_B (R_B R_A^T) Q_A^T with a core of r by r,
    whose SVD gives the SVD of the whole (Golub and Van Loan, Matrix Computations, 5.4);
    the best by Eckart and Young, 1936. sqrt(S) goes to either side. A delta of nothing
    but zeros comes back at rank 1.
    """
    q_b, r_b = np.linalg.qr(_wide(x.b))
    q_a, r_a = np.linalg.qr(_wide(x.a).T)
    core = r_b.astype(np.float64) @ r_a.astype(np.float64).T
    u, singular, v = np.linalg.svd(core, full_matrices=False)
    kept = target.pick(singular, float(np.sum(np.square(singular))))
    return balanced(
        q_b @ u[:, :kept].astype(q_b.dtype),
        singular[:kept],
        v[:kept].astype(q_a.dtype) @ q_a.T,
    )


def balanced(u: Array, singular: Array, v: Array) -> Factors:
    """Return U S V as factors with sqrt(S) on either side, so that both round alike.

    ``u`` (out, r), ``singular`` (r,), ``v`` (r, in). Of each pair of vectors the sign is
    chosen by the largest element of u, so that equal inputs give equal bytes.
    """
    if not len(singular):
        return Factors(u, v)
    largest = np.argmax(np.abs(u), axis=0)
    signs = np.where(u[largest, np.arange(u.shape[1])] < 0, -1.0, 1.0)
    roots = np.sqrt(singular) * signs
    return Factors(u * roots.astype(u.dtype), v * roots.astype(v.dtype)[:, None])


def _wide(factor: Array) -> Array:
    return factor.astype(np.float64) if factor.size <= _DOUBLE else factor


def _step(width: int) -> int:
    return max(1, (4 << 20) // max(1, width))
