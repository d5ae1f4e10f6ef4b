"""The MergedLinear of PEFT 0.1 becomes one LoRA that changes the same rows by the same amount."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from adreg.registry import Registry
from adreg.registry.errors import AdapterRefused, PickleRefused

MODULE = "transformer.h.0.attn.c_attn"


def save(folder: Path, a: torch.Tensor, b: torch.Tensor, **config: object) -> Path:
    """Write a folder as PEFT 0.2 did: thirteen fields and a pickle."""
    folder.mkdir()
    written = {
        "base_model_name_or_path": None,
        "bias": "none",
        "enable_lora": [True, False, True],
        "fan_in_fan_out": True,
        "inference_mode": True,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "merge_weights": False,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["c_attn"],
        "task_type": "CAUSAL_LM",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written))
    stem = f"base_model.model.{MODULE}"
    weights = {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    torch.save(weights, folder / "adapter_model.bin")
    return folder


@pytest.mark.parametrize(
    ("enabled", "groups"),
    [
        ([True, False, True], 2),
        ([True, True, True], 2),
        ([True, True, True], 3),
        ([False, True, False], 2),
        ([False, True, True], 1),
    ],
)
def test_against_the_grouped_convolution(
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    enabled: list[bool],
    groups: int,
) -> None:
    """A Conv1D's qkv changes by what torch's grouped convolution of A with B gives, padded."""
    rank, count = 4, sum(enabled)
    generator = torch.Generator().manual_seed(3)
    a = torch.randn((rank * count, 32), generator=generator) * 0.2
    b = torch.randn((32 * count, rank * count // groups, 1), generator=generator) * 0.2
    delta = functional.conv1d(a.double()[None], b.double(), groups=groups)[0] * (16 / rank)
    rows = torch.tensor(enabled).repeat_interleave(32)
    padded = torch.zeros((96, 32), dtype=torch.float64)
    padded[rows] = delta
    folder = save(tmp_path / "old", a, b, enable_lora=enabled)

    added = check(
        folder, bases("gpt2"), {f"{MODULE}.weight": padded.T.numpy()}, convert_pickle=True
    )

    assert f"({count} of 3 blocks)" in str(added.converted)
    assert rank * count == added.rank


def test_a_linear_layer(
    tmp_path: Path, bases: Callable[[str], Path], check: Callable[..., Any]
) -> None:
    """On a Linear, whatever fan_in_fan_out says, the rows of the weight change."""
    module = "model.layers.0.mlp.up_proj"  # 48 rows: three blocks of 16
    generator = torch.Generator().manual_seed(4)
    a = torch.randn((8, 32), generator=generator) * 0.2
    b = torch.randn((32, 4, 1), generator=generator) * 0.2
    folder = save(tmp_path / "old", a, b, target_modules=["up_proj"], fan_in_fan_out=False)
    path = folder / "adapter_model.bin"
    weights = torch.load(path, weights_only=True)
    torch.save({key.replace(MODULE, module): value for key, value in weights.items()}, path)
    delta = functional.conv1d(a.double()[None], b.double(), groups=2)[0] * 4
    padded = torch.zeros((48, 32), dtype=torch.float64)
    padded[:16], padded[32:] = delta[:16], delta[16:]

    check(folder, bases("llama"), {f"{module}.weight": padded.numpy()}, convert_pickle=True)


@pytest.mark.parametrize(
    ("a", "b", "config", "words"),
    [
        ((8, 32), (64, 8), {}, "is no merged linear layer"),
        ((6, 32), (64, 3, 1), {}, "8 rows by its configuration"),
        ((8, 32), (63, 4, 1), {}, "groups that do not divide"),
        ((8, 32), (64, 4, 1), {"enable_lora": [False, False]}, "not blocks to train"),
        ((8, 32), (64, 4, 1), {"r": "4"}, "r is '4', not a number"),
    ],
)
def test_refusals(
    *,
    home: Path,
    tmp_path: Path,
    a: tuple[int, ...],
    b: tuple[int, ...],
    config: dict[str, Any],
    words: str,
) -> None:
    """Shapes and settings that are not those of such layers are refused in words."""
    folder = save(tmp_path / "old", torch.ones(a), torch.ones(b), **config)

    with pytest.raises(AdapterRefused, match=words):
        Registry().add(folder, convert_pickle=True)

    assert not [path for path in home.rglob("*") if path.is_file()]


def test_its_pickle_is_not_read_unasked(home: Path, tmp_path: Path) -> None:
    """Without --convert-pickle the pickle stays closed, and the flag is advised."""
    del home
    folder = save(tmp_path / "old", torch.ones((8, 32)), torch.ones((64, 4, 1)))

    with pytest.raises(PickleRefused) as refused:
        Registry().add(folder)

    assert "--convert-pickle" in refused.value.hint
