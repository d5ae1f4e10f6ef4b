"""`adreg verify-merge`."""

from __future__ import annotations

import json
from pathlib import Path

import factory
import pytest
from running import Adreg

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


@pytest.fixture
def model(home: Path, tmp_path: Path) -> Path:
    """Merge an adapter into a tiny Llama as "bot"; return the model's folder."""
    base = factory.make_base(tmp_path / "base")
    one = factory.make_adapter(base, tmp_path / "one")
    registry = Registry(home)
    registry.add_base(str(base), name="tiny")
    registry.add(one, name="one", base="tiny")
    return registry.merge(Recipe((RecipeAdapter("one", 0.5),)), name="bot").folder


def test_same(adreg: Adreg, model: Path) -> None:
    """The distances stand in a table, the verdict below it, and what was compared on stderr."""
    del model
    ran = adreg("verify-merge", "bot", "--prompt", "the cat sat")
    lines = ran.out.splitlines()

    assert 0 == ran.code
    assert "distance\tlargest\tmean\trms\tkl\tsame top-1" == lines[0]
    assert [
        "merged, from base and adapters",
        "base and adapters rounded, from the same",
        "merged, from those rounded",
        "the base, from base and adapters",
    ] == [line.split("\t")[0] for line in lines[1:5]]
    assert "bot@1: same as base and adapters within rounding" == lines[5]
    assert "bot@1 (BF16) against tiny + 0.5 x one@1 (unmerged), on 1 input in float32" in ran.err


def test_json(adreg: Adreg, model: Path) -> None:
    """As JSON all numbers come with the verdict."""
    del model
    ran = adreg("-q", "verify-merge", "bot", "--json", "--tolerance", "3", "--seed", "4")
    told = json.loads(ran.out)

    assert (0, "", "same") == (ran.code, ran.err, told["verdict"])
    assert ("bot@1", "tiny", [["one@1", 0.5]]) == (told["model"], told["base"], told["adapters"])
    assert 3.0 == told["tolerance"]
    assert told["comparison"]["merged"]["rms"] < 0.1 * told["comparison"]["effect"]["rms"]


def test_differs(adreg: Adreg, model: Path) -> None:
    """Weights that are not the merge's end in exit 1, with the numbers printed all the same."""
    name = "model.layers.0.mlp.down_proj.weight"
    factory.edit_tensors(model, lambda t: t[name].mul_(1.5), "model.safetensors")
    ran = adreg("-q", "verify-merge", "bot")
    told = adreg("-q", "verify-merge", "bot", "--json")

    assert 1 == ran.code
    assert 5 == len(ran.out.splitlines())
    assert "error: bot@1: it does not answer as its base with the adapters does" in ran.err
    assert "hint: " in ran.err
    assert 1 == told.code
    assert "differs" == json.loads(told.out)["verdict"]
    assert ("NotProven", "differs") == (
        json.loads(told.err)["error"],
        json.loads(told.err)["facts"]["verdict"],
    )


def test_wrong_use(adreg: Adreg, home: Path) -> None:
    """An adapter is no model, and a tolerance below 1 is a wrong use."""
    del home

    assert 1 == adreg("verify-merge", "nobody").code
    assert 2 == adreg("verify-merge", "nobody", "--tolerance", "0.5").code
