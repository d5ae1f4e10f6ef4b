"""Where the tensors of an adapter go in a base, from headers alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import factory
import pytest
import torch

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import read_base
from adreg.registry.bases.diskname import find_embedding, head_name, resolve
from adreg.registry.bases.fit import fit
from adreg.registry.bases.placement import Fit, Kind

CASES: dict[str, tuple[str, dict[str, Any], dict[Kind, int]]] = {
    "linear": ("llama", {}, {Kind.LINEAR: 6}),
    "conv1d": ("gpt2", {}, {Kind.CONV1D: 6}),
    "embedding": ("llama", {"target_modules": ["embed_tokens"]}, {Kind.EMBEDDING: 1, Kind.FULL: 1}),
    "convolution": ("resnet", {}, {Kind.CONVOLUTION: 6}),
    "saved": (
        "bert",
        {"target_modules": ["query"], "modules_to_save": ["classifier"]},
        {Kind.LINEAR: 2, Kind.FULL: 2},
    ),
    "trained biases": (
        "qwen2",
        {"target_modules": ["q_proj"], "bias": "lora_only"},
        {Kind.LINEAR: 2, Kind.FULL: 2},
    ),
    "lora biases": (
        "qwen2",
        {"target_modules": ["q_proj"], "lora_bias": True},
        {Kind.LINEAR: 2, Kind.BIAS: 2},
    ),
    # PEFT saves a targeted head's own weight along, as it does with an embedding's.
    "tied head": ("llama-tied", {"target_modules": ["lm_head"]}, {Kind.LINEAR: 1, Kind.FULL: 1}),
}


def fitted(tmp_path: Path, kind: str, **config: Any) -> Fit:
    """Fit a new adapter to the base that it was made on."""
    base = factory.make_base(tmp_path / "base", kind)
    adapter = factory.make_adapter(base, tmp_path / "adapter", **config)
    return fit(read_adapter(adapter), read_base(base))


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_has_one_place(tmp_path: Path, case: str) -> None:
    """Each tensor is in one placement, of the kind that its module has."""
    kind, config, kinds = CASES[case]
    result = fitted(tmp_path, kind, **config)
    spec = read_adapter(tmp_path / "adapter")
    placed = [tensor.key for placement in result.placements for tensor in placement.tensors]

    assert () == result.faults
    assert sorted(tensor.key for tensor in spec.tensors) == sorted(placed)
    assert kinds == dict(Counter(placement.kind for placement in result.placements))


def test_a_tied_head_is_read_from_the_embedding(tmp_path: Path) -> None:
    """The target is the head, which the checkpoint lacks; W is read from the embedding."""
    result = fitted(tmp_path, "llama-tied", target_modules=["lm_head"])

    assert {("lm_head.weight", "model.embed_tokens.weight")} == {
        (placement.target, placement.source) for placement in result.placements
    }


def test_scales(tmp_path: Path) -> None:
    """The scale is alpha over the module's own rank, over its root with rsLoRA."""
    result = fitted(tmp_path, "llama", rank_pattern={"q_proj": 16}, use_rslora=True)
    scales = {p.target.split(".")[-2]: p.scale for p in result.placements}

    assert {"q_proj": 2.0, "v_proj": 4.0, "down_proj": 4.0} == scales


def test_faults_name_all_that_does_not_fit(tmp_path: Path) -> None:
    """A fault for each group without a place, none of them in a placement too."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        stem = "base_model.model.model.layers"
        for part in "AB":
            key = f"mlp.down_proj.lora_{part}.weight"
            tensors[f"{stem}.7.{key}"] = tensors.pop(f"{stem}.0.{key}")
        key = f"{stem}.1.self_attn.v_proj.lora_B.weight"
        tensors[key] = torch.ones(5, 4)

    factory.edit_tensors(adapter, spoil)
    result = fit(read_adapter(adapter), read_base(base))
    shape, missing = result.faults

    assert "no tensor 'model.layers.7.mlp.down_proj.weight'" in missing
    assert "makes a delta of (5, 32)" in shape
    assert "has (16, 32)" in shape
    assert 4 == len(result.placements)


def test_types_that_nothing_is_added_to(tmp_path: Path) -> None:
    """A delta on an integer tensor is a fault."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    name = "model.layers.0.self_attn.q_proj.weight"
    factory.edit_tensors(
        base, lambda t: t.update({name: t[name].to(torch.int16)}), "model.safetensors"
    )
    result = fit(read_adapter(adapter), read_base(base))

    assert (f"the base's {name!r} is I16, which nothing is added to",) == result.faults


def test_rewritings(tmp_path: Path) -> None:
    """A prefix is dropped or added for all names or none; what fits as it stands stays so."""
    base = read_base(factory.make_base(tmp_path / "base", "gpt2"))
    bare = ["h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"]
    full = [f"transformer.{name}" for name in bare]

    for names in (full, bare, [f"model.{name}" for name in full]):
        naming = resolve(names, base.memory, base.layout)
        assert full == [pieces[0].name for name in names if (pieces := naming(name))]
    assert resolve(["nobody.weight"], base.memory, base.layout)("nobody.weight") is None
    assert "transformer.wte.weight" == find_embedding(base.layout)


def test_heads() -> None:
    """Generators have lm_head; classifiers and bare models have none."""
    assert "lm_head.weight" == head_name("LlamaForCausalLM")
    assert "lm_head.weight" == head_name("GPT2LMHeadModel")
    assert head_name("BertModel") is None
    assert head_name(None) is None
