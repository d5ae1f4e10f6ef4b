"""Approximations of matrices that are seen by blocks of rows, against torch's full SVD."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from adreg.registry.merge.algebra import svd
from adreg.registry.merge.algebra.low_rank import Target

F32 = np.dtype(np.float32)


@dataclass
class Counted:
    """A matrix that counts how often it is read."""

    matrix: np.ndarray
    reads: int = 0
    largest: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop)."""
        self.reads += 1
        self.largest = max(self.largest, stop - start)
        return np.asarray(self.matrix[start:stop])


def matrix(rows: int, columns: int, decay: float) -> np.ndarray:
    """Return a matrix with singular values 1, decay, decay^2, ... and some noise under them."""
    random = np.random.default_rng(5)
    size = min(rows, columns)
    u = np.linalg.qr(random.standard_normal((rows, size)))[0]
    v = np.linalg.qr(random.standard_normal((columns, size)))[0]
    return np.asarray((u * decay ** np.arange(size)) @ v.T, np.float32)


def tail(whole: np.ndarray, rank: int) -> float:
    """Return the error of the best approximation, from torch's singular values."""
    singular = torch.linalg.svdvals(torch.from_numpy(whole).double())
    return float(singular[rank:].norm())


@pytest.mark.parametrize("decay", [1.0, 0.99, 0.9])
@pytest.mark.parametrize("exact", [0, 1 << 30])
def test_within_one_percent_of_the_best(decay: float, exact: int) -> None:
    """Both ways miss at most 1 % more than the best of rank 8 does, flat spectra too."""
    whole = matrix(200, 150, decay)

    near = svd.approximate(svd.Held(whole), Target(8), "w", F32, exact=exact)

    error = np.linalg.norm(whole - near.factors.b.astype(np.float64) @ near.factors.a)
    assert 8 == near.factors.rank
    assert np.isclose(error, near.error, rtol=1e-4)
    assert tail(whole, 8) * (1 - 1e-4) <= error <= 1.01 * tail(whole, 8)
    assert np.isclose(np.linalg.norm(whole), near.norm)


def test_what_has_the_rank_is_found_whole() -> None:
    """A matrix of rank 8 comes back but for rounding."""
    random = np.random.default_rng(1)
    whole = (random.standard_normal((300, 8)) @ random.standard_normal((8, 200))).astype(F32)

    near = svd.approximate(svd.Held(whole), Target(16), "w", F32, exact=0)

    assert near.error < 1e-5 * near.norm


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.99])
def test_the_rank_is_found_by_energy(energy: float) -> None:
    """The rank is the smallest with that share of the squared norm, over the first guess too."""
    whole = matrix(300, 250, 0.99)
    squares = np.linalg.svd(whole.astype(np.float64), compute_uv=False) ** 2
    wanted = int(np.argmax(np.cumsum(squares) / squares.sum() >= energy)) + 1
    limit = svd.break_even(whole.shape)

    near = svd.approximate(svd.Held(whole), Target(energy=energy), "w", F32, exact=0)

    assert abs(min(wanted, limit) - near.factors.rank) <= 1
    assert near.reached == (wanted <= limit)


def test_blocks_are_read_and_not_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix too large to hold is read by blocks, again in each pass, with the same outcome."""
    whole = matrix(400, 100, 0.9)
    held = svd.approximate(svd.Held(whole), Target(5), "w", F32, exact=0)
    monkeypatch.setattr(svd, "_HELD", 0)
    monkeypatch.setattr(svd, "_BLOCK", 64 * 100)
    counted = Counted(whole)

    near = svd.approximate(counted, Target(5), "w", F32, exact=0)

    assert 64 == counted.largest
    assert 7 * (2 + 2 * 3 + 2) == counted.reads  # the norm, 8 products, the error
    assert np.isclose(held.error, near.error, rtol=1e-4)


def test_the_name_is_the_seed() -> None:
    """The same name gives the same bytes; another draws otherwise."""
    whole = matrix(200, 150, 1.0)
    one, again, other = (
        svd.approximate(svd.Held(whole), Target(4), name, F32, exact=0) for name in "aab"
    )

    assert one.factors.a.tobytes() == again.factors.a.tobytes()
    assert one.factors.a.tobytes() != other.factors.a.tobytes()


def test_zero() -> None:
    """A matrix of zeros has the norm 0 and no error."""
    near = svd.approximate(svd.Held(np.zeros((20, 10), F32)), Target(4), "w", F32)

    assert (0.0, 0.0) == (near.norm, near.error)
