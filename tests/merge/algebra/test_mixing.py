"""Element-wise combinations, against PEFT's own functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from adreg.registry.merge.algebra import mixing

WEIGHTS = (0.7, -1.3, 0.4)
RANDOM = np.random.default_rng(0)
TENSORS = [RANDOM.standard_normal((40, 30)).astype(np.float32) for _ in WEIGHTS]


def pruned(density: float) -> list[np.ndarray]:
    """Return the tensors with only their largest elements."""
    keep = mixing.keep_count(density, TENSORS[0].size)
    cuts = [mixing.find_cut(lambda one=one: (one,), keep) for one in TENSORS]  # type: ignore[misc]
    return [one * cut.keeps(one, 0) for one, cut in zip(TENSORS, cuts, strict=True)]


@pytest.mark.parametrize("density", [0.05, 0.5, 0.99])
def test_magnitude_pruning(density: float) -> None:
    """The largest magnitudes are kept, just as many as PEFT keeps, and the same."""
    for ours, whole in zip(pruned(density), TENSORS, strict=True):
        theirs = merge_utils.magnitude_based_pruning(torch.from_numpy(whole), density)
        assert np.array_equal(theirs.numpy(), ours)


@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize("density", [0.2, 0.8])
def test_ties(majority: mixing.Majority, density: float) -> None:
    """TIES is PEFT's: the vote is unweighted, and the sum is divided by how many agree."""
    theirs = merge_utils.ties(
        [torch.from_numpy(one) for one in TENSORS], torch.tensor(WEIGHTS), density, majority
    )
    ours = mixing.mix(pruned(density), WEIGHTS, mixing.MIXES["ties"], majority)

    assert np.allclose(theirs.numpy(), ours, atol=1e-6)


def test_magnitude_prune() -> None:
    """Without an election the weighted sum is all."""
    theirs = merge_utils.magnitude_prune(
        [torch.from_numpy(one) for one in TENSORS], torch.tensor(WEIGHTS), 0.3
    )

    assert np.allclose(
        theirs.numpy(), mixing.mix(pruned(0.3), WEIGHTS, mixing.MIXES["magnitude_prune"]), atol=1e-6
    )


@pytest.mark.parametrize("keep", [0, 1, 7, 60, 119, 120])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_cut_over_blocks_and_ties(keep: int, rows: int) -> None:
    """Whatever the blocks, just ``keep`` elements stay, of equal ones the first."""
    whole = np.round(RANDOM.standard_normal((40, 3)), 1).astype(np.float32)
    order = np.argsort(-np.abs(whole).reshape(-1), kind="stable")
    expected = np.zeros(whole.size, bool)
    expected[order[:keep]] = True
    cut = mixing.find_cut(lambda: (whole[n : n + rows] for n in range(0, 40, rows)), keep)

    kept = [cut.keeps(whole[n : n + rows], n * 3) for n in range(0, 40, rows)]

    assert np.array_equal(expected, np.concatenate(kept).reshape(-1))


def test_random_pruning() -> None:
    """A share of the elements stays, divided by it; names are the seed."""
    whole = np.ones((300, 200), np.float32)
    one, again, other = (mixing.prune_randomly(whole, 0.25, 0, name) for name in "aab")

    assert abs(0.25 - np.mean(one != 0)) < 0.01
    assert {0.0, 4.0} == set(np.unique(one))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
