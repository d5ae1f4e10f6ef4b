"""``adreg add`` of what PEFT did not write: what it says, and what it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import Adreg
from safetensors.numpy import save_file

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A loralib state dict."""
    path = tmp_path / "style.safetensors"
    draw = np.random.default_rng(1)
    factors: dict[str, Any] = {
        f"{Q}.lora_A": draw.standard_normal((4, 32)).astype(np.float32),
        f"{Q}.lora_B": draw.standard_normal((32, 4)).astype(np.float32),
    }
    save_file(factors, path)
    return path


def test_what_it_says(adreg: Adreg, state: Path) -> None:
    """The line names what was converted; a second time it is known."""
    ran = adreg("add", str(state), "--alpha", "8")
    again = adreg("add", str(state), "--alpha", "8")

    assert (0, "") == (ran.code, ran.err)
    assert (
        "added style@1: LORA rank 4, 256 parameters, 1.7 kB, converted from a loralib state dict\n"
        == ran.out
    )
    assert (
        f"{state}, converted from a loralib state dict, is known already, as style@1\n" == again.out
    )


def test_json_and_dry_run(adreg: Adreg, state: Path) -> None:
    """--json holds what it was; a dry run converts, and records nothing."""
    ran = adreg("add", str(state), "--alpha", "8", "--dry-run", "--json")

    assert "a loralib state dict" == json.loads(ran.out)["converted"]
    assert 0 == json.loads(adreg("list", "--json").out)["total"]


def test_what_it_asks_for(adreg: Adreg, state: Path, tmp_path: Path) -> None:
    """A missing alpha and an unasked pickle are one line of what and one of what to do."""
    ran = adreg("add", str(state))
    pickle = tmp_path / "style.pt"
    torch.save({"a.lora_A": torch.ones(2, 2), "a.lora_B": torch.ones(2, 2)}, pickle)
    refused = adreg("add", str(pickle), "--alpha", "4")

    assert 1 == ran.code == refused.code
    assert "--alpha" in ran.err.splitlines()[1]
    assert "--convert-pickle" in refused.err.splitlines()[1]
    assert 2 == len(ran.err.splitlines()) == len(refused.err.splitlines())
    assert 0 == adreg("add", str(pickle), "--alpha", "4", "--convert-pickle").code


def test_usage(adreg: Adreg, tmp_path: Path) -> None:
    """Alpha and component are for one adapter, and alpha is a number."""
    assert 2 == adreg("add", str(tmp_path), "--recursive", "--alpha", "4").code
    assert 2 == adreg("add", str(tmp_path), "--alpha", "much").code
    ran = adreg("add", "--help")
    for word in ("--convert-pickle", "--alpha", "--component", "mlx-lm", "GGUF"):
        assert word in ran.out
