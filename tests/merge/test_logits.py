"""What a merged model says, loaded by transformers alone, against PEFT with the adapter on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factory
import pytest
import torch

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"target_modules": "all-linear"},
    "qwen2": {"target_modules": "all-linear", "bias": "all"},
    "qwen3": {"target_modules": "all-linear", "use_dora": True},
    "gemma3": {"target_modules": "all-linear", "use_rslora": True},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "bert": {
        "target_modules": ["query", "value", "dense"],
        "modules_to_save": ["classifier"],
        "task_type": "SEQ_CLS",
    },
    "resnet": {"target_modules": ["convolution"]},
}


def logits(model: torch.nn.Module, kind: str) -> torch.Tensor:
    """Return a model's logits for the batch of its kind, computed in float32."""
    with torch.no_grad():
        result: torch.Tensor = model.float()(**factory.example_inputs(kind)).logits
    return result


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the norm of the difference, as a share of the norm."""
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_merged_model_answers_as_its_adapter_did(tmp_path: Path, home: Path, kind: str) -> None:
    """Logits are PEFT's to float32's last bits, and in bfloat16 to the rounding of the weights."""
    bases = {
        dtype: factory.make_base(tmp_path / str(dtype), kind, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    adapter = factory.make_adapter(bases[torch.float32], tmp_path / "adapter", **CONFIGS[kind])
    far = {}
    for dtype, base in bases.items():
        out = tmp_path / f"out-{dtype}"
        recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(base))
        Registry(home).merge(recipe, output=out, name="merged")
        theirs = logits(factory.load_adapter(base, adapter, dtype=torch.float32), kind)
        far[dtype] = distance(logits(factory.load_base(out), kind), theirs)
        moved = distance(logits(factory.load_base(base), kind), theirs)

        assert moved > 0.05

    assert far[torch.float32] < 1e-5
    assert far[torch.bfloat16] < 2**-6
