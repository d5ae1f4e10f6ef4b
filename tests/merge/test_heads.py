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

CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "attention only": ("llama-tied", {"target_modules": ["q_proj"]}, False),
    "embedding": ("llama-tied", {"target_modules": ["embed_tokens", "q_proj"]}, True),
    "head": ("llama-tied", {"target_modules": ["lm_head", "q_proj"]}, True),
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


def test_a_trained_tie_is_not_guessed_at(tmp_path: Path, home: Path) -> None:
    """LoRA on an embedding that was trained with the head tied to it is refused by name."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    factory.make_base(base, "llama-tied")
    factory.make_adapter(base, adapter, target_modules=["embed_tokens", "q_proj"])
    factory.edit_config(adapter, ensure_weight_tying=True)

    with pytest.raises(MergeRefused, match="ensure_weight_tying"):
        Registry(home).merge(
            Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=tmp_path / "out"
        )

    assert not (tmp_path / "out").exists()
