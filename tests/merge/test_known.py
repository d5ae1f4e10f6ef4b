"""Merging the same again: found where it is kept, made anew when anything changed."""

from __future__ import annotations

from pathlib import Path

import factory
import torch

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


def test_the_same_merge_is_found_and_a_changed_base_is_not(tmp_path: Path, home: Path) -> None:
    """Without an output folder a merge is made once; other weights in the base make another."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    registry = Registry(home)
    recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(base))

    first = registry.merge(recipe, name="bot")
    again = registry.merge(recipe, name="bot")

    assert (first.new, again.new) == (True, False)
    assert (again.key, again.folder) == (first.key, first.folder)

    def other(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] += 1

    factory.edit_tensors(base, other, "model.safetensors")
    changed = registry.merge(recipe, name="bot")

    assert changed.new
    assert changed.folder != first.folder
    assert str(changed.key) == "bot@2"


def test_the_same_bytes_elsewhere_are_the_same_model(tmp_path: Path, home: Path) -> None:
    """The same merge into another folder writes the same files, and makes no second version."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    registry = Registry(home)
    recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(base))

    first = registry.merge(recipe, output=tmp_path / "one", name="bot")
    second = registry.merge(recipe, output=tmp_path / "two", name="bot")

    assert second.key == first.key
    assert not second.new
    assert second.files == first.files
    assert registry.verify("bot").faults == ()


def test_an_adapters_tokenizer_counts(tmp_path: Path, home: Path) -> None:
    """The tokenizer and template that an adapter brings win, unless the base's are asked for."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    tokenizer = factory.make_tokenizer()
    tokenizer.chat_template = "the adapter's own"
    tokenizer.save_pretrained(adapter)
    registry = Registry(home)
    parts = (RecipeAdapter(str(adapter)),)

    registry.merge(Recipe(parts, base=str(base)), output=tmp_path / "auto")
    registry.merge(Recipe(parts, base=str(base), tokenizer="base"), output=tmp_path / "base-own")

    template = "chat_template.jinja"
    assert (tmp_path / "auto" / template).read_text() == "the adapter's own"
    assert (tmp_path / "base-own" / template).read_bytes() == (base / template).read_bytes()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "auto" / name).is_file()
