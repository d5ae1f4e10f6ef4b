"""Adapters on many architectures, merged by adreg and by PEFT, tensor file against tensor file."""

from __future__ import annotations

import json
from pathlib import Path

import architectures
import factory
import pytest
import torch
from safetensors.torch import load_file, save_file

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint, by their names on disk."""
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def merge(home: Path, base: Path, adapter: Path, output: Path) -> dict[str, torch.Tensor]:
    """Merge with adreg and return the tensors on disk."""
    registry = Registry(home)
    registry.add(adapter, name="one")
    registry.merge(Recipe((RecipeAdapter("one"),), base=str(base)), output=output, name="merged")
    return tensors_of(output)


def check(
    ours: dict[str, torch.Tensor], exact: dict[str, torch.Tensor], before: dict[str, torch.Tensor]
) -> None:
    """Compare merged tensors with those of a float64 merge, name by name."""
    assert sorted(exact) == sorted(ours)
    for name, tensor in ours.items():
        # Two float32 sums in other orders, rounded once each.
        assert torch.allclose(tensor.double(), exact[name].double(), rtol=2e-6, atol=4e-7), name
        touched = not torch.equal(exact[name].to(tensor.dtype), before[name])
        assert touched or torch.equal(tensor, before[name]), name
    assert any(not torch.equal(ours[name], before[name]) for name in before)


def prove(home: Path) -> None:
    """Run the model against PEFT on the base: the same answers, and an adapter that shows."""
    proof = Registry(home).verify_merge("merged")
    assert "same" == proof.verdict
    effect = proof.comparison.effect
    assert effect is not None
    # Mamba's exponentials make the most of float32's last bits.
    assert proof.comparison.merged.rms < 0.01 * effect.rms


@pytest.mark.parametrize("kind", architectures.KINDS)
def test_a_merged_checkpoint_is_the_one_that_peft_saves(
    tmp_path: Path, home: Path, kind: str
) -> None:
    """Names, shapes and values on disk are those of PEFT's float64 merge, saved by transformers.

    The model answers as the base with the adapter in PEFT.
    """
    base = architectures.make_base(tmp_path / "base", kind)
    adapter = architectures.make_adapter(base, tmp_path / "adapter", kind)

    ours = merge(home, base, adapter, tmp_path / "out")

    exact = tensors_of(architectures.merged_by_peft(base, adapter, kind, tmp_path / "peft"))
    check(ours, exact, tensors_of(base))
    prove(home)


OLD: dict[str, dict[str, str]] = {
    "qwen2_vl": {"model.language_model.": "model.", "model.visual.": "visual."},
    "llava": {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
}
"""The modules of today by the names that they had in transformers before 4.52."""


@pytest.mark.parametrize("kind", OLD)
def test_adapters_with_old_names_change_the_same_tensors(
    tmp_path: Path, home: Path, kind: str
) -> None:
    """An adapter of transformers 4 merges to what its twin with today's names gives in PEFT."""
    base = architectures.make_base(tmp_path / "base", kind)
    adapter = architectures.make_adapter(base, tmp_path / "adapter", kind)
    exact = tensors_of(architectures.merged_by_peft(base, adapter, kind, tmp_path / "peft"))

    def old(name: str) -> str:
        bare = name.removeprefix("base_model.model.")
        start = next((new for new in OLD[kind] if bare.startswith(new)), "")
        return name.replace(start, OLD[kind].get(start, ""), 1)

    config = json.loads((adapter / "adapter_config.json").read_text())
    factory.edit_config(adapter, target_modules=[old(name) for name in config["target_modules"]])
    tensors = tensors_of(adapter)
    save_file({old(key): tensors[key] for key in tensors}, adapter / "adapter_model.safetensors")

    ours = merge(home, base, adapter, tmp_path / "out")

    check(ours, exact, tensors_of(base))


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w3"),
        ("qwen3_moe", "model.layers.0.mlp.experts.1.down_proj"),
    ],
)
def test_adapters_of_single_experts_change_that_expert(
    tmp_path: Path, home: Path, kind: str, module: str
) -> None:
    """A LoRA of transformers 4 on one expert adds its B A there and changes nothing else."""
    base = architectures.make_base(tmp_path / "base", kind)
    before, adapter = tensors_of(base), tmp_path / "adapter"
    generator = torch.Generator().manual_seed(5)
    rows, columns = before[f"{module}.weight"].shape
    a, b = (torch.randn(shape, generator=generator) for shape in ((4, columns), (rows, 4)))
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": [module]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    start = f"base_model.model.{module}"
    save_file(
        {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b},
        adapter / "adapter_model.safetensors",
    )

    ours = merge(home, base, adapter, tmp_path / "out")

    exact = {name: tensor.double() for name, tensor in before.items()}
    exact[f"{module}.weight"] += 2 * b.double() @ a.double()
    check(ours, exact, before)
