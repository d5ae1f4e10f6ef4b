"""Adapters that repeat layers: the merged model is deeper, and each copy has its own delta."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import AdapterRefused, MergeRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

RANGES = [[0, 2], [1, 2], [0, 1]]
ORDER = [0, 1, 1, 0]


def merge(home: Path, base: Path, *adapters: Path, output: Path, **options: Any) -> None:
    """Merge adapters that lie in folders."""
    given = tuple(RecipeAdapter(str(one)) for one in adapters)
    Registry(home).merge(Recipe(given, base=str(base), **options), output=output)


def logits(model: Any) -> torch.Tensor:
    """Return the answers to a seeded batch."""
    with torch.no_grad():
        answers: torch.Tensor = model(**factory.example_inputs("llama"), use_cache=False)[0]
    return answers


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, DoRA": ("llama", {"use_dora": True}),
    "tied, with head": ("llama-tied", {"target_modules": ["lm_head", "v_proj"]}),
    "qwen2": ("qwen2", {}),
    "bert": ("bert", {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_deeper_model_answers_as_peft_unmerged(tmp_path: Path, home: Path, case: str) -> None:
    """Each repeated layer gives what PEFT's copy gives, whose factors are its own."""
    kind, config = CASES[case]
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    factory.make_base(base, kind, dtype=torch.float32)
    factory.make_adapter(base, adapter, layer_replication=RANGES, **config)

    merge(home, base, adapter, output=out)

    model = factory.load_base(out)
    theirs = factory.load_adapter(base, adapter)
    if kind == "qwen2":  # PEFT 0.21 leaves the kinds of layers at the old depth
        config_of: Any = theirs.get_base_model().config
        config_of.layer_types = ["full_attention"] * len(ORDER)
    inputs = factory.example_inputs(kind)
    with torch.no_grad():
        ours, exact = model(**inputs).logits, theirs(**inputs).logits
    assert model.config.num_hidden_layers == len(ORDER)
    assert torch.allclose(ours, exact, rtol=1e-4, atol=1e-5)


def test_copies_are_the_bits_of_what_they_repeat(tmp_path: Path, home: Path) -> None:
    """Untouched tensors of a copy are the base's; touched ones differ from copy to copy."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    factory.make_base(base, "llama", shard_size=20_000)
    factory.make_adapter(base, adapter, layer_replication=RANGES, target_modules=["q_proj"])

    merge(home, base, adapter, output=tmp_path / "out")

    before = {k: v for file in base.glob("*.safetensors") for k, v in load_file(file).items()}
    after = {
        k: v
        for file in (tmp_path / "out").glob("*.safetensors")
        for k, v in load_file(file).items()
    }
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert index["weight_map"].keys() == after.keys()
    assert len(after) == len(before) + 2 * 9
    for number, old in enumerate(ORDER):
        start = f"model.layers.{number}."
        names = [name for name in after if name.startswith(start)]
        assert len(names) == 9
        for name in names:
            source = before[f"model.layers.{old}.{name.removeprefix(start)}"]
            if "q_proj" not in name:
                assert torch.equal(after[name], source), name
                continue
            key = f"base_model.model.{name.removesuffix('.weight')}"
            b, a = (tensors[f"{key}.lora_{side}.weight"].double() for side in "BA")
            exact = (source.double() + 2 * b @ a).to(torch.bfloat16)
            assert (after[name] != exact).double().mean() < 1e-2


def test_kinds_of_layers_are_repeated_with_them(tmp_path: Path, home: Path) -> None:
    """layer_types has the kind of the layer that each copy repeats."""
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    config = transformers.Gemma3TextConfig(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        layer_types=["sliding_attention", "full_attention"],
    )
    transformers.Gemma3ForCausalLM(config).save_pretrained(base)
    adapter.mkdir()
    # Copied layers and the model's loop over layer_types: written by hand, as PEFT would.
    model = transformers.Gemma3ForCausalLM(config)
    wrapped = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj"], layer_replication=[(0, 2), (0, 1)])
    )
    factory.fill_adapter(wrapped, 3)
    wrapped.save_pretrained(str(adapter))

    merge(home, base, adapter, output=out)

    merged = json.loads((out / "config.json").read_text())
    assert merged["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention"]
    assert merged["num_hidden_layers"] == 3


def test_models_of_several_depths_are_not_summed(tmp_path: Path, home: Path) -> None:
    """An adapter of the base and one of a deeper model are refused together."""
    base = factory.make_base(tmp_path / "base")
    deep = factory.make_adapter(base, tmp_path / "deep", layer_replication=RANGES)
    flat = factory.make_adapter(base, tmp_path / "flat")

    with pytest.raises(MergeRefused, match="differ in layer_replication"):
        merge(home, base, deep, flat, output=tmp_path / "out")

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "ranges", "words"),
    [
        ("llama", [[0, 3]], r"\[0, 3\] is no range of the base's 2 layers"),
        ("llama", [[1, 1]], r"\[1, 1\] is no range of the base's 2 layers"),
        ("resnet", [[0, 1]], "the base has no lists of layers, not one"),
    ],
)
def test_ranges_that_the_base_does_not_have(
    tmp_path: Path, home: Path, kind: str, ranges: list[list[int]], words: str
) -> None:
    """A range of layers that are not there is refused in words."""
    base = factory.make_base(tmp_path / "base", kind)
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    factory.edit_config(adapter, layer_replication=ranges)

    with pytest.raises(MergeRefused, match=words):
        merge(home, base, adapter, output=tmp_path / "out")


@pytest.mark.parametrize("value", [3, "0-2", [[0]], [[0, True]], [[0, -1]], [[0, "2"]], {}])
def test_ranges_that_are_none(tmp_path: Path, value: object) -> None:
    """What is no list of two numbers each is a fault of the adapter."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    factory.edit_config(adapter, layer_replication=value)

    with pytest.raises(AdapterRefused, match="layer_replication is"):
        Registry(tmp_path / "home").add(adapter, name="one")
