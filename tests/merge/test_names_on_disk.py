"""Bases whose tensors are called, or stored, otherwise than the adapter's modules."""

from __future__ import annotations

import json
from pathlib import Path

import factory
import pytest
import torch
import transformers
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import Incompatible
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.ops.merge import Merged


def merge(home: Path, base: Path, adapter: Path, out: Path) -> Merged:
    """Merge one adapter."""
    recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(base))
    return Registry(home).merge(recipe, output=out, name="merged")


def without(prefix: str, tensors: dict[str, torch.Tensor]) -> None:
    """Drop a prefix from the names that have it."""
    for name in [name for name in tensors if name.startswith(prefix)]:
        tensors[name.removeprefix(prefix)] = tensors.pop(name)


def same_logits(kind: str, out: Path, base: Path, adapter: Path) -> None:
    """Hold that the merged model says what PEFT says, and the base something else."""
    inputs = factory.example_inputs(kind)
    with torch.no_grad():
        ours = factory.load_base(out)(**inputs).logits
        theirs = factory.load_adapter(base, adapter)(**inputs).logits
        before = factory.load_base(base)(**inputs).logits
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert before.shape != theirs.shape or not torch.allclose(before, theirs, rtol=0.01, atol=0.001)


@pytest.mark.parametrize("targets", [["c_attn", "c_proj"], ["wte", "c_attn"], ["lm_head"]])
def test_gpt2_as_it_was_first_published(tmp_path: Path, home: Path, targets: list[str]) -> None:
    """A GPT-2 without ``transformer.`` in its names merges, keeps those names, and loads."""
    base = factory.make_base(tmp_path / "base", "gpt2", dtype=torch.float32)
    adapter = factory.make_adapter(base, tmp_path / "adapter", target_modules=targets)
    factory.edit_tensors(base, lambda t: without("transformer.", t), "model.safetensors")

    merge(home, base, adapter, tmp_path / "out")

    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert names - {"lm_head.weight"} == set(load_file(base / "model.safetensors"))
    same_logits("gpt2", tmp_path / "out", base, adapter)


@pytest.mark.parametrize("said", [True, False])
def test_a_square_conv1d(tmp_path: Path, home: Path, said: bool) -> None:
    """GPT-2's square c_proj is (in, out), whatever fan_in_fan_out says in the configuration."""
    base = factory.make_base(tmp_path / "base", "gpt2", dtype=torch.float32)
    adapter = factory.make_adapter(base, tmp_path / "adapter", target_modules=["attn.c_proj"])
    factory.edit_config(adapter, fan_in_fan_out=said)
    stored = load_file(base / "model.safetensors")["transformer.h.0.attn.c_proj.weight"]

    merge(home, base, adapter, tmp_path / "out")

    assert stored.shape[0] == stored.shape[1]
    same_logits("gpt2", tmp_path / "out", base, adapter)


@pytest.mark.parametrize("said", [True, False])
def test_a_square_linear(tmp_path: Path, home: Path, said: bool) -> None:
    """A square q_proj is (out, in), whatever fan_in_fan_out says in the configuration."""
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    adapter = factory.make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    factory.edit_config(adapter, fan_in_fan_out=said)

    merge(home, base, adapter, tmp_path / "out")

    same_logits("llama", tmp_path / "out", base, adapter)


@pytest.mark.parametrize("headless", ["BertModel", "BertForMaskedLM"])
def test_a_classifier_that_the_base_lacks(tmp_path: Path, home: Path, headless: str) -> None:
    """A head that the adapter brings is added, and the model loads as a classifier that says it."""
    whole = factory.make_base(tmp_path / "whole", "bert", dtype=torch.float32)
    adapter = factory.make_adapter(
        whole,
        tmp_path / "adapter",
        target_modules=["query", "value"],
        modules_to_save=["classifier"],
        task_type="SEQ_CLS",
    )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(whole)
    base = tmp_path / "base"
    if headless == "BertModel":
        model.base_model.save_pretrained(base)
    else:
        # Its pooler is kept, as the published checkpoints keep it.
        masked = transformers.BertForMaskedLM(model.config)
        masked.bert = model.base_model
        masked.save_pretrained(base)
    factory.edit_config(base, "id2label", "label2id", "num_labels")

    merged = merge(home, base, adapter, tmp_path / "out")

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert len(config["id2label"]) == 3
    added = sorted(tensor.name for tensor in merged.tensors if tensor.action == "add")
    assert added == ["classifier.bias", "classifier.weight"]
    loaded, told = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not told["missing_keys"]
    loaded.train(mode=False)
    inputs = factory.example_inputs("bert")
    with torch.no_grad():
        theirs = factory.load_adapter(whole, adapter)(**inputs).logits
        assert torch.allclose(loaded(**inputs).logits, theirs, rtol=1e-4, atol=1e-5)


def test_a_score_on_a_generator(tmp_path: Path, home: Path) -> None:
    """A reward adapter on a Llama makes a LlamaForSequenceClassification with its score."""
    base = factory.make_base(tmp_path / "base", "llama-tied", dtype=torch.float32)
    model = transformers.LlamaForSequenceClassification.from_pretrained(
        base, num_labels=1, pad_token_id=3
    )
    head = tmp_path / "head"
    model.save_pretrained(head)
    with torch.no_grad():
        adapter = tmp_path / "adapter"
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415

        wrapped = get_peft_model(
            model, LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS")
        )
        factory.fill_adapter(wrapped, 1)
        wrapped.save_pretrained(str(adapter))
        wrapped.train(mode=False)
        inputs = factory.example_inputs("llama")
        theirs = wrapped(**inputs).logits

    merge(home, base, adapter, tmp_path / "out")

    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", pad_token_id=3
    )
    loaded.train(mode=False)
    assert type(loaded).__name__ == "LlamaForSequenceClassification"
    with torch.no_grad():
        assert torch.allclose(loaded(**inputs).logits, theirs, rtol=1e-4, atol=1e-5)


def test_another_kind_of_model(tmp_path: Path, home: Path) -> None:
    """An adapter of a Llama is no adapter of a GPT-2, and the missing tensors are named."""
    llama = factory.make_base(tmp_path / "llama")
    gpt2 = factory.make_base(tmp_path / "gpt2", "gpt2")
    adapter = factory.make_adapter(llama, tmp_path / "adapter")

    with pytest.raises(Incompatible, match=r"no tensor 'model\.layers\.0\.mlp\.down_proj\.weight'"):
        merge(home, gpt2, adapter, tmp_path / "out")

    assert not (tmp_path / "out").exists()
