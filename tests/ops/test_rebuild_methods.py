"""Rebuilding models that were combined by a method, or weighted by module: the same bytes again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factory
import pytest

from adreg.registry import Registry
from adreg.registry.catalog.records import ModelVersion
from adreg.registry.errors import InputRefused, LockBroken, NotReproduced
from adreg.registry.merge.recipe import Recipe
from adreg.registry.release.lock import LOCK

OWN = {"down_proj": 2.0, "q_proj": 0.0}
EVERYONE = {r"layers\.0\..*": 0.5, "v_proj": -1.0}
CASES: dict[str, dict[str, Any]] = {
    "the weighted sum": {"weights": EVERYONE},
    "ties": {"method": "ties", "parameters": {"density": 0.3}, "weights": EVERYONE},
    "dare_ties": {
        "method": "dare_ties",
        "parameters": {"density": 0.5, "seed": 77, "lambda": 0.8, "sign": "frequency"},
        "weights": EVERYONE,
    },
    "della": {"method": "della", "parameters": {"density": 0.5, "epsilon": 0.1, "seed": 5}},
    "sce": {"method": "sce", "parameters": {"density": 0.5}, "precision": "float64"},
    "karcher": {"method": "karcher", "dtype": "float32", "max_shard_size": 30_000},
    "peft_dare_linear": {"method": "peft_dare_linear", "parameters": {"density": 0.5, "seed": 1}},
}
ON_FACTORS: dict[str, dict[str, Any]] = {
    "cat": {"method": "cat", "weights": EVERYONE},
    "svd": {"method": "svd", "parameters": {"rank": 3}},
    "factors_dare_ties": {
        "method": "factors_dare_ties",
        "parameters": {"seed": 4, "density": 0.5},
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, two LoRAs of one rank, and a DoRA of another."""
    root = tmp_path_factory.mktemp("parts")
    base = factory.make_base(root / "base")
    return {
        "base": base,
        "one": factory.make_adapter(base, root / "one", seed=1),
        "two": factory.make_adapter(
            base, root / "two", seed=2, target_modules=["q_proj", "up_proj"]
        ),
        "dora": factory.make_adapter(base, root / "dora", seed=3, r=2, use_dora=True),
    }


def release(root: Path, folders: dict[str, Path], asked: dict[str, Any]) -> Path:
    """Merge two adapters as asked in a registry of its own, and export the model."""
    registry = Registry(root / "home")
    registry.add_base(str(folders["base"]), name="tiny", licence="mit")
    on_factors = asked.get("method") in {one["method"] for one in ON_FACTORS.values()}
    names = ("one", "two") if on_factors else ("one", "dora")
    for name in names:
        registry.add(folders[name], name=f"team/{name}", base="tiny", licence="mit")
    first: dict[str, Any] = {"ref": f"team/{names[0]}", "weight": 0.75}
    first |= {} if on_factors else {"weights": OWN}
    adapters = [first, {"ref": f"team/{names[1]}", "weight": -0.5}]
    recipe = Recipe.from_dict({"adapters": adapters, **asked})
    registry.merge(recipe, name="bot", threads=3)
    registry.export("bot", root / "release")
    return root / "release"


@pytest.fixture
def elsewhere(home: Path, folders: dict[str, Path]) -> Registry:
    """Return another registry, in which all parts go by other names."""
    registry = Registry(home)
    registry.add_base(str(folders["base"]), name="other")
    for name in ("dora", "two", "one"):
        registry.add(folders[name], name=f"x-{name}", base="other")
    return registry


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("case", [*CASES, *ON_FACTORS])
def test_the_same_bytes(
    tmp_path: Path, elsewhere: Registry, folders: dict[str, Path], case: str
) -> None:
    """A release comes out again, byte for byte, by the recipe in its lock file alone."""
    asked = (CASES | ON_FACTORS)[case]
    made = release(tmp_path, folders, asked)

    elsewhere.rebuild(made / LOCK, tmp_path / "out")

    assert files(made) == files(tmp_path / "out")
    recipe = json.loads((made / LOCK).read_text())["recipe"]
    for field in asked.keys() - {"weights"}:
        assert asked[field] == recipe[field]
    kept = Recipe.from_dict(recipe)
    assert tuple(asked.get("weights", {}).items()) == kept.weights
    assert tuple(OWN.items() if case in CASES else ()) == kept.adapters[0].weights


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "dare_linear"),
        ("parameters", {"density": 0.5, "seed": 78, "lambda": 0.8, "sign": "frequency"}),
        ("weights", {r"layers\.0\..*": 0.25, "v_proj": -1.0}),
        ("precision", "float64"),
    ],
)
def test_another_recipe(
    tmp_path: Path, elsewhere: Registry, folders: dict[str, Path], field: str, value: object
) -> None:
    """Where a lock file says another method, seed or weight, the bytes differ and nothing stays."""
    made = release(tmp_path, folders, CASES["dare_ties"])
    lock = json.loads((made / LOCK).read_text())
    lock["recipe"][field] = value
    if field == "method":
        del lock["recipe"]["parameters"]["sign"]
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(lock))

    with pytest.raises(NotReproduced) as caught:
        elsewhere.rebuild(changed, tmp_path / "out")

    assert "merge_report.json" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_wrong(
    tmp_path: Path, elsewhere: Registry, folders: dict[str, Path]
) -> None:
    """A lock file whose recipe no merge could have is broken, and says what of it."""
    made = release(tmp_path, folders, CASES["ties"])
    lock = json.loads((made / LOCK).read_text())
    lock["recipe"]["parameters"] = {"density": 2}
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(lock))

    with pytest.raises(LockBroken, match="its recipe is wrong: density: 2 is not over 0"):
        elsewhere.rebuild(changed, tmp_path / "out")


def test_the_order_of_patterns(
    tmp_path: Path, elsewhere: Registry, folders: dict[str, Path]
) -> None:
    """Patterns of which the first counts stand in the lock file in their order."""
    made = release(tmp_path, folders, {"weights": {"v_proj": 0.5, ".*": 2.0}})

    elsewhere.rebuild(made / LOCK, tmp_path / "out")

    assert files(made) == files(tmp_path / "out")


def test_what_the_catalog_keeps(tmp_path: Path, folders: dict[str, Path]) -> None:
    """A model's record has the method, its parameters and all weights, as a recipe reads them."""
    asked = CASES["dare_ties"]
    release(tmp_path, folders, asked)

    record = Registry(tmp_path / "home").show("bot").version

    assert isinstance(record, ModelVersion)
    assert "dare_ties" == record.facts.method
    kept = Recipe.from_dict(record.facts.recipe)
    assert asked["parameters"] == kept.parameters
    assert tuple(EVERYONE.items()) == kept.weights
    assert tuple(OWN.items()) == kept.adapters[0].weights
    assert [("team/one", 0.75), ("team/dora", -0.5)] == [
        (one.name, one.weight) for one in record.inputs
    ]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_whole_checkpoint_has_no_lock(tmp_path: Path, elsewhere: Registry, dry_run: bool) -> None:
    """A model made of a fine-tune is refused by export, in a dry run too."""
    elsewhere.merge(Recipe.from_dict({"adapters": ["x-one"]}), name="tuned")
    asked = {"adapters": ["full:tuned"], "base": "other", "dtype": "float32"}
    elsewhere.merge(Recipe.from_dict(asked), name="bot")

    with pytest.raises(InputRefused, match=r"made of a whole checkpoint \(full:tuned\)"):
        elsewhere.export("bot", tmp_path / "out", licence="mit", dry_run=dry_run)

    assert not (tmp_path / "out").exists()
