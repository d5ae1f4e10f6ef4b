"""Merging onto bases whose weights are quantised, and decoded on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factory
import pytest
import quantising
import torch
from safetensors.torch import load_file, save_file

from adreg.registry import Registry
from adreg.registry.errors import BaseRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.release.lock import LOCK

NAMES = [
    "LLM.int8",
    "bitsandbytes 4-bit",
    "bitsandbytes 4-bit, nested",
    "FP8, blocks",
    "FP8, rows",
    "MXFP8",
    "int8 with zeros",
    "packed 4-bit",
    "GPTQ 4-bit, ordered",
    "AWQ",
]
"""One of each family; the decoders' own tests have them all."""

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base of 16 bits, and an adapter for it."""
    root = tmp_path_factory.mktemp("plain")
    base = factory.make_base(root / "base")
    return base, factory.make_adapter(base, root / "adapter")


def quantised(plain: tuple[Path, Path], folder: Path, name: str) -> tuple[Path, Path]:
    """Return the base quantised, and beside it the same decoded into 16 bits by the formula."""
    base = Path(shutil.copytree(plain[0], folder / "quantised"))
    weights = quantising.quantise(base, name)
    decoded = Path(shutil.copytree(plain[0], folder / "decoded"))
    tensors = load_file(decoded / "model.safetensors")
    for weight, values in weights.items():
        tensors[weight] = torch.from_numpy(values).float().to(torch.bfloat16).contiguous()
    save_file(tensors, decoded / "model.safetensors", metadata={"format": "pt"})
    return base, decoded


def merge(
    registry: Registry, base: str, adapter: str, output: Path, **more: object
) -> tuple[Tensors, dict[str, object]]:
    """Merge; return the tensors and the configuration."""
    asked = {"base": base, "adapters": [adapter], **more}
    registry.merge(Recipe.from_dict(asked), output=output, name="mix")
    config = json.loads((output / "config.json").read_text())
    return load_file(output / "model.safetensors"), config


@pytest.mark.parametrize("name", NAMES)
def test_as_onto_the_decoded_base(
    tmp_path: Path, home: Path, plain: tuple[Path, Path], name: str
) -> None:
    """The outcome is that of the base decoded first, and the configuration says 16 bits."""
    base, decoded = quantised(plain, tmp_path, name)
    registry, adapter = Registry(home), str(plain[1])

    ours, config = merge(registry, str(base), adapter, tmp_path / "out", dequantize=True)

    expected, wanted = merge(registry, str(decoded), adapter, tmp_path / "expected")
    assert sorted(expected) == sorted(ours)
    for tensor, values in expected.items():
        assert torch.equal(values, ours[tensor]), tensor
    assert "quantization_config" not in config
    assert wanted == config
    untouched = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(load_file(decoded / "model.safetensors")[untouched], ours[untouched])


def test_the_model_answers(tmp_path: Path, home: Path, plain: tuple[Path, Path]) -> None:
    """Transformers loads the outcome as a plain model; it answers as PEFT on the decoded base."""
    base, decoded = quantised(plain, tmp_path, "GPTQ 4-bit")
    merge(
        Registry(home),
        str(base),
        str(plain[1]),
        tmp_path / "out",
        dequantize=True,
        dtype="float32",
    )
    model = factory.load_base(tmp_path / "out")
    peft = factory.load_adapter(decoded, plain[1], dtype=torch.float32)
    batch = factory.example_inputs("llama")

    with torch.no_grad():
        ours, theirs = model(**batch).logits, peft(**batch).logits

    assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def test_without_the_flag(tmp_path: Path, home: Path, plain: tuple[Path, Path]) -> None:
    """A quantised base is refused by the name of its scheme, and the flag is named."""
    base, _ = quantised(plain, tmp_path, "GPTQ 4-bit")

    with pytest.raises(BaseRefused) as caught:
        merge(Registry(home), str(base), str(plain[1]), tmp_path / "out")

    assert "its weights are quantised (GPTQ)" in str(caught.value)
    assert "--dequantize" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_recorded_base(tmp_path: Path, home: Path, plain: tuple[Path, Path]) -> None:
    """A base that was recorded decoded is decoded by its name, without the flag again."""
    base, decoded = quantised(plain, tmp_path, "AWQ")
    registry = Registry(home)
    with pytest.raises(BaseRefused):
        registry.add_base(str(base), name="tiny")
    record = registry.add_base(str(base), name="tiny", dequantize=True).record
    registry.add(plain[1], name="one", base="tiny")

    ours, config = merge(registry, "", "one", tmp_path / "out")

    expected, wanted = merge(registry, str(decoded), "one", tmp_path / "expected")
    assert "BF16" == record.facts.dtype
    assert wanted == config
    assert all(torch.equal(expected[name], ours[name]) for name in expected)


@pytest.mark.parametrize("flag", [False, True])
def test_a_plain_base(tmp_path: Path, home: Path, plain: tuple[Path, Path], flag: bool) -> None:
    """The flag changes nothing for a base of 16 bits, not even which model it is."""
    base, adapter = (str(part) for part in plain)
    registry = Registry(home)
    registry.merge(Recipe((RecipeAdapter(adapter),), base), name="one")

    again = registry.merge(Recipe((RecipeAdapter(adapter),), base, dequantize=flag), name="two")

    assert not again.new
    assert again.key is not None
    assert "one@1" == str(again.key)
    del tmp_path


def test_every_weight_a_method(tmp_path: Path, home: Path, plain: tuple[Path, Path]) -> None:
    """Methods that look at W several times see the decoded one."""
    base, decoded = quantised(plain, tmp_path, "FP8, blocks")
    registry, adapter = Registry(home), str(plain[1])
    more: dict[str, object] = {"method": "slerp", "parameters": {"t": 0.25}}

    ours, _ = merge(registry, str(base), adapter, tmp_path / "out", dequantize=True, **more)

    expected, _ = merge(registry, str(decoded), adapter, tmp_path / "expected", **more)
    assert all(torch.equal(expected[name], ours[name]) for name in expected)


def test_shards_keep_the_size(tmp_path: Path, home: Path, plain: tuple[Path, Path]) -> None:
    """Shards are cut by the bytes that are written, not by those that were read."""
    base, _ = quantised(plain, tmp_path, "packed 4-bit")
    inputs = (RecipeAdapter(str(plain[1])),)
    recipe = Recipe(inputs, str(base), max_shard_size=20_000, dequantize=True)

    Registry(home).merge(recipe, output=tmp_path / "out")

    shards = [load_file(path) for path in (tmp_path / "out").glob("model-*")]
    sizes = [sum(t.numel() * t.element_size() for t in shard.values()) for shard in shards]
    assert len(sizes) == 3
    assert max(sizes) <= 20_000
    before = load_file(plain[0] / "model.safetensors")
    assert sum(t.numel() * t.element_size() for t in before.values()) == sum(sizes)


def test_rebuilt_from_a_lock(tmp_path: Path, home: Path, plain: tuple[Path, Path]) -> None:
    """A release made on a quantised base comes out again, byte for byte, elsewhere too."""
    base, _ = quantised(plain, tmp_path, "FP8, rows")
    registry = Registry(home)
    registry.add_base(str(base), name="tiny", licence="mit", dequantize=True)
    registry.add(plain[1], name="one", base="tiny", licence="mit")
    registry.merge(Recipe((RecipeAdapter("one"),), "tiny"), name="bot")
    registry.export("bot", tmp_path / "release")
    other = Registry(tmp_path / "other")
    other.add(plain[1], name="uno")

    other.rebuild(tmp_path / "release" / LOCK, tmp_path / "out", base=str(base))

    there, here = (
        {path.name: path.read_bytes() for path in (tmp_path / out).iterdir()}
        for out in ("release", "out")
    )
    assert there == here
    assert json.loads((tmp_path / "release" / LOCK).read_text())["recipe"]["dequantize"]
