"""Formats that are known and not read are refused by name, with what to do instead."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adreg.registry import Registry
from adreg.registry.errors import AdregError, NotAnAdapter


def refusal(path: Path) -> AdregError:
    """Return the error of adding a path."""
    with pytest.raises(AdregError) as refused:
        Registry().add(path)
    assert refused.value.hint
    return refused.value


@pytest.fixture(autouse=True)
def _home(home: Path) -> Path:
    return home


def test_ggla(tmp_path: Path) -> None:
    """The ggml LoRAs of old llama.cpp."""
    path = tmp_path / "ggml-adapter-model.bin"
    path.write_bytes(b"algg" + bytes(64))

    assert "a ggla LoRA of llama.cpp" in refusal(path).sentence


@pytest.mark.parametrize("name", ["lora.nemo", "lora.tar"])
def test_nemo(tmp_path: Path, name: str) -> None:
    """NeMo's archives, by their ending or by what is in them, alone or in a folder."""
    path = tmp_path / name
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("./model_config.yaml")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"a: 1"))

    assert "a NeMo adapter" in refusal(path).sentence
    if path.suffix == ".nemo":
        assert "a NeMo adapter" in refusal(tmp_path).sentence


def test_mistral_finetune(tmp_path: Path) -> None:
    """The names of Mistral's own checkpoints."""
    path = tmp_path / "lora.safetensors"
    one = np.ones((4, 4), np.float32)
    save_file(
        {
            "layers.0.attention.wq.lora_A.weight": one,
            "layers.0.attention.wq.lora_B.weight": one,
            "norm.weight": one[0],
        },
        path,
    )

    assert "a LoRA of mistral-finetune" in refusal(path).sentence


def test_bone(tmp_path: Path) -> None:
    """BONE, which PEFT took out, points at PEFT's own script."""
    config = {"peft_type": "BONE", "r": 8, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "adapter_model.safetensors")
    error = refusal(tmp_path)

    assert "which PEFT 0.19 replaced by MiSS" in error.sentence
    assert "convert-bone-to-miss.py" in error.hint


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors"])
def test_no_adapter_at_all(tmp_path: Path, name: str) -> None:
    """A file that is no adapter is refused by the ordinary door."""
    path = tmp_path / name
    if path.suffix == ".txt":
        path.write_text("hello")
    else:
        save_file({"lm_head.weight": np.ones((4, 4), np.float32)}, path)

    assert isinstance(refusal(path), NotAnAdapter)
