"""LoRAs of diffusers: a component's prefix before PEFT's or older names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adreg.registry import Registry
from adreg.registry.errors import AdapterRefused
from adreg.registry.store.blobs import Store

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"
SPELLINGS = [
    ("lora_A", "lora_B"),
    ("lora.down", "lora.up"),
    ("lora_linear_layer.down", "lora_linear_layer.up"),
]


def spelled(random: Callable[..., Any], a: str, b: str, start: str) -> dict[str, Any]:
    """Return factors of two modules of ranks 4 and 2 under one spelling."""
    return {
        f"{start}.{Q}.{a}.weight": random(4, 32),
        f"{start}.{Q}.{b}.weight": random(32, 4),
        f"{start}.{DOWN}.{a}.weight": random(2, 48),
        f"{start}.{DOWN}.{b}.weight": random(32, 2),
    }


def deltas(tensors: dict[str, Any], *scales: float) -> dict[str, Any]:
    """Return the scaled products of the four factors, in their order."""
    factors = [value.astype(np.float64) for value in tensors.values()]
    pairs = {Q: factors[:2], DOWN: factors[2:4]}
    return {
        f"{module}.weight": scale * (b @ a)
        for (module, (a, b)), scale in zip(pairs.items(), scales, strict=True)
    }


@pytest.mark.parametrize(("a", "b"), SPELLINGS)
def test_every_spelling(
    *,
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    random: Callable[..., Any],
    a: str,
    b: str,
) -> None:
    """Each module changes by B A; without an alpha the scale is 1."""
    tensors = spelled(random, a, b, "text_encoder")
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, path)

    added = check(path, bases("llama"), deltas(tensors, 1.0, 1.0))

    assert "the text_encoder of a diffusers LoRA" == added.converted


def test_alpha_of_each_module(
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    random: Callable[..., Any],
) -> None:
    """An alpha tensor makes the scale of its module."""
    tensors = spelled(random, "lora_A", "lora_B", "text_encoder")
    alpha = {f"text_encoder.{Q}.alpha": np.array(8.0, np.float16)}
    save_file({**tensors, **alpha}, tmp_path / "pytorch_lora_weights.safetensors")

    check(
        tmp_path / "pytorch_lora_weights.safetensors",
        bases("llama"),
        deltas(tensors, 2.0, 1.0),
    )


def test_metadata(
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    random: Callable[..., Any],
) -> None:
    """The LoraConfig in the header counts: its alpha, its patterns, and rsLoRA."""
    tensors = spelled(random, "lora_A", "lora_B", "text_encoder")
    said = {"r": 4, "lora_alpha": 6, "rank_pattern": {"down_proj": 2}, "use_rslora": True}
    said["alpha_pattern"] = {"down_proj": 5}
    text = json.dumps({f"text_encoder.{key}": value for key, value in said.items()})
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "lora_adapter_metadata": text})

    check(path, bases("llama"), deltas(tensors, 6 / 2, 5 / np.sqrt(2)))


def test_several_components(
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    random: Callable[..., Any],
) -> None:
    """A pipeline's LoRA lists its components, and --component picks one."""
    tensors = spelled(random, "lora_A", "lora_B", "text_encoder")
    others = spelled(random, "lora.down", "lora.up", "unet")
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({**tensors, **others}, path)
    with pytest.raises(AdapterRefused, match="of several models: text_encoder, unet"):
        Registry().add(path)

    check(path, bases("llama"), deltas(tensors, 1.0, 1.0), component="text_encoder")


def test_attention_processors(home: Path, tmp_path: Path, random: Callable[..., Any]) -> None:
    """Processors' names of the first diffusers become the modules that they wrapped."""
    block = "unet.down_blocks.0.attn1.processor"
    tensors = {
        f"{block}.{leaf}_lora.{part}.weight": random(*shape)
        for leaf in ("to_q", "to_out")
        for part, shape in (("down", (4, 8)), ("up", (8, 4)))
    }
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")

    added = Registry().add(tmp_path / "pytorch_lora_weights.safetensors")

    stored = load_file(Store(home / "store").folder(added.digest) / "adapter_model.safetensors")
    prefix = "base_model.model.down_blocks.0.attn1"
    assert {
        f"{prefix}.{leaf}.{part}.weight"
        for leaf in ("to_q", "to_out.0")
        for part in ("lora_A", "lora_B")
    } == stored.keys()
    up = tensors[f"{block}.to_out_lora.up.weight"]
    assert np.array_equal(up, stored[f"{prefix}.to_out.0.lora_B.weight"])


def test_refusals(home: Path, tmp_path: Path, random: Callable[..., Any]) -> None:
    """Tensors that are no plain LoRA, and an alpha that is said twice, are refused by name."""
    del home
    path = tmp_path / "pytorch_lora_weights.safetensors"
    tensors = spelled(random, "lora_A", "lora_B", "text_encoder")
    save_file({**tensors, f"text_encoder.{Q}.dora_scale": random(32)}, path)
    with pytest.raises(AdapterRefused, match="dora_scale' is no part of a plain diffusers LoRA"):
        Registry().add(path)
    save_file({**tensors, f"text_encoder.{Q}.lora.down.weight": random(4, 32)}, path)
    with pytest.raises(AdapterRefused, match="has two lora_A"):
        Registry().add(path)
    save_file({**tensors, f"text_encoder.{Q}.alpha": random(1)}, path)
    with pytest.raises(AdapterRefused, match="it holds its alpha"):
        Registry().add(path, alpha=4.0)
    save_file(tensors, path, metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(AdapterRefused, match="lora_adapter_metadata is no JSON"):
        Registry().add(path)
