"""A foreign adapter comes in as a PEFT folder: once, wholly, and without a trace when refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.adapters.foreign.form import gathered, transposed
from adreg.registry.errors import AdapterRefused, Incompatible
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.header import read_header

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in float32."""
    return factory.make_base(tmp_path_factory.mktemp("bases") / "llama", dtype=torch.float32)


def factors(seed: int = 1, width: int = 32) -> dict[str, Any]:
    """Return mlx-lm's factors of two modules, of ranks 4 and 2."""
    draw = np.random.default_rng(seed)
    shapes = {Q: (width, 4, 32), DOWN: (48, 2, 32)}
    return {
        f"{module}.lora_{part}": draw.standard_normal(shape).astype(np.float32)
        for module, (wide, rank, out) in shapes.items()
        for part, shape in (("a", (wide, rank)), ("b", (rank, out)))
    }


@pytest.fixture
def mlx(tmp_path: Path) -> Path:
    """An mlx-lm folder with a card, a tokenizer and code beside."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 3.0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(factors(), folder / "adapters.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "train.py").write_text("raise SystemExit")
    return folder


def files_of(home: Path) -> list[Path]:
    """Return all files below a home that are not the catalog's."""
    return [path for path in (home / "store").rglob("*") if path.is_file()]


def test_what_is_recorded(home: Path, tmp_path: Path, mlx: Path, base: Path) -> None:
    """Source and name are the original's, its card and tokenizer come along, history says how."""
    added = Registry().add(mlx, base=str(base))
    entry = Registry().history(added.name).entries[0]
    shown = Registry().show(added.reference).version

    assert ("tuned", "an mlx-lm LoRA", mlx) == (added.name, added.converted, added.path)
    assert (("train.py", "code"),) == added.left_out
    assert str(mlx) == shown.sources[0].location
    assert "mit" == shown.content.licence
    assert ("an mlx-lm LoRA", str(mlx)) == (entry.detail["converted"], entry.detail["source"])
    Registry().export(added.reference, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    } <= names
    assert not list((home / "store").rglob("*converted*"))


def test_peft_reads_what_was_written(home: Path, tmp_path: Path, mlx: Path, base: Path) -> None:
    """PEFT itself folds the written folder to the same weights, ranks and alphas by pattern."""
    del home
    added = Registry().add(mlx, base=str(base))
    Registry().export(added.reference, tmp_path / "out")
    model = factory.load_adapter(base, tmp_path / "out").merge_and_unload()
    before = dict(factory.load_base(base).named_parameters())
    tensors = factors()

    after = dict(model.named_parameters())

    for module in (Q, DOWN):
        a, b = (tensors[f"{module}.lora_{part}"].astype(np.float64) for part in "ab")
        delta = (after[f"{module}.weight"] - before[f"{module}.weight"]).detach().numpy()
        np.testing.assert_allclose(delta, 3.0 * (a @ b).T, atol=1e-5)


def test_twice_is_known(home: Path, mlx: Path, tmp_path: Path) -> None:
    """The same adapter again, from another folder and under a dry run, is already there."""
    first = Registry().add(mlx)
    copy = shutil.copytree(mlx, tmp_path / "copy")
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    again, dry = Registry().add(copy), Registry().add(mlx, dry_run=True)

    assert (first.digest, False) == (again.digest, again.new)
    assert (first.digest, False) == (dry.digest, dry.new)
    assert first.key == again.key == dry.key
    (home / "store/models--adreg/blobs").chmod(0o755)
    damaged = next(p for p in files_of(home) if p.read_bytes()[8:9] == b"{")
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged")
    assert Registry().add(mlx).repaired


def test_a_dry_run_writes_nothing(
    home: Path, mlx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home stays empty, the system's temporary folder too, and all checks are made."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    added = Registry().add(mlx, dry_run=True)

    assert (True, None, 4) == (added.new, added.key, added.rank)
    assert not list(home.iterdir())
    assert not list(temporary.iterdir())


def test_nothing_is_left_behind(home: Path, mlx: Path, base: Path) -> None:
    """A base that it does not fit, or a value that is not finite, leaves no file."""
    save_file(factors(width=16), mlx / "adapters.safetensors")
    with pytest.raises(Incompatible, match=str(mlx)):
        Registry().add(mlx, base=str(base))
    tensors = factors()
    tensors[f"{Q}.lora_b"][0, 0] = np.inf
    save_file(tensors, mlx / "adapters.safetensors")
    with pytest.raises(AdapterRefused, match="not finite") as refused:
        Registry().add(mlx)

    assert mlx == refused.value.path
    assert not files_of(home)


def test_a_killed_conversion_is_cleared(home: Path, mlx: Path) -> None:
    """What a killed process had converted goes with the next add."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from adreg.registry import Registry\n"
        "from adreg.registry.ops import intake\n"
        "def killed(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)\n"
        "intake.look_at = killed\n"
        "Registry().add(Path(sys.argv[1]))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(mlx)], check=False)
    assert -signal.SIGKILL == ran.returncode
    assert list((home / "store").rglob("adapter_model.safetensors"))

    Registry().add(mlx)

    assert not list((home / "store").rglob("*converted*"))


def test_a_tree_with_foreign_folders(home: Path, mlx: Path, base: Path, tmp_path: Path) -> None:
    """Below a tree foreign folders are converted too, pickles only when it is said."""
    del home
    pickled = factory.make_adapter(base, tmp_path / "pickled")
    tensors = load_file(pickled / "adapter_model.safetensors")
    torch.save(tensors, pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    other = shutil.copytree(mlx, tmp_path / "full")
    factory.edit_config(other, fine_tune_type="full")

    done = Registry().add_tree(tmp_path)

    assert ["an mlx-lm LoRA"] == [one.converted for one in done.added]
    assert ["AdapterRefused", "PickleRefused"] == [one.error for one in done.refused]
    assert all(one.hint for one in done.refused)
    again = Registry().add_tree(tmp_path, convert_pickle=True)
    assert ["the pickle adapter_model.bin"] == [one.converted for one in again.added]


@pytest.mark.parametrize("wish", [{"alpha": 4.0}, {"component": "unet"}])
def test_wishes_that_mean_nothing(
    home: Path, base: Path, tmp_path: Path, wish: dict[str, Any]
) -> None:
    """Alpha and component of an ordinary PEFT folder are refused, not ignored."""
    del home
    adapter = factory.make_adapter(base, tmp_path / "peft")

    words = f"--{next(iter(wish))} cannot be used here"

    with pytest.raises(AdapterRefused, match=words):
        Registry().add(adapter, **wish)
    tensors = load_file(adapter / "adapter_model.safetensors")
    torch.save(tensors, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterRefused, match=words):
        Registry().add(adapter, convert_pickle=True, **wish)


def test_links_out_of_the_folder(home: Path, mlx: Path, tmp_path: Path) -> None:
    """Weights that are a link to somewhere else are refused, as for PEFT's own."""
    del home
    (mlx / "adapters.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (mlx / "adapters.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")

    with pytest.raises(AdapterRefused, match="is a link out of its folder"):
        Registry().add(mlx)


def test_large_tensors_are_turned_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transpose and a gathering of rows are the same whether held whole or read in bands."""
    monkeypatch.setattr("adreg.registry.adapters.foreign.form._HELD", 100)
    monkeypatch.setattr("adreg.registry.adapters.foreign.form._PIECE", 64)
    array = np.arange(37 * 11, dtype=np.float32).reshape(37, 11)
    save_file({"x": array}, tmp_path / "x.safetensors")
    file = read_header(tmp_path / "x.safetensors")
    order = np.random.default_rng(0).permutation(37)

    with TensorReader() as reader:
        turned = np.concatenate(list(transposed(file, file.tensors[0]).blocks(reader)))
        moved = np.concatenate(list(gathered(file, file.tensors[0], order).blocks(reader)))

    assert np.array_equal(array.T.reshape(-1), turned)
    assert np.array_equal(array[order].reshape(-1), moved)
