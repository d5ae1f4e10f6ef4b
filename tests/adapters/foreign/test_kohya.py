"""LoRAs of kohya's sd-scripts: names found in the base, an alpha of each module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from adreg.registry import Registry
from adreg.registry.adapters.foreign.door import convert
from adreg.registry.adapters.foreign.form import BaseView, Said
from adreg.registry.errors import AdapterRefused

FC1 = "encoder.layers.0.mlp.fc1"
Q = "encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP text encoder, which kohya's lora_te names are of."""
    config = transformers.CLIPTextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPTextModel(config)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def prefix(clip: Path) -> str:
    """What the tiny encoder's names begin with on disk."""
    ending = f"{FC1}.weight"
    name = next(n for n in load_file(clip / "model.safetensors") if n.endswith(ending))
    return name.removesuffix(ending)


def named(module: str, start: str = "lora_te_text_model_") -> str:
    """Return kohya's name of a module."""
    return start + module.replace(".", "_")


@pytest.fixture
def tensors(random: Callable[..., Any]) -> dict[str, Any]:
    """Factors of two modules with ranks 4 and 2, the second without alpha."""
    return {
        f"{named(FC1)}.lora_down.weight": random(4, 32),
        f"{named(FC1)}.lora_up.weight": random(48, 4),
        f"{named(FC1)}.alpha": np.array(2.0, np.float32),
        f"{named(Q)}.lora_down.weight": random(2, 32),
        f"{named(Q)}.lora_up.weight": random(32, 2),
    }


def delta(tensors: dict[str, Any], module: str, scale: float) -> Any:
    """Return scale up down."""
    down = tensors[f"{named(module)}.lora_down.weight"].astype(np.float64)
    return scale * (tensors[f"{named(module)}.lora_up.weight"].astype(np.float64) @ down)


def test_each_alpha_and_rank(
    tmp_path: Path, clip: Path, prefix: str, check: Callable[..., Any], tensors: dict[str, Any]
) -> None:
    """A module's scale is its own alpha over its own rank, and 1 where alpha is missing."""
    path = tmp_path / "style.safetensors"
    save_file(tensors, path)
    deltas = {
        f"{prefix}{FC1}.weight": delta(tensors, FC1, 0.5),
        f"{prefix}{Q}.weight": delta(tensors, Q, 1.0),
    }

    added = check(path, clip, deltas, name=None)

    assert "the text_encoder of a kohya LoRA" == added.converted
    assert "style" == added.name


def test_one_component_of_several(
    *,
    tmp_path: Path,
    clip: Path,
    prefix: str,
    check: Callable[..., Any],
    tensors: dict[str, Any],
    random: Callable[..., Any],
) -> None:
    """A file for two models lists them, and --component picks one."""
    path = tmp_path / "style.safetensors"
    extra = {
        "lora_unet_mid_to_q.lora_down.weight": random(4, 8),
        "lora_unet_mid_to_q.lora_up.weight": random(8, 4),
    }
    save_file({**tensors, **extra}, path)
    with pytest.raises(AdapterRefused, match="of several models: text_encoder, unet") as refused:
        Registry().add(path, base=str(clip))
    assert "Pick one: --component text_encoder" == refused.value.hint
    with pytest.raises(AdapterRefused, match="has no component 'vae'"):
        Registry().add(path, base=str(clip), component="vae")
    deltas = {
        f"{prefix}{FC1}.weight": delta(tensors, FC1, 0.5),
        f"{prefix}{Q}.weight": delta(tensors, Q, 1.0),
    }

    check(path, clip, deltas, component="text_encoder")


def test_refusals(home: Path, tmp_path: Path, clip: Path, tensors: dict[str, Any]) -> None:
    """Without the base, for unknown modules, other tensors and a second alpha it is refused."""
    path = tmp_path / "style.safetensors"
    save_file(tensors, path)
    with pytest.raises(AdapterRefused, match="only be read beside those of its base") as refused:
        Registry().add(path)
    assert "--base" in refused.value.hint
    with pytest.raises(AdapterRefused, match="it holds its alpha"):
        Registry().add(path, base=str(clip), alpha=4.0)
    for extra, words in (
        ("lora_te_text_model_nowhere.lora_down.weight", "has no lora_up.weight"),
        (f"{named(Q)}.hada_w1_a", "is no part of a plain kohya LoRA"),
        (f"{named(Q)}.dora_scale", "is no part of a plain kohya LoRA"),
    ):
        save_file({**tensors, extra: np.ones((2, 32), np.float32)}, path)
        with pytest.raises(AdapterRefused, match=words):
            Registry().add(path, base=str(clip))
    renamed = {name.replace("fc1", "fc9"): value for name, value in tensors.items()}
    save_file(renamed, path)
    with pytest.raises(AdapterRefused, match="the base has no module whose name is"):
        Registry().add(path, base=str(clip))
    assert not [file for file in home.rglob("*.safetensors") if file.is_file()]


def test_ambiguous_names(tmp_path: Path, tensors: dict[str, Any]) -> None:
    """Where two modules of a base come to the same name with underscores, both are named."""
    save_file(tensors, tmp_path / "style.safetensors")
    shapes = {f"{name}.weight": (48, 32) for name in (FC1, FC1.replace(".mlp.", ".mlp_"), Q)}

    with pytest.raises(AdapterRefused, match=r"may be .*mlp\.fc1' or .*mlp_fc1'"):
        convert(tmp_path / "style.safetensors", Said(base=BaseView({}, shapes)))
