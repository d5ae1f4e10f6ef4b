"""Adapters cut to another rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import AdapterNotMade, NameRefused
from adreg.registry.ops.made_adapters import Wanted


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter of rank 6 with rsLoRA, a saved head and another rank in one module."""
    root = tmp_path_factory.mktemp("resize")
    base = factory.make_base(root / "base", "llama", dtype=torch.float32)
    factory.make_adapter(
        base,
        root / "adapter",
        r=6,
        use_rslora=True,
        rank_pattern={"layers.0.self_attn.v_proj": 2},
        modules_to_save=["lm_head"],
    )
    return root


def deltas(root: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Return the delta of each module that PEFT has for an adapter."""
    model: Any = factory.load_adapter(root / "base", folder)
    return {
        name: module.get_delta_weight("default").detach().double()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def test_to_a_rank(root: Path, home: Path, tmp_path: Path) -> None:
    """Each module is torch's best approximation of the rank; smaller ones keep theirs."""
    made = Registry(home).resize(str(root / "adapter"), Wanted(tmp_path / "out"), rank=3)

    before, after = deltas(root, root / "adapter"), deltas(root, tmp_path / "out")
    assert (3, 2) == (made.rank, made.rank_min)
    assert set(before) == set(after)
    for name, delta in before.items():
        u, singular, v = torch.linalg.svd(delta)
        best = u[:, :3] * singular[:3] @ v[:3]
        assert torch.allclose(best, after[name], atol=1e-4)
    assert made.worst is not None
    assert made.worst.name != "model.layers.0.self_attn.v_proj"
    total = sum(float(d.norm()) ** 2 for d in before.values()) ** 0.5
    missing = sum(float((before[n] - after[n]).norm()) ** 2 for n in before) ** 0.5
    assert made.error == pytest.approx(missing / total, rel=1e-4)


def test_by_energy(root: Path, home: Path, tmp_path: Path) -> None:
    """Each module gets the smallest rank with that share of its squared norm."""
    made = Registry(home).resize(str(root / "adapter"), Wanted(tmp_path / "out"), energy=0.9)

    before = deltas(root, root / "adapter")
    for one in made.modules:
        squares = torch.linalg.svdvals(before[f"base_model.model.{one.name}"]) ** 2
        shares = torch.cumsum(squares, 0) / squares.sum()
        assert int((shares >= 0.9).double().argmax()) + 1 == one.rank
        assert one.relative is not None
        assert one.relative <= 0.1**0.5
    assert made.rank > made.rank_min


def test_a_whole_head_stays(root: Path, home: Path, tmp_path: Path) -> None:
    """What is saved whole is in the smaller adapter as it was."""
    Registry(home).resize(str(root / "adapter"), Wanted(tmp_path / "out"), rank=1)

    before, after = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (root / "adapter", tmp_path / "out")
    )
    key = "base_model.model.lm_head.weight"
    assert torch.equal(before[key], after[key])
    assert set(before) == set(after)


def test_refusals(root: Path, home: Path, tmp_path: Path) -> None:
    """Neither rank nor energy, impossible ones, and a weight are refused."""
    registry, wanted = Registry(home), Wanted(tmp_path / "out")
    folder = str(root / "adapter")

    with pytest.raises(AdapterNotMade, match="neither a rank nor an energy"):
        registry.resize(folder, wanted)
    with pytest.raises(AdapterNotMade, match="the rank 0 is not 1 or more"):
        registry.resize(folder, wanted, rank=0)
    with pytest.raises(AdapterNotMade, match=r"the energy 1.5 is not above 0"):
        registry.resize(folder, wanted, energy=1.5)
    with pytest.raises(NameRefused, match="a weight means nothing here"):
        registry.resize(f"{folder}=0.5", wanted, rank=2)
    assert not (tmp_path / "out").exists()
