"""PEFT folders with adapter_model.bin are read when the user says so, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import AdapterRefused, InputRefused, PickleRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def saved(tmp_path: Path, bases: Callable[[str], Path]) -> Path:
    """A LoRA as PEFT saves it now."""
    return factory.make_adapter(bases("llama"), tmp_path / "saved")


def pickled(saved: Path, folder: Path, *, is_raw: bool = False) -> Path:
    """Return a copy with a pickle for its weights, ``.default`` left in if ``is_raw``."""
    shutil.copytree(saved, folder)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    if is_raw:
        tensors = {
            key.replace(".weight", ".default.weight"): torch.nn.Parameter(value)
            for key, value in tensors.items()
        }
    torch.save(tensors, folder / "adapter_model.bin")
    return folder


@pytest.mark.parametrize("is_raw", [False, True])
def test_merges_as_the_safetensors(
    home: Path, tmp_path: Path, bases: Callable[[str], Path], saved: Path, is_raw: bool
) -> None:
    """The pickle of a save, and a raw dump of parameters, merge to the same bytes as PEFT's."""
    del home
    base = str(bases("llama"))
    folder = pickled(saved, tmp_path / "pickled", is_raw=is_raw)
    config = (folder / "adapter_config.json").read_bytes()

    added = Registry().add(folder, convert_pickle=True, base=base)

    assert "the pickle adapter_model.bin" == added.converted
    Registry().export(added.reference, tmp_path / "out")
    assert config == (tmp_path / "out/adapter_config.json").read_bytes()
    outputs = []
    for number, reference in enumerate((added.reference, str(saved))):
        output = tmp_path / f"merged-{number}"
        Registry().merge(Recipe((RecipeAdapter(reference),), base=base), output=output)
        outputs.append((output / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1]


def test_never_unasked(home: Path, tmp_path: Path, saved: Path) -> None:
    """Without the flag the pickle is refused, the flag is advised, and nothing is recorded."""
    folder = pickled(saved, tmp_path / "pickled")

    with pytest.raises(PickleRefused) as refused:
        Registry().add(folder)

    assert "only there as a pickle" in refused.value.sentence
    assert "--convert-pickle" in refused.value.hint
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("content", [{}, b"", b"\x80", "pointer"])
def test_empty_and_broken_files(
    home: Path, tmp_path: Path, saved: Path, content: dict[str, int] | bytes | str
) -> None:
    """A dict of nothing, as old alpaca-lora saved, and a cut file are errors in words."""
    del home
    folder = pickled(saved, tmp_path / "pickled")
    path = folder / "adapter_model.bin"
    if isinstance(content, dict):
        torch.save(content, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")

    with pytest.raises(InputRefused) as refused:
        Registry().add(folder, convert_pickle=True)

    assert refused.value.hint
    assert "\n" not in refused.value.sentence


def test_code_is_not_run(home: Path, tmp_path: Path, saved: Path) -> None:
    """A pickle that would run a command is refused, and the command is not run."""
    del home
    folder = pickled(saved, tmp_path / "pickled")
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (touched,)

    torch.save({"a": Evil()}, folder / "adapter_model.bin")

    with pytest.raises(PickleRefused):
        Registry().add(folder, convert_pickle=True)

    assert not touched.exists()


def test_what_is_no_float(home: Path, tmp_path: Path, saved: Path) -> None:
    """Whole numbers among the tensors are refused by name; numbers beside them are remarked."""
    del home
    folder = pickled(saved, tmp_path / "pickled")
    path = folder / "adapter_model.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save({**tensors, "ids": torch.arange(3)}, path)
    with pytest.raises(AdapterRefused, match="the tensor 'ids' is I64, not a float type"):
        Registry().add(folder, convert_pickle=True)
    torch.save({**tensors, "epoch": 3}, path)

    added = Registry().add(folder, convert_pickle=True)

    assert ("left out of adapter_model.bin, as they are no tensors: epoch",) == added.remarks


def test_safetensors_is_taken_before_the_pickle(home: Path, tmp_path: Path, saved: Path) -> None:
    """Where both are there nothing is converted, and the pickle is left out as ever."""
    del home
    folder = pickled(saved, tmp_path / "pickled")
    shutil.copy(saved / WEIGHTS, folder)

    added = Registry().add(folder, convert_pickle=True)

    assert added.converted is None
    assert ("adapter_model.bin", "a pickle, which could run code") in added.left_out


def test_values_that_are_not_finite(home: Path, tmp_path: Path, saved: Path) -> None:
    """The ordinary checks hold after the conversion, and name the path that was given."""
    del home
    folder = pickled(saved, tmp_path / "pickled")
    path = folder / "adapter_model.bin"
    tensors = torch.load(path, weights_only=True)
    next(iter(tensors.values()))[0, 0] = np.nan
    torch.save(tensors, path)
    factory.edit_config(folder, r=7)

    with pytest.raises(AdapterRefused) as refused:
        Registry().add(folder, convert_pickle=True)

    assert folder == refused.value.path
    assert any("1 value that is not finite" in reason for reason in refused.value.reasons)
    assert any("rank 4 in its tensors and 7" in reason for reason in refused.value.reasons)
    assert 7 == json.loads((folder / "adapter_config.json").read_text())["r"]
