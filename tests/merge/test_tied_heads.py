"""Tied heads: what a merged checkpoint says must be what PEFT says with the adapter on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


def answers(model: Any, inputs: Any) -> torch.Tensor:
    """Return the first output: logits, or where answers start."""
    with torch.no_grad():
        first: torch.Tensor = model(**inputs)[0]
    return first


CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "attention only": ("llama-tied", {"target_modules": ["q_proj"]}, False),
    "embedding": ("llama-tied", {"target_modules": ["embed_tokens", "q_proj"]}, True),
    "head": ("llama-tied", {"target_modules": ["lm_head", "q_proj"]}, True),
    "both, with DoRA": (
        "llama-tied",
        {"target_modules": ["lm_head", "embed_tokens"], "use_dora": True},
        True,
    ),
    "both": ("llama-tied", {"target_modules": ["lm_head", "embed_tokens"]}, True),
    "saved head": (
        "llama-tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        True,
    ),
    "saved embedding": (
        "llama-tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        True,
    ),
    "gpt2 attention only": ("gpt2", {"target_modules": ["c_attn"]}, False),
    "gpt2 embedding": ("gpt2", {"target_modules": ["wte", "c_attn"]}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_tied_model_answers_as_its_adapter_did(tmp_path: Path, home: Path, case: str) -> None:
    """The merged model gives the logits of PEFT unmerged, whichever side of the tie changed."""
    kind, config, untied = CASES[case]
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    factory.make_base(base, kind, dtype=torch.float32)
    factory.make_adapter(base, adapter, **config)
    inputs = factory.example_inputs(kind)

    merged = Registry(home).merge(
        Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=out, name="merged"
    )

    with torch.no_grad():
        ours = factory.load_base(out)(**inputs).logits
        theirs = factory.load_adapter(base, adapter)(**inputs).logits
        before = factory.load_base(base)(**inputs).logits
    assert merged.untied == untied
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is not untied
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) == untied
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, theirs, rtol=1e-2, atol=1e-3)


TYING: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "head": {"target_modules": ["lm_head"]},
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "rows": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saved", ["both sides", "embedding only"])
@pytest.mark.parametrize("case", TYING)
def test_a_tie_that_was_trained_is_kept_in_both(
    tmp_path: Path, home: Path, case: str, saved: str
) -> None:
    """With ensure_weight_tying both sides get the one delta once (PEFT's merge adds it twice)."""
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    factory.make_base(base, "llama-tied", dtype=torch.float32)
    factory.make_adapter(base, adapter, ensure_weight_tying=True, **TYING[case])
    inputs = factory.example_inputs("llama")
    theirs = answers(factory.load_adapter(base, adapter), inputs)
    if saved == "embedding only":
        factory.edit_tensors(
            adapter,
            lambda tensors: [tensors.pop(key) for key in list(tensors) if "lm_head" in key],
        )

    merged = Registry(home).merge(
        Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=out
    )

    assert torch.allclose(answers(factory.load_base(out), inputs), theirs, atol=1e-5)
    assert merged.untied == (saved == "both sides" and case != "rows")


def test_a_trained_tie_without_its_embedding_is_refused(tmp_path: Path, home: Path) -> None:
    """A head that was trained as the embedding's other side is no delta of the head alone."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    factory.make_base(base, "llama-tied")
    factory.make_adapter(base, adapter, target_modules=["lm_head", "q_proj"])
    factory.edit_config(adapter, ensure_weight_tying=True)

    with pytest.raises(
        MergeRefused, match=r"ensure_weight_tying with a delta on 'lm_head\.weight'"
    ):
        Registry(home).merge(
            Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=tmp_path / "out"
        )

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("order", [0, 1])
def test_a_tie_of_one_adapter_does_not_bind_another(tmp_path: Path, home: Path, order: int) -> None:
    """Rows go to both sides, a second adapter's head delta to its side: neither is lost."""
    base = factory.make_base(tmp_path / "base", "llama-tied", dtype=torch.float32)
    rows = factory.make_adapter(
        base, tmp_path / "rows", target_modules=["q_proj"], trainable_token_indices=[3, 7]
    )
    head = factory.make_adapter(base, tmp_path / "head", seed=5, target_modules=["lm_head"])
    given = [RecipeAdapter(str(rows)), RecipeAdapter(str(head))]

    Registry(home).merge(
        Recipe(tuple(given[:: -1 if order else 1]), base=str(base)), output=tmp_path / "out"
    )

    shared = load_file(base / "model.safetensors")["model.embed_tokens.weight"].double()
    both = load_file(rows / "adapter_model.safetensors")
    key = next(
        key for key in both if key.endswith("embed_tokens.token_adapter.trainable_tokens_delta")
    )
    embedding = shared.clone()
    embedding[[3, 7]] = both[key].double()
    one = load_file(head / "adapter_model.safetensors")
    b, a = (one[f"base_model.model.lm_head.lora_{side}.weight"].double() for side in "BA")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.allclose(ours["model.embed_tokens.weight"].double(), embedding, atol=1e-6)
    assert torch.allclose(ours["lm_head.weight"].double(), embedding + 2 * b @ a, atol=1e-6)


def test_both_sides_of_a_tie_have_their_own_delta(tmp_path: Path, home: Path) -> None:
    """On a tied base with LoRA on both sides, each side is the one matrix plus its own delta."""
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    factory.make_base(base, "llama-tied", dtype=torch.float32)
    factory.make_adapter(base, adapter, target_modules=["lm_head", "embed_tokens"])

    Registry(home).merge(Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=out)

    part = {
        key.removeprefix("base_model.model."): tensor.double()
        for key, tensor in load_file(adapter / "adapter_model.safetensors").items()
    }
    shared = load_file(base / "model.safetensors")["model.embed_tokens.weight"].double()
    ours = load_file(out / "model.safetensors")
    head = shared + 2 * part["lm_head.lora_B.weight"] @ part["lm_head.lora_A.weight"]
    a, b = (part[f"model.embed_tokens.lora_embedding_{side}"] for side in "AB")
    assert torch.allclose(ours["lm_head.weight"].double(), head, atol=1e-6)
    assert torch.allclose(
        ours["model.embed_tokens.weight"].double(), shared + 2 * (b @ a).T, atol=1e-6
    )
