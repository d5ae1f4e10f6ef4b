"""A method's parameters: defaults, refusals in words, and what a recipe keeps."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from adreg.registry.errors import MergeRefused
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.make import make_combination
from adreg.registry.merge.methods.method import METHODS, Method


def given(name: str) -> dict[str, Any]:
    """Return the least that a method must be given."""
    return {p: 0.5 for p, default in METHODS[name].parameters.items() if default is None}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described_and_made(name: str) -> None:
    """Each method of the table has words for help and a way to be carried out."""
    info = METHODS[name]
    method = Method(name, **given(name))
    least, most = info.inputs

    combination = make_combination(method, "w", 2, 3, [1.0] * least, np.float32)

    assert info.summary
    assert info.source
    assert most is None or least <= most
    assert set(info.parameters) == set(method.settings())
    assert None not in method.settings().values()
    assert callable(combination.combine)


def test_defaults_are_the_methods_own() -> None:
    """What is left out is filled in from the table, by method."""
    expected = {"density": 0.2, "sign": "total", "normalize": True, "rescale": False, "lambda": 1.0}

    assert expected == Method("ties", density=0.2).settings()
    assert Method("linear").settings() == {"normalize": False, "lambda": 1.0}
    assert Method("dare_ties", density=0.2).rescale is True
    assert Method("karcher").settings() == {}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"name": "tyes"}, "method: 'tyes' is none of linear, task_arithmetic, ties"),
        ({"name": "ties"}, "density: ties needs one, such as 0.5"),
        ({"name": "slerp", "density": 0.5}, "density: slerp takes t"),
        ({"name": "karcher", "t": 0.5}, "t: karcher takes no parameters"),
        ({"name": "peft_ties", "density": 0.5, "lambda_": 2}, "lambda: peft_ties takes density"),
        ({"name": "ties", "density": 0}, "density: 0 is not over 0 and at most 1"),
        ({"name": "ties", "density": 1.5}, "density: 1.5 is not over 0 and at most 1"),
        ({"name": "ties", "density": float("nan")}, "density: nan is not a number"),
        ({"name": "ties", "density": "0.5"}, "density: '0.5' is not a number"),
        ({"name": "ties", "density": True}, "density: True is not a number"),
        ({"name": "ties", "density": 0.5, "sign": "sum"}, "sign: 'sum' is neither"),
        ({"name": "ties", "density": 0.5, "normalize": 1}, "normalize: 1 is neither true nor"),
        ({"name": "dare_ties", "density": 0.5, "seed": -1}, "seed: -1 is not a whole number"),
        ({"name": "dare_ties", "density": 0.5, "seed": 1.5}, "seed: 1.5 is not a whole number"),
        ({"name": "slerp", "t": -0.1}, "t: -0.1 is not from 0 to 1"),
        ({"name": "breadcrumbs", "density": 0.5, "gamma": 2}, "gamma: 2 is not from 0 to 1"),
        ({"name": "della", "density": 0.9}, "epsilon: density 0.9 minus and plus epsilon 0.15"),
        ({"name": "linear", "lambda_": float("inf")}, "lambda: inf is not a number"),
    ],
)
def test_what_is_refused(more: dict[str, Any], words: str) -> None:
    """A parameter that is missing, foreign or out of range is named, with what would do."""
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        Method(**more)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("slerp", 3, "adapters: slerp combines 1 to 2, not 3"),
        ("nuslerp", 1, "adapters: nuslerp combines 2, not 1"),
        ("sce", 1, "adapters: sce combines 2 or more, not 1"),
        ("linear", 0, "adapters: linear combines 1 or more, not 0"),
    ],
)
def test_too_few_or_too_many(name: str, count: int, words: str) -> None:
    """A number of deltas that the method cannot combine is refused, with the one it can."""
    with pytest.raises(ValueError, match=words):
        make_combination(Method(name), "w", 2, 2, [1.0] * count, np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(3, 8), (8, 1)])
def test_della_refuses_cut_rows_by_name(rows: int, columns: int) -> None:
    """Ranks need whole rows (of a vector, all of it): else the tensor is refused by name."""
    method = Method("della", density=0.5)
    combination = make_combination(method, "experts.w", rows, columns, [1.0], np.float32)
    tile = Tile(0, 1, 0, 4) if columns > 1 else Tile(0, 4, 0, 1)
    block = np.ones(tile.shape, np.float32)

    with pytest.raises(MergeRefused, match=r"'experts.w' has rows too long for della"):
        combination.look(block, [block], tile)
