"""Products of thin matrices, against numpy on the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest

from adreg.registry.merge.algebra import low_rank
from adreg.registry.merge.algebra.low_rank import Factors, Target

RANDOM = np.random.default_rng(0)


def factors(out: int, inner: int, rank: int) -> Factors:
    """Return random factors in float32."""
    b = RANDOM.standard_normal((out, rank)).astype(np.float32)
    return Factors(b, RANDOM.standard_normal((rank, inner)).astype(np.float32))


def whole(x: Factors) -> np.ndarray:
    """Return B A in float64."""
    return x.b.astype(np.float64) @ x.a.astype(np.float64)


def test_a_stack_is_the_weighted_sum() -> None:
    """Stacked factors are the weighted sum of the deltas, at the sum of the ranks."""
    one, two = factors(30, 20, 3), factors(30, 20, 5)

    stacked = low_rank.stack([(one, 0.5), (two, -2.0)])

    assert 8 == stacked.rank
    assert np.allclose(whole(stacked), 0.5 * whole(one) - 2 * whole(two), atol=1e-5)


@pytest.mark.parametrize(("out", "inner", "rank"), [(40, 30, 8), (5, 60, 12), (60, 5, 12)])
def test_compress_is_the_best_there_is(out: int, inner: int, rank: int) -> None:
    """Cut to rank 3 the delta misses just the other singular values, as numpy has them."""
    x = factors(out, inner, rank)
    singular = np.linalg.svd(whole(x), compute_uv=False)

    cut = low_rank.compress(x, Target(3))

    assert 3 == cut.rank
    best = np.sqrt(np.sum(singular[3:] ** 2))
    assert np.isclose(best, np.linalg.norm(whole(cut) - whole(x)), rtol=1e-6)


def test_the_rank_follows_the_energy() -> None:
    """Energy picks the smallest rank whose squared singular values have that share."""
    x = factors(40, 30, 12)
    squares = np.linalg.svd(whole(x), compute_uv=False) ** 2
    shares = np.cumsum(squares) / squares.sum()

    for energy in (0.2, 0.5, 0.9, 0.999):
        cut = low_rank.compress(x, Target(energy=energy))
        assert int(np.argmax(shares >= energy)) + 1 == cut.rank

    assert 12 == low_rank.compress(x, Target(energy=1.0)).rank
    assert 2 == low_rank.compress(x, Target(2, 0.999)).rank


def test_what_is_linearly_dependent_goes() -> None:
    """A delta stacked on itself keeps its own rank, whatever rank is allowed."""
    x = factors(40, 30, 4)

    assert 4 == low_rank.compress(low_rank.stack([(x, 1.0), (x, 0.5)]), Target(64)).rank


def test_norms_without_the_matrix() -> None:
    """Norm and distance are numpy's of the whole matrices, to 1e-8 of them."""
    x, y = factors(300, 200, 6), factors(300, 200, 4)

    assert np.isclose(np.linalg.norm(whole(x)), low_rank.norm(x), rtol=1e-12)
    assert np.isclose(np.linalg.norm(whole(x) - whole(y)), low_rank.distance(x, y), rtol=1e-10)
    assert low_rank.distance(x, x) < 1e-7 * low_rank.norm(x)


def test_long_factors_are_read_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inner product does not depend on the pieces that it is summed over."""
    x, y = factors(300, 200, 6), factors(300, 200, 4)
    expected = low_rank.inner(x, y)
    monkeypatch.setattr(low_rank, "_step", lambda width: width)

    assert np.isclose(expected, low_rank.inner(x, y), rtol=1e-12)
