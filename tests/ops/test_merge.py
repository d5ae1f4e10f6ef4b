"""Merging with the registry around it: which base, under which name, recorded as what."""

from __future__ import annotations

import shutil
from pathlib import Path

import factory
import pytest
import torch
from workshop import Workshop, make_workshop

from adreg.registry import Registry
from adreg.registry.errors import (
    AdregError,
    AlreadyExists,
    Incompatible,
    MergeRefused,
    NotFound,
    OutputRefused,
)
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return folders that no test changes."""
    return make_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def registry(home: Path, shop: Workshop) -> Registry:
    """Return a registry with the base ``tiny`` and the adapters ``team/one`` and ``team/two``."""
    registry = Registry(home)
    registry.add_base(str(shop.base), name="tiny")
    registry.add(shop.one, name="team/one", base="tiny")
    registry.add(shop.two, name="team/two", base="tiny")
    return registry


def recipe(*references: str, base: str = "") -> Recipe:
    """Return a recipe of references."""
    return Recipe.from_dict({"base": base, "adapters": list(references)})


def seen(root: Path) -> dict[Path, int]:
    """Return when each file and folder below ``root`` was written."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_all_that_is_recorded(registry: Registry, home: Path) -> None:
    """A model has its inputs with their weights, its base, its recipe and its files."""
    done = registry.merge(recipe("team/one=0.5", "team/two"))
    shown = registry.show(str(done.key))

    assert "team/one-merged@1" == str(done.key)
    assert home / "models" == done.folder.parent
    assert (("team/one@1", 0.5), ("team/two@1", 1.0)) == done.adapters
    assert done.files == shown.version.content.files
    assert done.totals is not None
    assert 0 < done.totals.changed <= done.totals.elements
    assert "merge" == registry.history(str(done.key)).entries[0].action
    assert registry.verify(str(done.key)).faults == ()


def test_the_base_of_the_adapters(registry: Registry, shop: Workshop) -> None:
    """Without a base it is the one recorded for the adapters, else the one that they name."""
    assert "tiny" == registry.merge(recipe("team/one"), dry_run=True).base
    assert "tiny" == registry.merge(recipe(str(shop.one)), dry_run=True).base


def test_several_bases(registry: Registry, tmp_path: Path, home: Path) -> None:
    """Adapters that are recorded for several bases need --base, and are named no base at all."""
    other = factory.make_base(tmp_path / "gpt2", "gpt2")
    registry.add_base(str(other), name="gpt")
    registry.add(factory.make_adapter(other, tmp_path / "three"), name="three", base="gpt")
    before = seen(home)

    with pytest.raises(MergeRefused, match="several bases: gpt, tiny") as raised:
        registry.merge(recipe("team/one", "three"))

    assert "--base" in raised.value.hint
    with pytest.raises(Incompatible, match="three@1 does not fit"):
        registry.merge(recipe("team/one", "three", base="tiny"))
    assert before == seen(home)


def test_no_base(home: Path, shop: Workshop, tmp_path: Path) -> None:
    """A base that is unknown, or none at all, is NotFound with the way to give one."""
    registry = Registry(home)
    nameless = tmp_path / "nameless"
    shutil.copytree(shop.one, nameless)
    factory.edit_config(nameless, base_model_name_or_path=None)
    for asked in (recipe(str(nameless)), recipe(str(nameless), base="nobody")):
        with pytest.raises(NotFound) as raised:
            registry.merge(asked)

        assert raised.value.hint
    factory.edit_config(nameless, base_model_name_or_path="/gone/with/the/machine")
    with pytest.raises(AdregError):
        registry.merge(recipe(str(nameless)))
    assert [] == list((home / "models").rglob("*"))


def test_bases_that_nobody_named(home: Path, tmp_path: Path) -> None:
    """Bases in folders of one name, and one that changed in its folder, each get a name."""
    registry = Registry(home)
    for kind in ("llama", "gpt2"):
        base = factory.make_base(tmp_path / kind / "final", kind)
        adapter = factory.make_adapter(base, tmp_path / f"adapter-{kind}")
        registry.merge(recipe(str(adapter), base=str(base)))

    def widen(tensors: dict[str, torch.Tensor]) -> None:
        tensors["more"] = torch.zeros(3)

    base = tmp_path / "gpt2" / "final"
    factory.edit_tensors(base, widen, "model.safetensors")
    registry.merge(recipe(str(tmp_path / "adapter-gpt2"), base=str(base)))

    assert ["final", "final-2", "final-3"] == [record.name for record in registry.bases()]


def test_names_that_are_taken(registry: Registry, home: Path) -> None:
    """An adapter's name cannot be a model's; a model's name gets its next version."""
    before = seen(home)
    with pytest.raises(AlreadyExists, match="team/one"):
        registry.merge(recipe("team/one"), name="team/one")
    with pytest.raises(NotFound, match="'nobody'"):
        registry.merge(recipe("nobody"))
    assert before == seen(home)

    first = registry.merge(recipe("team/one"), name="bot")
    second = registry.merge(recipe("team/two"), name="bot")

    assert ["bot@1", "bot@2"] == [str(first.key), str(second.key)]
    with pytest.raises(NotFound, match="adapter 'bot'"):
        registry.merge(recipe("bot"))


def test_a_removed_model_can_be_made_again(registry: Registry) -> None:
    """The folder that stays when a model is removed does not stand in its own way."""
    first = registry.merge(recipe("team/one"), name="bot")
    registry.remove("bot")
    assert first.folder.is_dir()

    again = registry.merge(recipe("team/one"), name="bot")

    assert again.new
    assert first.files == again.files
    assert registry.verify("bot").faults == ()


def test_a_model_that_was_also_made_elsewhere(registry: Registry, tmp_path: Path) -> None:
    """A merge that was made in the registry and then elsewhere is found or made again in both."""
    first = registry.merge(recipe("team/one"), name="bot")
    registry.merge(recipe("team/one"), name="bot", output=tmp_path / "out")

    again = registry.merge(recipe("team/one"), name="bot")

    assert not again.new
    assert first.key == again.key
    assert first.folder == again.folder
    assert registry.verify("bot").faults == ()


def test_a_model_whose_folder_is_damaged(registry: Registry) -> None:
    """A model in the registry that lost a file is made again, whole."""
    first = registry.merge(recipe("team/one"), name="bot")
    (first.folder / "config.json").unlink()

    again = registry.merge(recipe("team/one"), name="bot")

    assert first.key == again.key
    assert (first.folder / "config.json").is_file()
    assert registry.verify("bot").faults == ()


def test_a_model_that_was_moved_away(registry: Registry, tmp_path: Path) -> None:
    """A model whose folder is gone is made again, as the same version."""
    first = registry.merge(recipe("team/one"), name="bot", output=tmp_path / "out")
    shutil.rmtree(tmp_path / "out")

    again = registry.merge(recipe("team/one"), name="bot", output=tmp_path / "new")

    assert first.key == again.key
    assert registry.verify("bot").faults == ()


def test_folders_in_the_registry_that_are_not_ours(registry: Registry, home: Path) -> None:
    """An output folder that was named and is full is refused, in the registry too."""
    place = home / "models" / "mine"
    place.mkdir(parents=True)
    (place / "x").touch()

    with pytest.raises(OutputRefused):
        registry.merge(recipe("team/one"), output=place)

    assert ["x"] == [path.name for path in place.iterdir()]


def test_a_fit_by_shapes_is_remarked(registry: Registry, shop: Workshop, tmp_path: Path) -> None:
    """A base that fits by its shapes only is used, and the reason is told."""
    other = factory.make_base(tmp_path / "other", seed=9)
    registry.add_base(str(other), name="other")

    done = registry.merge(recipe(str(shop.one), base="other"), dry_run=True)

    assert any("fits other by its shapes only" in remark for remark in done.remarks)


def test_templates_and_tokenizers(registry: Registry, shop: Workshop, tmp_path: Path) -> None:
    """Tokenizers that differ leave the base's in auto, and are refused when they are asked for."""
    folders = []
    for number in (1, 2):
        folder = tmp_path / f"adapter-{number}"
        shutil.copytree(shop.one, folder)
        factory.edit_config(folder, inference_mode=number == 1)
        (folder / "chat_template.jinja").write_text(f"template {number}")
        folders.append(str(folder))
    one, both = (RecipeAdapter(folders[0]),), tuple(RecipeAdapter(one) for one in folders)
    base = str(shop.base)

    registry.merge(Recipe(one, base, tokenizer="adapter"), output=tmp_path / "out1")
    registry.merge(Recipe(both, base), output=tmp_path / "out2")

    name = "chat_template.jinja"
    assert "template 1" == (tmp_path / "out1" / name).read_text()
    assert (shop.base / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    with pytest.raises(MergeRefused, match="tokenizers differ"):
        registry.merge(Recipe(both, base, tokenizer="adapter"), output=tmp_path / "out3")
    with pytest.raises(MergeRefused, match="no adapter brings a tokenizer"):
        registry.merge(
            Recipe((RecipeAdapter("team/one"),), base, tokenizer="adapter"),
            output=tmp_path / "out3",
        )


def test_weights_change_the_result(registry: Registry) -> None:
    """Other weights are another model; in a reference they count as in a recipe."""
    one = registry.merge(recipe("team/one=0.5"), name="bot")
    same = registry.merge(Recipe((RecipeAdapter("team/one", 0.5),)), name="bot")
    other = registry.merge(recipe("team/one=-0.5"), name="bot")

    assert one.key == same.key
    assert "bot@2" == str(other.key)
