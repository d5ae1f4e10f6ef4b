"""Merged tensors against PEFT itself, computed in float64 and rounded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama all linear": ("llama", {"target_modules": "all-linear"}),
    "llama attention": ("llama", {"target_modules": ["q_proj", "v_proj"]}),
    "llama rslora": ("llama", {"target_modules": "all-linear", "use_rslora": True, "r": 6}),
    "llama dora": ("llama", {"target_modules": "all-linear", "use_dora": True}),
    "llama patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2, "layers.0.self_attn.q_proj": 7},
            "alpha_pattern": {"v_proj": 3},
        },
    ),
    "llama head": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "llama embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "llama embedding dora": (
        "llama",
        {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    ),
    "llama saved modules": (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "qwen2 bias": ("qwen2", {"target_modules": "all-linear", "bias": "all"}),
    "qwen2 lora bias": ("qwen2", {"target_modules": ["q_proj"], "lora_bias": True}),
    "qwen3": ("qwen3", {"target_modules": "all-linear"}),
    "gemma": ("gemma3", {"target_modules": "all-linear"}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2 dora": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "bert": (
        "bert",
        {
            "target_modules": ["query", "value", "dense"],
            "modules_to_save": ["classifier"],
            "task_type": "SEQ_CLS",
        },
    ),
    "convolution": ("resnet", {"target_modules": ["convolution"]}),
    "convolution dora": ("resnet", {"target_modules": ["convolution"], "use_dora": True}),
}


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return PEFT's own merge in float64, by the names in memory."""
    model = factory.load_adapter(base, adapter, dtype=torch.float64)
    model.double()  # PEFT loads the adapter in float32 whatever the base is
    return dict(model.merge_and_unload().state_dict())


def merge(home: Path, base: Path, adapter: Path, output: Path) -> dict[str, torch.Tensor]:
    """Merge with adreg and return the tensors on disk."""
    registry = Registry(home)
    registry.add(adapter, name="one")
    registry.merge(Recipe((RecipeAdapter("one"),), base=str(base)), output=output, name="merged")
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(output.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def wrong_share(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the share of elements that are not the exact value rounded once."""
    return (ours != exact.to(ours.dtype)).double().mean().item()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "f32"])
def test_merged_tensors_are_the_exact_sum_rounded_once(
    tmp_path: Path, home: Path, case: str, dtype: torch.dtype
) -> None:
    """Every merged tensor is PEFT's float64 merge rounded once, for all but float32's last bits."""
    kind, config = CASES[case]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    factory.make_base(base, kind, dtype=dtype)
    factory.make_adapter(base, adapter, **config)

    ours = merge(home, base, adapter, tmp_path / "out")

    exact = merged_by_peft(base, adapter)
    before = {name: t for f in base.glob("*.safetensors") for name, t in load_file(f).items()}
    changed = 0
    assert set(before) <= set(ours)
    for name, tensor in ours.items():
        assert tensor.dtype == dtype or not tensor.dtype.is_floating_point
        reference = exact[name]
        changed += int(name in before and not torch.equal(tensor, before[name]))
        if dtype == torch.float32:
            assert torch.allclose(tensor.double(), reference.double(), rtol=2e-6, atol=2e-7), name
        else:
            assert wrong_share(tensor, reference) <= 1e-3, name
    assert changed > 0
