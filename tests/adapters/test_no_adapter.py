"""Folders that hold no adapter, or one in another form, are refused with what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.errors import NotAnAdapter, PickleRefused


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is said to be so."""
    with pytest.raises(NotAnAdapter, match="there is no such folder"):
        read_adapter(tmp_path / "nothing")


def test_file_instead_of_folder(adapter: Path) -> None:
    """A file of the adapter is answered with its folder."""
    with pytest.raises(NotAnAdapter, match="it is a file, not a folder") as caught:
        read_adapter(adapter / "adapter_config.json")
    assert str(adapter) in caught.value.hint


def test_gguf_file(tmp_path: Path) -> None:
    """A GGUF adapter is called by its name."""
    (tmp_path / "lora.gguf").write_bytes(b"GGUF")

    with pytest.raises(NotAnAdapter) as caught:
        read_adapter(tmp_path / "lora.gguf")
    assert "adreg add FILE --base BASE" in caught.value.hint


def test_empty_folder(tmp_path: Path) -> None:
    """An empty folder is called empty."""
    with pytest.raises(NotAnAdapter, match="the folder is empty"):
        read_adapter(tmp_path)


def test_adapters_below(adapter: Path) -> None:
    """A training output without an adapter on top names the checkpoints that hold one."""
    root = adapter.parent / "output"
    for step in (100, 200):
        shutil.copytree(adapter, root / f"checkpoint-{step}")

    with pytest.raises(NotAnAdapter, match="but folders in it do") as caught:
        read_adapter(root)
    assert str(root / "checkpoint-100") in caught.value.hint
    assert "--recursive" in caught.value.hint


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_full_model(tmp_path: Path, name: str) -> None:
    """A full checkpoint is called one."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"")

    with pytest.raises(NotAnAdapter, match="a full model, not an adapter") as caught:
        read_adapter(tmp_path)
    assert "--base" in caught.value.hint


def test_weights_without_configuration(adapter: Path) -> None:
    """Weights alone lack rank and alpha."""
    (adapter / "adapter_config.json").unlink()

    with pytest.raises(NotAnAdapter, match="it holds weights but no adapter_config"):
        read_adapter(adapter)


def test_configuration_without_weights(adapter: Path) -> None:
    """A configuration alone is no adapter."""
    (adapter / "adapter_model.safetensors").unlink()

    with pytest.raises(NotAnAdapter, match=r"but no adapter_model\.safetensors"):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("name", "words"),
    [("adapters.safetensors", "mlx-lm"), ("adapter_model-00001-of-00002.safetensors", "several")],
)
def test_other_weights(adapter: Path, name: str, words: str) -> None:
    """Weights under another tool's name are called by that tool."""
    (adapter / "adapter_model.safetensors").rename(adapter / name)

    with pytest.raises(NotAnAdapter) as caught:
        read_adapter(adapter)
    assert words in caught.value.hint


def test_mlx_configuration(adapter: Path) -> None:
    """An mlx-lm configuration is told from PEFT's."""
    (adapter / "adapter_config.json").write_text('{"fine_tune_type": "lora"}')

    with pytest.raises(NotAnAdapter, match="an mlx-lm adapter"):
        read_adapter(adapter)


def test_pickle_only(adapter: Path) -> None:
    """A pickle is never opened: this one would write a file."""
    (adapter / "adapter_model.safetensors").unlink()
    trap = adapter / "trap"
    (adapter / "adapter_model.bin").write_bytes(
        b"cbuiltins\nopen\n(V" + str(trap).encode() + b"\nVw\ntR."
    )

    with pytest.raises(PickleRefused, match="only there as a pickle") as caught:
        read_adapter(adapter)
    assert "adreg add FOLDER --convert-pickle" in caught.value.hint
    assert not trap.exists()


def test_pickle_beside(adapter: Path) -> None:
    """A pickle beside safetensors is left out, as PEFT does, and named."""
    (adapter / "adapter_model.bin").write_bytes(b"\x80")

    spec = read_adapter(adapter)

    assert ("adapter_model.bin", "a pickle, which could run code") in spec.left_out


def test_configuration_is_a_directory(adapter: Path) -> None:
    """A folder with the configuration's name is not one."""
    (adapter / "adapter_config.json").unlink()
    (adapter / "adapter_config.json").mkdir()

    with pytest.raises(NotAnAdapter, match=r"no adapter_config\.json"):
        read_adapter(adapter)
