"""Every kind of adapter that PEFT merges, merged by adreg, against PEFT's own merge in float64."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import factory
import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from safetensors.torch import load_file, save_file
from torch import nn

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

LINEAR = ["q_proj", "down_proj"]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ADALORA": ("llama", {"target_modules": LINEAR, "init_r": 6, "total_step": 10}),
    "ADAMSS": ("llama", {"target_modules": LINEAR}),
    "BEFT": ("qwen2", {"target_modules": ["q_proj", "v_proj"]}),
    "BOFT": ("llama", {"target_modules": LINEAR, "boft_block_size": 4}),
    "C3A": ("llama", {"target_modules": LINEAR, "block_size": 16}),
    "DEFT": ("llama", {"target_modules": LINEAR, "r": 4}),
    "DELORA": ("llama", {"target_modules": LINEAR, "r": 4}),
    "FOURIERFT": ("llama", {"target_modules": LINEAR, "n_frequency": 40}),
    "GLORA": ("qwen2", {"target_modules": LINEAR, "r": 4}),
    "GRALORA": ("llama", {"target_modules": LINEAR, "r": 8}),
    "HIRA": ("llama", {"target_modules": LINEAR, "r": 4}),
    "HRA": ("llama", {"target_modules": LINEAR, "r": 4}),
    "IA3": ("qwen2", {"target_modules": LINEAR, "feedforward_modules": ["down_proj"]}),
    "LN_TUNING": ("llama", {"target_modules": ["input_layernorm", "norm"]}),
    "LOHA": ("llama", {"target_modules": LINEAR, "r": 4, "alpha": 3}),
    "LOKR": ("llama", {"target_modules": LINEAR, "r": 4, "alpha": 3}),
    "LORA": ("llama", {"target_modules": LINEAR, "r": 4}),
    "MISS": ("llama", {"target_modules": LINEAR, "r": 4}),
    "OFT": ("llama", {"target_modules": LINEAR, "oft_block_size": 8}),
    "OSF": ("llama", {"target_modules": LINEAR}),
    "PEANUT": ("llama", {"target_modules": LINEAR, "r": 4}),
    "PSOFT": ("llama", {"target_modules": LINEAR, "r": 4}),
    "PVERA": ("llama", {"target_modules": LINEAR, "r": 4}),
    "RANDLORA": ("llama", {"target_modules": LINEAR, "r": 4}),
    "ROAD": ("qwen2", {"target_modules": LINEAR, "group_size": 8}),
    "SHIRA": ("llama", {"target_modules": LINEAR, "r": 4}),
    "SUPERTUNING": ("llama", {"target_modules": LINEAR}),
    "TINYLORA": ("llama", {"target_modules": LINEAR, "weight_tying": 1.0}),
    "TRAINABLE_TOKENS": (
        "llama",
        {"token_indices": [3, 1, 40], "target_modules": ["embed_tokens"]},
    ),
    "UNILORA": ("llama", {"target_modules": LINEAR, "save_indices": True}),
    "VBLORA": ("llama", {"target_modules": LINEAR, "r": 2, "num_vectors": 8, "vector_length": 16}),
    "VERA": ("llama", {"target_modules": LINEAR, "r": 8}),
    "WAVEFT": ("llama", {"target_modules": LINEAR, "n_frequency": 40}),
}
"""A configuration for each kind that PEFT 0.21 can merge."""


def make(base: Path, out: Path, peft_type: str, **settings: Any) -> Path:
    """Wrap a base with PEFT, move all that is trained away from where it starts, and save it."""
    model = factory.load_base(base, torch.float32)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type)](**settings)
        torch.manual_seed(5)
        wrapped = peft.get_peft_model(model, config)
        generator = torch.Generator().manual_seed(5)
        for _, parameter in sorted(wrapped.named_parameters()):
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * 0.05
                parameter.data = parameter.data + noise.to(parameter.dtype)
        wrapped.save_pretrained(str(out))
    return out


def by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return PEFT's own merge, computed in float64."""
    model = factory.load_adapter(base, adapter, dtype=torch.float32)
    model.double()
    merged: nn.Module = model.merge_and_unload(safe_merge=True)
    return dict(merged.state_dict())


def by_adreg(home: Path, base: Path, adapter: Path, out: Path) -> dict[str, torch.Tensor]:
    """Return adreg's merge, with sums in float64."""
    registry = Registry(home)
    registry.add(adapter, name="one", base=str(base))
    recipe = Recipe((RecipeAdapter("one"),), base=str(base), precision="float64")
    registry.merge(recipe, output=out, name="merged")
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("peft_type", KINDS)
def test_a_kind_is_merged_as_peft_merges_it(tmp_path: Path, home: Path, peft_type: str) -> None:
    """Each merged tensor is PEFT's float64 merge, to float32's last bits, and something changed."""
    kind, settings = KINDS[peft_type]
    base = factory.make_base(tmp_path / "base", kind, dtype=torch.float32)
    adapter = make(base, tmp_path / "adapter", peft_type, **settings)

    ours = by_adreg(home, base, adapter, tmp_path / "out")

    exact = by_peft(base, adapter)
    before = load_file(base / "model.safetensors")
    assert set(before) == set(ours)
    changed = [name for name in ours if not torch.equal(ours[name], before[name])]
    assert changed
    for name, tensor in ours.items():
        assert torch.allclose(tensor.double(), exact[name].double(), rtol=1e-5, atol=2e-6), name


LAYERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "LoHa of kernels": ("LOHA", "resnet", {"target_modules": ["convolution"], "r": 4}),
    "LoHa of kernels, decomposed": (
        "LOHA",
        "resnet",
        {"target_modules": ["convolution"], "r": 4, "use_effective_conv2d": True},
    ),
    "LoHa with patterns": (
        "LOHA",
        "llama",
        {
            "target_modules": LINEAR,
            "r": 4,
            "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 5},
        },
    ),
    "LoKr of kernels": ("LOKR", "resnet", {"target_modules": ["convolution"], "r": 2}),
    "LoKr of kernels, decomposed": (
        "LOKR",
        "resnet",
        {"target_modules": ["convolution"], "r": 2, "use_effective_conv2d": True},
    ),
    "LoKr, both decomposed": (
        "LOKR",
        "llama",
        {"target_modules": LINEAR, "r": 1, "decompose_both": True, "decompose_factor": 4},
    ),
    "AdaLoRA of Conv1D": (
        "ADALORA",
        "gpt2",
        {"target_modules": ["c_attn"], "init_r": 4, "total_step": 10, "fan_in_fan_out": True},
    ),
    "(IA)3 of Conv1D": (
        "IA3",
        "gpt2",
        {
            "target_modules": ["c_attn", "c_fc"],
            "feedforward_modules": ["c_fc"],
            "fan_in_fan_out": True,
        },
    ),
    "(IA)3 of kernels": (
        "IA3",
        "resnet",
        {"target_modules": ["convolution"], "feedforward_modules": []},
    ),
    "OFT of kernels": ("OFT", "resnet", {"target_modules": ["convolution"], "oft_block_size": 3}),
    "OFT, shared": (
        "OFT",
        "llama",
        {"target_modules": LINEAR, "oft_block_size": 8, "block_share": True},
    ),
    "HRA of kernels": ("HRA", "resnet", {"target_modules": ["convolution"], "r": 2}),
    "VeRA, projections not saved": (
        "VERA",
        "llama",
        {"target_modules": LINEAR, "r": 8, "save_projection": False},
    ),
    "VB-LoRA, only top k saved": (
        "VBLORA",
        "llama",
        {
            "target_modules": LINEAR,
            "r": 2,
            "num_vectors": 8,
            "vector_length": 16,
            "save_only_topk_weights": True,
        },
    ),
    "HiRA of an embedding": ("HIRA", "llama", {"target_modules": ["embed_tokens"], "r": 4}),
    "a bias": ("BOFT", "qwen2", {"target_modules": LINEAR, "boft_block_size": 4, "bias": "all"}),
    "a head of its own": (
        "LOHA",
        "bert",
        {
            "target_modules": ["query"],
            "r": 4,
            "modules_to_save": ["classifier"],
            "task_type": "SEQ_CLS",
        },
    ),
    "KaSA": ("LORA", "llama", {"target_modules": LINEAR, "r": 4, "kasa_config": {}}),
    "VeLoRA": ("LORA", "llama", {"target_modules": LINEAR, "r": 4, "velora_config": {}}),
    "MonteCLoRA": ("LORA", "llama", {"target_modules": LINEAR, "r": 4, "monteclora_config": {}}),
    "BD-LoRA": (
        "LORA",
        "llama",
        {
            "target_modules": LINEAR,
            "r": 4,
            "use_bdlora": {"target_modules_bd_a": ["down_proj"], "target_modules_bd_b": ["q_proj"]},
        },
    ),
    "PiSSA": ("LORA", "llama", {"target_modules": LINEAR, "r": 4, "init_lora_weights": "pissa"}),
    "OLoRA": ("LORA", "llama", {"target_modules": LINEAR, "r": 4, "init_lora_weights": "olora"}),
    "trained tokens beside LoRA": (
        "LORA",
        "llama",
        {"target_modules": LINEAR, "r": 4, "trainable_token_indices": [5, 2, 90]},
    ),
    "trained tokens of a tied model": (
        "LORA",
        "llama-tied",
        {"target_modules": LINEAR, "r": 4, "trainable_token_indices": {"embed_tokens": [5, 2]}},
    ),
}
"""Layers and settings beside the plain ones: kind of adapter, of base, configuration."""


@pytest.mark.parametrize("case", LAYERS)
def test_other_layers_and_settings(tmp_path: Path, home: Path, case: str) -> None:
    """Each merged tensor is PEFT's float64 merge, to float32's last bits, and something changed."""
    peft_type, kind, settings = LAYERS[case]
    base = factory.make_base(tmp_path / "base", kind, dtype=torch.float32)
    adapter = make(base, tmp_path / "adapter", peft_type, **settings)

    ours = by_adreg(home, base, adapter, tmp_path / "out")

    exact = by_peft(base, adapter)
    before = load_file(base / "model.safetensors")
    assert set(before) <= set(ours)
    assert [name for name in before if not torch.equal(ours[name], before[name])]
    for name, tensor in ours.items():
        assert torch.allclose(tensor.double(), exact[name].double(), rtol=1e-5, atol=2e-6), name


@pytest.mark.parametrize("kind", ["BOFT", "HRA", "VERA"])
def test_a_base_in_float64_keeps_its_digits(tmp_path: Path, home: Path, kind: str) -> None:
    """In float64 PEFT's layers too are given W as it is stored, not rounded to float32."""
    target, settings = KINDS[kind]
    base = factory.make_base(tmp_path / "base", target, dtype=torch.float64)
    weights = base / "model.safetensors"
    fine = {name: w * (1 + 1e-10 * torch.sin(1e6 * w)) for name, w in load_file(weights).items()}
    save_file(fine, weights, metadata={"format": "pt"})
    wrapped = peft.get_peft_model(
        factory.load_base(base), PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**settings)
    )
    factory.fill_adapter(wrapped, 3)
    wrapped.save_pretrained(str(tmp_path / "adapter"))

    adapters = (RecipeAdapter(str(tmp_path / "adapter")),)
    made = Registry(home).merge(
        Recipe(adapters, base=str(base), precision="float64"), output=tmp_path / "out"
    )

    ours = load_file(made.folder / weights.name)
    exact: Any = factory.load_adapter(base, tmp_path / "adapter", dtype=torch.float64).double()
    for name, module in exact.base_model.model.named_modules():
        if hasattr(module, "get_base_layer") and hasattr(module, "merge"):
            layer = module.get_base_layer()
            layer.weight.data = fine[f"{name}.weight"].clone()
            module.merge(safe_merge=True)
            assert torch.allclose(layer.weight, ours[f"{name}.weight"], rtol=1e-12, atol=1e-14)
