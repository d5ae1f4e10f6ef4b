"""State dicts of loralib become ordinary LoRAs, with the alpha that is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from adreg.registry import Registry
from adreg.registry.adapters.foreign.door import convert
from adreg.registry.adapters.foreign.form import BaseView, Said
from adreg.registry.errors import AdapterRefused, PickleRefused

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"
EMBED = "model.embed_tokens"


@pytest.fixture
def tensors(random: Callable[..., Any]) -> dict[str, Any]:
    """Factors of a linear layer and of the embedding, of ranks 4 and 2."""
    return {
        f"{Q}.lora_A": random(4, 32),
        f"{Q}.lora_B": random(32, 4),
        f"{DOWN}.lora_A": random(4, 48),
        f"{DOWN}.lora_B": random(32, 4),
        f"{EMBED}.lora_A": random(2, 96),
        f"{EMBED}.lora_B": random(32, 2),
    }


def deltas(tensors: dict[str, Any], alpha: float) -> dict[str, Any]:
    """Return alpha/r B A, turned round for the embedding."""
    result = {}
    for module in (Q, DOWN, EMBED):
        a, b = (tensors[f"{module}.lora_{part}"].astype(np.float64) for part in "AB")
        delta = alpha / len(a) * (b @ a)
        result[f"{module}.weight"] = delta.T if module == EMBED else delta
    return result


def test_linear_and_embedding(
    tmp_path: Path, bases: Callable[[str], Path], check: Callable[..., Any], tensors: dict[str, Any]
) -> None:
    """Every module changes by alpha over its own rank times B A."""
    save_file(tensors, tmp_path / "lora.safetensors")

    added = check(tmp_path / "lora.safetensors", bases("llama"), deltas(tensors, 6.0), alpha=6.0)

    assert "a loralib state dict" == added.converted
    assert tmp_path / "lora.safetensors" == added.path


def test_pickle(
    tmp_path: Path, bases: Callable[[str], Path], check: Callable[..., Any], tensors: dict[str, Any]
) -> None:
    """A .pt file of torch.save is read only when the user says so, to the same result."""
    path = tmp_path / "lora.pt"
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    with pytest.raises(PickleRefused) as refused:
        Registry().add(path, alpha=6.0)

    assert "--convert-pickle" in refused.value.hint
    check(path, bases("llama"), deltas(tensors, 6.0), alpha=6.0, convert_pickle=True)


def test_trained_biases_are_kept(
    tmp_path: Path, bases: Callable[[str], Path], check: Callable[..., Any], random: Any
) -> None:
    """A bias beside the factors replaces the base's."""
    name = "model.layers.0.self_attn.v_proj"
    a, b, bias = random(4, 32), random(16, 4), random(16)
    save_file(
        {f"{name}.lora_A": a, f"{name}.lora_B": b, f"{name}.bias": bias},
        tmp_path / "lora.safetensors",
    )
    delta = 2.0 * (b.astype(np.float64) @ a.astype(np.float64))

    check(
        tmp_path / "lora.safetensors",
        bases("qwen2"),
        {f"{name}.weight": delta},
        {f"{name}.bias": bias.astype(np.float64)},
        alpha=8.0,
    )


@pytest.mark.parametrize(
    ("change", "alpha", "words"),
    [
        ({}, None, "of rank 2, which does not hold its alpha"),
        ({f"{Q}.lora_B": (16, 2)}, 4.0, "another rank in A than in B"),
        ({f"{Q}.weight": (32, 32)}, 4.0, "may have folded it already"),
        ({f"{Q}.lora_B": None}, 4.0, f"'{Q}' has no lora_B"),
        ({}, 0.0, "alpha"),
        ({}, float("nan"), "alpha"),
    ],
)
def test_refusals(
    *,
    home: Path,
    tmp_path: Path,
    tensors: dict[str, Any],
    change: dict[str, Any],
    alpha: float | None,
    words: str,
) -> None:
    """Without alpha, and for shapes that are not plain LoRA's, it is refused in words."""
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.ones(shape, np.float32)
    save_file(tensors, tmp_path / "lora.safetensors")

    with pytest.raises(AdapterRefused, match=words) as refused:
        Registry().add(tmp_path / "lora.safetensors", alpha=alpha)

    assert refused.value.hint
    assert tmp_path / "lora.safetensors" == refused.value.path
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_linear_layer_called_an_embedding(
    tmp_path: Path, random: Callable[..., Any], tensors: dict[str, Any]
) -> None:
    """The base's shape tells a projection that is called embed_proj from an embedding."""
    save_file(
        {"embed_proj.lora_A": random(2, 8), "embed_proj.lora_B": random(16, 2), **tensors},
        tmp_path / "lora.safetensors",
    )
    shapes = {"embed_proj.weight": (16, 8), f"{EMBED}.weight": (96, 32)}
    said = Said(alpha=4.0, base=BaseView({}, shapes))

    converted = convert(tmp_path / "lora.safetensors", said)

    assert converted is not None
    assert "base_model.model.embed_proj.lora_A.weight" in converted.tensors
    assert f"base_model.model.{EMBED}.lora_embedding_A" in converted.tensors


def test_names_of_chatglm(tmp_path: Path, random: Callable[..., Any]) -> None:
    """Modules that begin with transformer are no diffusion model's."""
    name = "transformer.encoder.layers.0.self_attention.query_key_value"
    save_file(
        {f"{name}.lora_A": random(2, 8), f"{name}.lora_B": random(16, 2)},
        tmp_path / "lora.safetensors",
    )

    converted = convert(tmp_path / "lora.safetensors", Said(alpha=4.0))

    assert converted is not None
    assert "a loralib state dict" == converted.how


def test_a_convolution(tmp_path: Path, random: Callable[..., Any]) -> None:
    """Loralib's convolutions have factors of a form of their own, which is refused by name."""
    save_file(
        {"conv.lora_A": random(6, 24), "conv.lora_B": random(48, 6)},
        tmp_path / "lora.safetensors",
    )
    said = Said(alpha=4.0, base=BaseView({}, {"conv.weight": (16, 8, 3, 3)}))

    with pytest.raises(AdapterRefused, match="'conv' is a convolution"):
        convert(tmp_path / "lora.safetensors", said)
