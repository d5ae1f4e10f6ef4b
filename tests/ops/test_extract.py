"""LoRAs out of fine-tunes and of models of the catalog."""

from __future__ import annotations

import json
from pathlib import Path

import factory
import pytest
import torch

from adreg.registry import Registry
from adreg.registry.errors import AdapterNotMade, NotFound, OutputRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.ops.extract import Wish
from adreg.registry.ops.made_adapters import Wanted


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in float32 and an adapter of rank 4 for it."""
    root = tmp_path_factory.mktemp("extract")
    base = factory.make_base(root / "base", "llama", dtype=torch.float32)
    factory.make_adapter(base, root / "adapter", target_modules=["q_proj", "lm_head"])
    return root


@pytest.fixture
def registry(root: Path, home: Path) -> Registry:
    """A registry with the base ``tiny`` and the model ``bot`` of the adapter."""
    registry = Registry(home)
    registry.add_base(str(root / "base"), name="tiny", licence="mit")
    registry.add(root / "adapter", name="adapter", base="tiny")
    registry.merge(Recipe((RecipeAdapter("adapter"),), base="tiny"), name="bot")
    return registry


def test_a_merged_adapter_comes_back(registry: Registry, root: Path, tmp_path: Path) -> None:
    """What was merged into a model is extracted from it again, at its own rank."""
    made = registry.extract("bot", "tiny", Wish(rank=4), Wanted(tmp_path / "out", "back"))

    expected, ours = (
        factory.load_adapter(root / "base", folder).merge_and_unload().state_dict()
        for folder in (root / "adapter", tmp_path / "out")
    )
    assert "back@1" == str(made.key)
    assert made.error is not None
    assert made.error < 1e-5
    assert {"lm_head", *(f"model.layers.{n}.self_attn.q_proj" for n in (0, 1))} == {
        one.name for one in made.modules
    }
    assert all(torch.allclose(expected[name], ours[name], atol=1e-5) for name in expected)


def test_the_rank_follows_the_energy(registry: Registry, tmp_path: Path) -> None:
    """A merge of rank 4 has all of its energy in 4 singular values."""
    made = registry.extract("bot", "tiny", Wish(energy=0.999999), Wanted(tmp_path / "out"))

    assert 4 == made.rank == made.rank_min


def test_the_recipe_stays_with_it(registry: Registry, root: Path, tmp_path: Path) -> None:
    """The card says of what and how it was made, and history too."""
    del root
    registry.extract(
        "bot", "tiny", Wish(rank=2, modules="q_proj"), Wanted(tmp_path / "out", "back")
    )

    card = (tmp_path / "out" / "README.md").read_text()
    recipe = json.loads(card.partition("```json")[2].partition("```")[0])
    entry = registry.history("back@1").entries[0]
    assert ("bot@1", "tiny", 2, "q_proj") == tuple(
        recipe[name] for name in ("fine_tune", "base", "rank", "modules")
    )
    assert ("extract", "bot@1") == (entry.action, entry.detail["fine_tune"])
    assert str(tmp_path) not in card


def test_a_dry_run_writes_nothing(registry: Registry, home: Path, tmp_path: Path) -> None:
    """A dry run tells what would be lost, and writes nothing."""
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}

    made = registry.extract(
        "bot", "tiny", Wish(rank=1, modules="q_proj"), Wanted(tmp_path / "out", dry_run=True)
    )

    assert ["lm_head.weight"] == [one.name for one in made.lost]
    assert 2 == len(made.modules)
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert not (tmp_path / "out").exists()


def test_refusals(registry: Registry, root: Path, tmp_path: Path) -> None:
    """The base itself, what is not there, and a place inside an input are refused."""
    wanted = Wanted(tmp_path / "out")

    with pytest.raises(AdapterNotMade, match="the fine-tune is the base"):
        registry.extract(str(root / "base"), "tiny", Wish(rank=2), wanted)
    with pytest.raises(AdapterNotMade, match="neither a rank nor an energy"):
        registry.extract("bot", "tiny", Wish(), wanted)
    with pytest.raises(NotFound, match="there is no base 'bto'"):
        registry.extract("bto", "tiny", Wish(rank=2), wanted)
    with pytest.raises(OutputRefused, match="the base, or inside it"):
        registry.extract("bot", "tiny", Wish(rank=2), Wanted(root / "base" / "out"))
    assert not (tmp_path / "out").exists()
