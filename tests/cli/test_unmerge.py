"""`adreg unmerge`."""

from __future__ import annotations

import json
from pathlib import Path

import factory
import pytest
from running import Adreg

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


@pytest.fixture
def root(home: Path, tmp_path: Path) -> Path:
    """Return a folder with a tiny Llama and adapters, all in the registry, merged as "bot"."""
    base = factory.make_base(tmp_path / "base")
    registry = Registry(home)
    registry.add_base(str(base), name="tiny")
    for seed, name in ((1, "one"), (2, "two")):
        registry.add(factory.make_adapter(base, tmp_path / name, seed=seed), name=name, base="tiny")
    parts = (RecipeAdapter("one", 0.5), RecipeAdapter("two"))
    registry.merge(Recipe(parts), name="bot")
    return tmp_path


def test_all_of_them(adreg: Adreg, root: Path) -> None:
    """What was taken out, how near the base is, and the bound stand in a line each."""
    ran = adreg("-q", "unmerge", "bot", "one", "two", "-o", str(root / "out"), "--name", "plain")
    lines = ran.out.splitlines()

    assert (0, "") == (ran.code, ran.err)
    assert lines[0].startswith("took 0.5 x one@1, 1 x two@1 out of bot@1: plain@1 in ")
    assert lines[1].startswith("against tiny: ")
    assert " of 6,144 elements have the same bits, " in lines[1]
    assert lines[2].startswith("rounding that may be left: ")
    assert 3 == len(lines)
    assert (root / "out" / "model.safetensors").is_file()


def test_one_of_them(adreg: Adreg, root: Path) -> None:
    """What stays in the model is named; as JSON too, with the plan of the merge."""
    del root
    ran = adreg("-q", "unmerge", "bot", "one")
    told = json.loads(adreg("-q", "unmerge", "bot", "one", "--json").out)

    assert "still in it: 1 x two@1" == ran.out.splitlines()[1]
    assert ([["one@1", 0.5]], [["two@1", 1.0]]) == (told["adapters"], told["left"])
    assert None is told["distance"]
    assert 0 < told["bound"] < 0.1


def test_dry_run(adreg: Adreg, root: Path) -> None:
    """A dry run says how many tensors would change."""
    ran = adreg("-q", "unmerge", "bot", "one", "-o", str(root / "out"), "--dry-run")

    assert 0 == ran.code
    assert "bot@1 without 0.5 x one@1; 6 tensors of 21 change" in ran.out
    assert not (root / "out").exists()


def test_refused(adreg: Adreg, root: Path) -> None:
    """DoRA cannot be subtracted: exit 1, one line of why and one of what to do."""
    factory.make_adapter(root / "base", root / "dora", use_dora=True)
    adreg("merge", str(root / "dora"), "--base", "tiny", "--name", "odd")
    ran = adreg("-q", "unmerge", "odd", str(root / "dora"))

    assert (1, "") == (ran.code, ran.out)
    assert "DoRA's magnitude" in ran.err
    assert "hint: Merge the other adapters into the base again" in ran.err
    assert 2 == adreg("unmerge", "odd").code
