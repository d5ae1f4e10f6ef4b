"""Merges that would be wrong: refused with their reason, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
import torch

from adreg.registry import Registry
from adreg.registry.errors import AdregError
from adreg.registry.merge.recipe import Recipe, read_recipe


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that no test changes."""
    return factory.make_base(tmp_path_factory.mktemp("refusals") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    """An adapter for it that no test changes."""
    return factory.make_adapter(base, base.parent / "adapter")


def tree(root: Path) -> dict[str, int]:
    """Return every file and folder below ``root`` with its size."""
    return {str(path.relative_to(root)): path.stat().st_size for path in sorted(root.rglob("*"))}


def no_layer(tensors: dict[str, torch.Tensor]) -> None:
    """Target a layer that the base does not have."""
    for key in [key for key in tensors if ".layers.1." in key]:
        tensors[key.replace(".layers.1.", ".layers.9.")] = tensors.pop(key)


def wide(tensors: dict[str, torch.Tensor]) -> None:
    """Make factors for a wider base."""
    for key in [key for key in tensors if "lora_A" in key]:
        tensors[key] = torch.ones(4, 48)


def zero(tensors: dict[str, torch.Tensor]) -> None:
    """Make an adapter that was never trained."""
    for key in [key for key in tensors if "lora_B" in key]:
        tensors[key] = torch.zeros_like(tensors[key])


BROKEN: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], str, str]] = {
    "a layer that the base lacks": (no_layer, "Incompatible", "the base has no tensor"),
    "another base": (wide, "Incompatible", "makes a delta of"),
    "a delta of zero": (zero, "MergeRefused", "every element equals the base's"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_adapter_that_would_do_harm_or_nothing(
    tmp_path: Path, home: Path, base: Path, case: str
) -> None:
    """The error names what does not fit; no folder appears, and no model is recorded."""
    edit, kind, words = BROKEN[case]
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    factory.edit_tensors(adapter, edit)
    before = tree(tmp_path)

    with pytest.raises(AdregError, match=words) as raised:
        merge(home, base, [str(adapter)], output=tmp_path / "out")

    assert type(raised.value).__name__ == kind
    assert raised.value.hint
    assert {name: size for name, size in tree(tmp_path).items() if "home" not in name} == {
        name: size for name, size in before.items() if "home" not in name
    }
    assert Registry(home).list().total == 0


def merge(home: Path, base: Path, adapters: list[str], **more: Any) -> object:
    """Merge as the command line would."""
    output = more.pop("output")
    recipe = Recipe.from_dict({"base": str(base), "adapters": adapters, **more})
    return Registry(home).merge(recipe, output=output, name="merged")


def test_what_is_asked_twice_or_for_nothing(
    tmp_path: Path, home: Path, base: Path, adapter: Path
) -> None:
    """An adapter named twice, or with the weight 0, is refused."""
    with pytest.raises(AdregError, match="is named twice"):
        merge(home, base, [str(adapter), str(adapter)], output=tmp_path / "out")
    with pytest.raises(AdregError, match="has the weight 0"):
        merge(home, base, [f"{adapter}=0"], output=tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_places_that_must_not_be_written_to(
    tmp_path: Path, home: Path, base: Path, adapter: Path
) -> None:
    """A folder with something in it, a file, the base, and places inside inputs are refused."""
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "kept").write_text("kept")
    file.write_text("kept")
    before = tree(base), tree(adapter)

    for place, words in {
        full: "the folder is not empty",
        file: "a file is there",
        base: "it is the base, or inside it",
        base / "merged": "it is the base, or inside it",
        adapter / "merged": "it is an input, or inside it",
    }.items():
        with pytest.raises(AdregError, match=words):
            merge(home, base, [str(adapter)], output=place)

    assert (full / "kept").read_text() == file.read_text() == "kept"
    assert (tree(base), tree(adapter)) == before


def test_values_that_are_not_finite(tmp_path: Path, home: Path, adapter: Path) -> None:
    """A touched tensor with a NaN, and a sum too large for float16, are refused by name."""
    broken = factory.make_base(tmp_path / "base")
    name = "model.layers.0.self_attn.q_proj.weight"

    def nan(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][3, 3] = float("nan")

    factory.edit_tensors(broken, nan, "model.safetensors")
    with pytest.raises(AdregError, match=f"{name}.*not finite"):
        merge(home, broken, [str(adapter)], output=tmp_path / "out")

    large = factory.make_base(tmp_path / "large", dtype=torch.float32)
    with pytest.raises(AdregError, match="not finite in F16"):
        merge(home, large, [f"{adapter}=1e7"], output=tmp_path / "out", dtype="float16")

    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


RECIPES: dict[str, str] = {
    "adapters: [a]\nspeed: 9\n": "the field 'speed' is not known",
    "base: b\n": "'adapters' is not a list",
    "adapters: [a]\nmethod: magic\n": "'method' is 'magic' and not one of linear",
    "adapters: [a]\nmax_shard_size: 5 furlongs\n": "is not a size such as 5GB",
    "adapters: [{ref: a, weight: heavy}]\n": "the weight 'heavy' is not a finite number",
    "adapters: [{ref: a, wait: 1}]\n": "the field 'wait' of an adapter is not known",
    "adapters:\n- a\n- ref: b\n  weight: heavy\n": "line 4: the weight 'heavy'",
    "base: b\nadapters: [a]\nbase: c\n": "line 3: the field 'base' stands twice",
    "adapters: [a]\nmethod: ties\nparameters:\n  density: 2\n": "line 4: density: 2 is not over 0",
    "adapters: [a]\nmethod: ties\n": "density: ties needs one",
    "adapters: [a]\nparameters: {t: 1}\n": "line 2: t: linear takes",
    "adapters: [a]\nmethod: nuslerp\n": "line 1: adapters: nuslerp combines 2, not 1",
    "adapters: [a]\nweights:\n  '(': 1\n": "line 3: the pattern '\\(' is no regular expression",
    "adapters: [a]\nbase: [\n": "line 3: it is not valid YAML",
    "- a\n": "it is not a map of fields",
}


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_with_a_mistake(tmp_path: Path, text: str) -> None:
    """The error names the file, and the field or line of the mistake."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    with pytest.raises(AdregError, match=RECIPES[text]) as raised:
        read_recipe(path)

    assert str(path) in str(raised.value)


def test_a_dry_run_writes_nothing(tmp_path: Path, home: Path, base: Path, adapter: Path) -> None:
    """A dry run tells each tensor and the bytes that a real run writes, and leaves no trace."""
    recipe = Recipe.from_dict({"base": str(base), "adapters": [str(adapter)]})
    registry = Registry(home)

    before = tree(tmp_path)

    planned = registry.merge(recipe, output=tmp_path / "out", dry_run=True)
    after = tree(tmp_path)
    done = registry.merge(recipe, output=tmp_path / "out")

    assert after == before
    assert [t.action for t in planned.tensors].count("merge") == 6
    weights = sum(file.size for file in done.files if file.name.endswith(".safetensors"))
    sides = {f.name: f.size for f in done.files if f.name.startswith(("tokenizer", "chat", "gen"))}
    assert planned.bytes == weights + sum(sides.values())
    assert done.key is not None
    assert registry.show(str(done.key)).version.content.files == done.files
