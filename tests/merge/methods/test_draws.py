"""Random draws that belong to an element."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from adreg.registry.merge.methods.draws import Draws


def test_the_stream_is_numpys() -> None:
    """The draws are those of numpy's Generator over the Philox of the documented key."""
    text = '["adreg draws", 3, "lm_head.weight", 1]'
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u8")

    expected = np.random.Generator(np.random.Philox(key=key)).random(1000)

    assert expected.tolist() == Draws(3, "lm_head.weight", 1).uniform(0, 1000).tolist()


@pytest.mark.parametrize(("start", "count"), [(0, 1), (1, 6), (3, 4), (4, 4), (255, 700), (999, 1)])
def test_any_piece_is_a_piece_of_the_whole(start: int, count: int) -> None:
    """An element draws the same, whatever is drawn with it."""
    draws = Draws(0, "w", 0)

    whole = draws.uniform(0, 1000)

    assert whole[start : start + count].tolist() == draws.uniform(start, count).tolist()


def test_far_elements_have_draws_too() -> None:
    """Past 2^32 and 2^63 elements the draws go on without repeating."""
    draws = Draws(0, "w", 0)
    pieces = [draws.uniform(start, 64) for start in (0, 1 << 32, 1 << 34, 1 << 63)]

    assert len(np.unique(pieces)) == 4 * 64


@pytest.mark.parametrize("other", [Draws(1, "w", 0), Draws(0, "v", 0), Draws(0, "w", 1)])
def test_others_draw_otherwise(other: Draws) -> None:
    """Another seed, tensor or place in the recipe has other draws, unrelated to these."""
    draws, others = Draws(0, "w", 0).uniform(0, 10_000), other.uniform(0, 10_000)

    assert abs(np.corrcoef(draws, others)[0, 1]) < 0.05
    assert abs(draws.mean() - 0.5) < 0.02
    assert 0 <= draws.min() < draws.max() < 1
