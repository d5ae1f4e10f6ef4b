"""LoRA on nn.MultiheadAttention: into in_proj_weight, a parameter of the module, and out_proj."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factory
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import Incompatible
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

pytestmark = pytest.mark.filterwarnings("ignore")

HEAD = "vision_model.head.attention"


def make_base(folder: Path) -> Path:
    """Save a tiny SigLIP, whose pooling head is transformers' use of nn.MultiheadAttention."""
    size = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = transformers.SiglipConfig(
        text_config={**size, "vocab_size": 48, "max_position_embeddings": 16},
        vision_config={**size, "image_size": 16, "patch_size": 8},
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        transformers.SiglipModel(config).save_pretrained(folder)
    return folder


def train(base: Path, adapter: Path, **config: Any) -> PeftModel:
    """Save an adapter and return the model in float64 with it."""
    model: Any = transformers.SiglipModel.from_pretrained(base, dtype=torch.float64)
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["attention"], **config}
    wrapped: PeftModel = get_peft_model(model, LoraConfig(**settings))
    factory.fill_adapter(wrapped, 2, torch.float32)
    wrapped.save_pretrained(str(adapter))
    return wrapped.double()


def merge(home: Path, base: Path, adapter: Path, output: Path) -> dict[str, torch.Tensor]:
    """Merge and return the tensors on disk."""
    Registry(home).merge(Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=output)
    return load_file(output / "model.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"target_modules": ["attention", "q_proj", "fc1"]},
        {"rank_pattern": {"head.attention": 2}, "alpha_pattern": {"head.attention.out_proj": 3}},
        {"bias": "all"},
    ],
    ids=["plain", "rslora", "with others", "patterns", "biases"],
)
def test_the_merged_model_sees_as_peft_unmerged(
    tmp_path: Path, home: Path, config: dict[str, Any]
) -> None:
    """The vision tower gives PEFT's unmerged outputs; in_proj_weight and out_proj both change."""
    base = make_base(tmp_path / "base")
    wrapped: Any = train(base, tmp_path / "adapter", **config)
    pixels = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)).double()

    ours = merge(home, base, tmp_path / "adapter", tmp_path / "out")

    loaded: Any = transformers.SiglipModel.from_pretrained(tmp_path / "out", dtype=torch.float64)
    before: Any = transformers.SiglipModel.from_pretrained(base, dtype=torch.float64)
    with torch.no_grad():
        exact = wrapped.get_base_model().vision_model(pixels).pooler_output
        seen = loaded.vision_model(pixels).pooler_output
        assert torch.allclose(seen, exact, atol=1e-6)
        assert not torch.allclose(before.vision_model(pixels).pooler_output, exact, atol=1e-2)
    old = load_file(base / "model.safetensors")
    changed = {name for name in old if not torch.equal(old[name], ours[name])}
    assert {f"{HEAD}.in_proj_weight", f"{HEAD}.out_proj.weight"} <= changed
    assert "bias" in config or not any(name.endswith("bias") for name in changed)


def test_out_proj_gets_its_delta_as_often_as_in_training(tmp_path: Path, home: Path) -> None:
    """By hand: in_proj_weight is W + s B A and out_proj W + 2 s B A, as PEFT's forward has it."""
    base = make_base(tmp_path / "base")
    train(base, tmp_path / "adapter")

    ours = merge(home, base, tmp_path / "adapter", tmp_path / "out")

    old = load_file(base / "model.safetensors")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for key, name, scale in (
        (f"base_model.model.{HEAD}", f"{HEAD}.in_proj_weight", 2),
        (f"base_model.model.{HEAD}.base_layer.out_proj", f"{HEAD}.out_proj.weight", 4),
    ):
        b, a = (saved[f"{key}.lora_{side}.weight"].double() for side in "BA")
        assert torch.allclose(ours[name].double(), old[name].double() + scale * b @ a, atol=1e-6)


def test_factors_of_another_width_are_refused(tmp_path: Path, home: Path) -> None:
    """A delta that is not (3 dim, dim) is refused with both shapes."""
    base = make_base(tmp_path / "base")
    train(base, tmp_path / "adapter")
    key = f"base_model.model.{HEAD}.lora_B.weight"

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = tensors[key][:32].contiguous()

    factory.edit_tensors(tmp_path / "adapter", cut)

    words = r"makes a delta of \(32, 16\), the base's 'vision_model.head.attention.in_proj_weight'"
    with pytest.raises(Incompatible, match=words):
        merge(home, base, tmp_path / "adapter", tmp_path / "out")
