"""Combining adapters of the catalog: what is recorded, written, and taken back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from workshop import Workshop, make_workshop

from adreg.registry import Registry
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.errors import AdapterNotMade, AlreadyExists, BaseRefused, OutputRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.ops.combine import Combination
from adreg.registry.ops.made_adapters import Wanted

BOTH = ("team/one=0.5", "team/two")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return folders that no test changes."""
    return make_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def registry(home: Path, shop: Workshop) -> Registry:
    """Return a registry with the base ``tiny`` and the adapters ``team/one`` and ``team/two``."""
    registry = Registry(home)
    registry.add_base(str(shop.base), name="tiny")
    registry.add(shop.one, name="team/one", base="tiny", licence="mit")
    registry.add(shop.two, name="team/two", base="tiny", licence="mit")
    return registry


def files(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_into_the_catalog(registry: Registry, home: Path) -> None:
    """By name it is an adapter like any other, for the inputs' base, and history says how."""
    made = registry.combine(BOTH, Combination(), Wanted(name="team/both"))

    assert "team/both@1" == str(made.key)
    assert made.folder is None
    assert 6 == made.rank == made.rank_min
    assert made.error is not None
    assert made.error < 1e-6
    shown = registry.show("team/both")
    assert shown.version.base is not None
    assert "tiny" == shown.version.base.name
    assert "mit" == shown.version.content.licence
    entry = registry.history("team/both@1").entries[0]
    assert "combine" == entry.action
    assert [("team/one@1", 0.5), ("team/two@1", 1.0)] == [
        (one["ref"], one["weight"]) for one in entry.detail["adapters"]
    ]
    assert [] == list((home / "made").iterdir())


def test_merged_it_is_what_the_adapters_are(registry: Registry, tmp_path: Path) -> None:
    """Merging the exact combination writes the very tensors that merging the adapters writes."""
    registry.combine(BOTH, Combination(), Wanted(name="team/both"))
    parts = (RecipeAdapter("team/one", 0.5), RecipeAdapter("team/two"))
    registry.merge(Recipe(parts, base="tiny"), output=tmp_path / "apart")
    registry.merge(Recipe((RecipeAdapter("team/both"),), base="tiny"), output=tmp_path / "as-one")

    apart, as_one = files(tmp_path / "apart"), files(tmp_path / "as-one")

    weights = {name for name in apart if name.endswith(".safetensors")}
    assert weights
    same = sum(a == b for w in weights for a, b in zip(apart[w], as_one[w], strict=True))
    assert same / sum(len(apart[w]) for w in weights) > 0.999  # float32 sums in another order


def test_into_a_folder_with_its_recipe(registry: Registry, tmp_path: Path) -> None:
    """A folder holds weights, configuration and a card with the recipe; again, the same."""
    how = Combination("peft_dare_ties_svd", rank=2, density=0.5, seed=7, dtype="bfloat16")
    one, two = tmp_path / "one", tmp_path / "two"

    made = registry.combine(BOTH, how, Wanted(one))
    registry.combine(BOTH, how, Wanted(two))

    assert files(one) == files(two)
    assert {file.name for file in made.files} == set(files(one))
    card = (one / "README.md").read_text()
    recipe = json.loads(card.partition("```json")[2].partition("```")[0])
    assert "license: mit" in card
    assert ("combine", 7, "total") == (recipe["action"], recipe["seed"], recipe["majority"])
    assert str(tmp_path) not in card
    spec = read_adapter(one)
    assert ("BF16", 2) == (spec.dtype, spec.lora.rank)
    assert not any(row.key.name == "one" for row in registry.list().rows)


def test_a_folder_and_a_name(registry: Registry, tmp_path: Path) -> None:
    """With both, the folder is what the catalog took in."""
    made = registry.combine(BOTH, Combination(), Wanted(tmp_path / "out", "team/both"))

    assert made.key is not None
    assert made.folder == tmp_path / "out"
    assert made.files == registry.show("team/both").version.content.files


def test_a_known_name_gets_a_version(registry: Registry) -> None:
    """The name of an adapter that exists gets the next version."""
    made = registry.combine(BOTH, Combination(), Wanted(name="team/one"))

    assert "team/one@2" == str(made.key)


def test_folders_and_their_tokenizer(tmp_path: Path, shop: Workshop, home: Path) -> None:
    """Adapters in folders need no catalog; a tokenizer that all agree on comes along."""
    for name, template in (("a", "x"), ("b", "x")):
        folder = tmp_path / name
        folder.mkdir()
        source = shop.one if name == "a" else shop.two
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "chat_template.jinja").write_text(template)
        (folder / "added_tokens.json").write_text(f'{{"{name}": 1}}')

    made = Registry(home).combine(
        (str(tmp_path / "a"), str(tmp_path / "b")), Combination(), Wanted(tmp_path / "out")
    )

    assert "x" == (tmp_path / "out" / "chat_template.jinja").read_text()
    assert not (tmp_path / "out" / "added_tokens.json").exists()
    assert any("added_tokens.json is left out" in remark for remark in made.remarks)


def test_a_dry_run_writes_nothing(registry: Registry, home: Path, tmp_path: Path) -> None:
    """A dry run tells ranks and errors, and touches neither the folder nor the registry."""
    before = files(home)

    made = registry.combine(
        BOTH, Combination("svd", energy=0.9), Wanted(tmp_path / "out", "team/both", dry_run=True)
    )

    assert made.dry_run
    assert made.error is not None
    assert 0 < made.error < 0.32  # at most sqrt(1 - 0.9)
    assert 6 == len(made.modules)
    assert before == files(home)
    assert not (tmp_path / "out").exists()


def test_what_is_refused_leaves_nothing(registry: Registry, home: Path, tmp_path: Path) -> None:
    """Wrong uses raise their error before anything is written."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    registry.merge(Recipe((RecipeAdapter("team/one"),), base="tiny"), name="bot")
    before = {path for path in home.rglob("*") if path.is_file()}

    with pytest.raises(AdapterNotMade, match="team/one@1 is named twice"):
        registry.combine(("team/one", "team/one@1"), Combination(), Wanted(tmp_path / "out"))
    with pytest.raises(AdapterNotMade, match="it was not said where it goes"):
        registry.combine(BOTH, Combination(), Wanted())
    with pytest.raises(AdapterNotMade, match="the density 2 is not"):
        registry.combine(BOTH, Combination("factors_ties", density=2), Wanted(tmp_path / "out"))
    with pytest.raises(AlreadyExists, match="the model 'bot' exists already"):
        registry.combine(BOTH, Combination(), Wanted(name="bot"))
    with pytest.raises(OutputRefused):
        registry.combine(BOTH, Combination(), Wanted(tmp_path / "taken"))

    assert before == {path for path in home.rglob("*") if path.is_file()}
    assert ["taken"] == [path.name for path in tmp_path.iterdir() if path != home]


def test_a_folder_that_is_not_recorded_goes(home: Path, shop: Workshop, tmp_path: Path) -> None:
    """When the catalog does not take the adapter in, its folder is taken back."""
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(shop.base, base)
    registry = Registry(home)
    registry.add_base(str(base), name="tiny")
    registry.add(shop.one, name="one", base="tiny")
    (base / "config.json").unlink()

    with pytest.raises(BaseRefused):
        registry.combine(("one=0.5",), Combination(), Wanted(out, "half"))

    assert {base, home} == set(tmp_path.iterdir())
    assert ["one"] == [row.key.name for row in registry.list().rows]
