"""Adapters of mlx-lm: both factors transposed, and a scale that is not alpha/r."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adreg.registry import Registry
from adreg.registry.errors import AdapterRefused, NotAnAdapter, TensorFileBroken

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"
EMBED = "model.embed_tokens"


@pytest.fixture
def tensors(random: Callable[..., Any]) -> dict[str, Any]:
    """Factors as mlx-lm saves them, of rank 4."""
    return {
        f"{Q}.lora_a": random(32, 4),
        f"{Q}.lora_b": random(4, 32),
        f"{DOWN}.lora_a": random(48, 4),
        f"{DOWN}.lora_b": random(4, 32),
    }


def save(folder: Path, tensors: dict[str, Any], **config: object) -> Path:
    """Write a folder of mlx-lm."""
    folder.mkdir()
    parameters = {"rank": 4, "scale": 2.5, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    written = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters, **config}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    save_file(tensors, folder / "adapters.safetensors")
    save_file(tensors, folder / "0000100_adapters.safetensors")
    return folder


def product(tensors: dict[str, Any], module: str, scale: float) -> Any:
    """Return scale (a b)^T."""
    a, b = (tensors[f"{module}.lora_{part}"].astype(np.float64) for part in "ab")
    return scale * (a @ b).T


def test_linear_and_embedding(
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    tensors: dict[str, Any],
    random: Callable[..., Any],
) -> None:
    """Every module changes by the scale times the product of its factors."""
    tensors |= {f"{EMBED}.lora_a": random(96, 4), f"{EMBED}.lora_b": random(4, 32)}
    folder = save(tmp_path / "mlx", tensors, model="someone/tiny")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    deltas = {f"{one}.weight": product(tensors, one, 2.5) for one in (Q, DOWN)}
    deltas[f"{EMBED}.weight"] = product(tensors, EMBED, 2.5).T

    added = check(folder, bases("llama"), deltas)

    assert "an mlx-lm LoRA" == added.converted
    assert (("0000100_adapters.safetensors", "not part of an adapter"),) == added.left_out


def test_dora(
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    tensors: dict[str, Any],
    random: Callable[..., Any],
) -> None:
    """A DoRA is scaled by m over the norm of each row, as mlx-lm's DoRALinear does."""
    base = load_file(bases("llama") / "model.safetensors")
    results = {}
    for module in (Q, DOWN):
        m = np.abs(random(32)) + 0.5
        tensors[f"{module}.m"] = m
        whole = base[f"{module}.weight"].astype(np.float64) + product(tensors, module, 2.5)
        norm = np.sqrt((whole**2).sum(axis=1, keepdims=True))
        results[f"{module}.weight"] = m[:, None] * whole / norm

    added = check(
        save(tmp_path / "mlx", tensors, fine_tune_type="dora"), bases("llama"), {}, results
    )

    assert "an mlx-lm DoRA" == added.converted


@pytest.mark.parametrize("is_bfloat16", [False, True])
def test_npz(
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    tensors: dict[str, Any],
    is_bfloat16: bool,
) -> None:
    """An adapters.npz needs alpha, which is the scale times r, and may hold bfloat16."""
    if is_bfloat16:
        tensors = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    np.savez(
        tmp_path / "adapters.npz",
        allow_pickle=False,
        **{n: v.view("V2") if is_bfloat16 else v for n, v in tensors.items()},
    )
    deltas = {f"{one}.weight": product(tensors, one, 20.0) for one in (Q, DOWN)}
    with pytest.raises(AdapterRefused, match="whose scale is stored nowhere") as refused:
        Registry().add(tmp_path / "adapters.npz")

    assert "default scale of 20 is --alpha 80" in refused.value.hint
    check(tmp_path / "adapters.npz", bases("llama"), deltas, alpha=80.0)


@pytest.mark.parametrize(
    ("config", "alpha", "words"),
    [
        ({"fine_tune_type": "full"}, None, "a full fine-tune of mlx-lm"),
        ({"fine_tune_type": "magic"}, None, "fine_tune_type is 'magic'"),
        ({"lora_parameters": {"rank": 4}}, None, "scale is stored nowhere"),
        ({}, 8.0, "its configuration says the scale, 2.5"),
        ({"lora_parameters": {"scale": "much"}}, None, "its scale is 'much'"),
    ],
)
def test_refused_configurations(
    *,
    home: Path,
    tmp_path: Path,
    tensors: dict[str, Any],
    config: dict[str, Any],
    alpha: float | None,
    words: str,
) -> None:
    """What mlx-lm says that is no LoRA with a scale is refused by name."""
    folder = save(tmp_path / "mlx", tensors, **config)

    with pytest.raises(AdapterRefused, match=words):
        Registry().add(folder, alpha=alpha)

    assert not [path for path in home.rglob("*") if path.is_file()]


def test_refused_tensors(home: Path, tmp_path: Path) -> None:
    """Factors of experts, other tensors and unequal ranks are refused, all at once or by name."""
    del home
    one = np.ones((2, 4, 32), np.float32)
    experts = {"model.layers.0.mlp.up_proj.lora_a": one, "model.layers.0.mlp.up_proj.lora_b": one}
    flat = {f"{Q}.lora_a": one[0], f"{Q}.lora_b": one[0]}
    with pytest.raises(AdapterRefused, match="the factors of an mlx expert layer"):
        Registry().add(save(tmp_path / "experts", experts))
    embedding = {
        f"{EMBED}.lora_a": np.ones((96, 2), np.float32),
        f"{EMBED}.lora_b": np.ones((2, 32), np.float32),
        f"{EMBED}.m": np.ones(96, np.float32),
    }
    with pytest.raises(AdapterRefused, match="is a DoRA of an embedding"):
        Registry().add(save(tmp_path / "dora", embedding, fine_tune_type="dora"))
    with pytest.raises(AdapterRefused, match="another rank in a than in b"):
        Registry().add(save(tmp_path / "ranks", flat))
    with pytest.raises(AdapterRefused, match=r"'lm_head\.weight' is no part of an mlx-lm LoRA"):
        Registry().add(save(tmp_path / "more", {**flat, "lm_head.weight": one}))


def test_missing_and_broken_weights(home: Path, tmp_path: Path) -> None:
    """A configuration alone is no adapter, and a compressed or cut archive is none either."""
    del home
    folder = save(tmp_path / "mlx", {"x.lora_a": np.ones((2, 2), np.float32)})
    (folder / "adapters.safetensors").unlink()
    with pytest.raises(NotAnAdapter, match=r"an mlx-lm adapter without adapters\.safetensors"):
        Registry().add(folder)
    path = tmp_path / "adapters.npz"
    np.savez_compressed(path, a=np.ones((64, 64), np.float32))
    with pytest.raises(TensorFileBroken, match="compressed"):
        Registry().add(path, alpha=4.0)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TensorFileBroken, match="no readable"):
        Registry().add(path, alpha=4.0)
