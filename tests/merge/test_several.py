"""Several adapters at once, against the formula in float64: W + sum of w (y - W)."""

from __future__ import annotations

from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

WEIGHTS = (0.7, -0.4, 1.3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, ...]]:
    """A base, and a LoRA, a DoRA and a LoRA with saved modules for it."""
    root = tmp_path_factory.mktemp("several")
    base = factory.make_base(root / "base", "llama")
    plain = factory.make_adapter(base, root / "plain", seed=1, target_modules="all-linear")
    dora = factory.make_adapter(
        base, root / "dora", seed=2, target_modules=["q_proj", "down_proj"], use_dora=True
    )
    saved = factory.make_adapter(
        base, root / "saved", seed=3, target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    return base, (plain, dora, saved)


def merged_files(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder by relative name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def recipe(base: Path, adapters: tuple[Path, ...], **more: object) -> Recipe:
    """Return the recipe of all adapters with their weights."""
    parts = [{"ref": str(a), "weight": w} for a, w in zip(adapters, WEIGHTS, strict=True)]
    return Recipe.from_dict({"base": str(base), "adapters": parts, **more})


def test_the_weighted_sum_of_deltas(
    tmp_path: Path, home: Path, folders: tuple[Path, tuple[Path, ...]]
) -> None:
    """Each tensor is W plus the weighted deltas that PEFT gives one by one, rounded once."""
    base, adapters = folders

    Registry(home).merge(recipe(base, adapters), output=tmp_path / "out", name="mix")

    ours = load_file(tmp_path / "out" / "model.safetensors")
    before = {name: t.double() for name, t in load_file(base / "model.safetensors").items()}
    exact = {name: t.clone() for name, t in before.items()}
    for adapter, weight in zip(adapters, WEIGHTS, strict=True):
        alone = factory.load_adapter(base, adapter, dtype=torch.float64).double()
        state = alone.merge_and_unload().state_dict()
        for name in exact:
            exact[name] += weight * (state[name] - before[name])
    differ = sum(int((ours[n] != exact[n].to(torch.bfloat16)).sum()) for n in exact)
    assert set(ours) == set(exact)
    assert differ <= 1e-3 * sum(t.numel() for t in exact.values())
    touched = [
        n for n in exact if not torch.equal(ours[n], load_file(base / "model.safetensors")[n])
    ]
    assert len(touched) == 15  # 7 linear modules in 2 layers, and the head


def test_threads_do_not_show(
    tmp_path: Path, home: Path, folders: tuple[Path, tuple[Path, ...]]
) -> None:
    """One, two and seven threads write the same files, byte for byte."""
    base, adapters = folders
    registry = Registry(home)
    outs = []
    for threads in (1, 2, 7):
        out = tmp_path / f"out{threads}"
        registry.merge(recipe(base, adapters), output=out, name="mix", threads=threads, force=True)
        outs.append(merged_files(out))

    assert outs[0] == outs[1] == outs[2]
    assert "model.safetensors" in outs[0]


def test_blocks_do_not_show_in_dora(tmp_path: Path, home: Path) -> None:
    """A tensor of many blocks, with norms over rows and over columns, is PEFT's float64 merge."""
    rows, columns, rank = 2048, 1536, 4
    random = np.random.default_rng(0)
    base = tmp_path / "base"
    factory.make_base(base, "llama", dtype=torch.float32)
    adapter = factory.make_adapter(
        base, tmp_path / "adapter", target_modules=["q_proj"], use_dora=True
    )
    name = "model.layers.0.self_attn.q_proj"
    w = torch.tensor(random.standard_normal((rows, columns)), dtype=torch.float32)
    a = torch.tensor(random.standard_normal((rank, columns)), dtype=torch.float32)
    b = torch.tensor(random.standard_normal((rows, rank)), dtype=torch.float32)
    m = torch.tensor(random.uniform(30, 50, rows), dtype=torch.float32)

    def put(tensors: dict[str, torch.Tensor]) -> None:
        key = f"base_model.model.{name}"
        tensors[f"{key}.lora_A.weight"] = a
        tensors[f"{key}.lora_B.weight"] = b
        tensors[f"{key}.lora_magnitude_vector"] = m

    factory.edit_tensors(adapter, put)
    factory.edit_tensors(base, lambda t: t.update({f"{name}.weight": w}), "model.safetensors")

    Registry(home).merge(
        Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=tmp_path / "out"
    )

    ours = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.weight"]
    direction = w.double() + 2.0 * b.double() @ a.double()  # alpha 8 over r 4
    exact = m.double()[:, None] * direction / direction.norm(dim=1, keepdim=True)
    assert torch.allclose(ours.double(), exact, rtol=3e-6, atol=3e-6)
