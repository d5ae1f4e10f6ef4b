"""The worst error that a merge reports, of every way to change a tensor, against float64."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import factory
import numpy as np
import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.placement import Kind
from adreg.registry.merge import tensor
from adreg.registry.merge.deltas import through_peft
from adreg.registry.merge.deltas.through_peft import PeftModules
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.make import make_combination
from adreg.registry.merge.methods.method import METHODS, Method
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.merge.report import REPORT, TensorReport
from adreg.registry.merge.terms import Module
from adreg.registry.tensors.arrays import TensorReader

Tensors = dict[str, torch.Tensor]
SIGNIFICANT = {torch.bfloat16: 7, torch.float32: 23}


def worst(written: torch.Tensor, exact: torch.Tensor, base: torch.Tensor) -> float:
    """Return the largest error over sampled rows, in units in the last place."""
    chosen = sorted({(len(exact) - 1) * n // 3 for n in range(4)})
    larger = torch.maximum(exact.abs(), base.abs()).to(written.dtype).double()
    exponent = (torch.frexp(larger).exponent - 1).clamp(min=-126) - SIGNIFICANT[written.dtype]
    unit = torch.ldexp(torch.ones_like(larger), exponent)
    return float(((written.double() - exact).abs() / unit)[chosen].max())


def merge(home: Path, recipe: Recipe) -> tuple[dict[str, TensorReport], Tensors]:
    """Merge; return the report of each tensor, and what was written."""
    merged = Registry(home).merge(recipe, name="mix")
    return {one.name: one for one in merged.report}, load_file(merged.folder / "model.safetensors")


def by_peft(base: Path, adapter: Path) -> Tensors:
    """Return PEFT's merge in float64."""
    model: Any = factory.load_adapter(base, adapter, dtype=torch.float32).double()
    return dict(model.merge_and_unload(safe_merge=True).state_dict())


def check(report: dict[str, TensorReport], written: Tensors, base: Path, exact: Tensors) -> None:
    """Hold that each figure is the error of the written tensor, and that of float32 sums."""
    before = load_file(base / "model.safetensors")
    assert report
    for name, one in report.items():
        w = before.get(name, torch.zeros_like(exact[name])).double()
        error = worst(written[name], exact[name].double(), w)
        assert one.worst_ulps == pytest.approx(error, abs=0.003), name
        assert one.unmeasured is None
        assert error <= 0.5 + (0.003 if written[name].dtype == torch.bfloat16 else 64), name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base in bfloat16, a LoRA and a DoRA on it."""
    root = tmp_path_factory.mktemp("exact")
    base = factory.make_base(root / "base")
    first = factory.make_adapter(base, root / "first", seed=1)
    return base, first, factory.make_adapter(base, root / "second", seed=2, use_dora=True)


PARAMETERS: dict[str, Any] = {"density": 0.6, "epsilon": 0.2, "gamma": 0.05}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", METHODS)
def test_methods(home: Path, folders: tuple[Path, Path, Path], name: str, dtype: str) -> None:
    """The figure of a method is the distance from the method itself on PEFT's float64 deltas."""
    base, *adapters = folders
    takes = METHODS[name].parameters
    given = {key: value for key, value in PARAMETERS.items() if key in takes}
    inputs = tuple(
        RecipeAdapter(str(one), weight) for one, weight in zip(adapters, (0.7, 0.6), strict=True)
    )

    report, written = merge(
        home, Recipe(inputs, str(base), method=name, parameters=given, dtype=dtype)
    )

    before = load_file(base / "model.safetensors")
    states = [by_peft(base, folder) for folder in adapters]
    exact = {}
    for one in report:
        w = before[one].double().numpy()
        deltas = [state[one].double().numpy() - w for state in states]
        exact[one] = torch.from_numpy(w + combined(Method(name, **given), one, w, deltas))
    check(report, written, base, exact)


def combined(method: Method, name: str, w: Any, deltas: list[Any]) -> Any:
    """Return a method's outcome in float64, the tensor being one tile."""
    whole = Tile(0, w.shape[0], 0, w.shape[1])
    one = make_combination(method, name, w.shape[0], w.shape[1], (0.7, 0.6), np.float64)
    while one.passes_left:
        one.take(whole, one.look(w, deltas, whole))
        one.close_pass()
    return one.combine(w, deltas, whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("kind", "targets"), [("gpt2", ["c_attn", "c_proj"]), ("llama", ["embed_tokens", "q_proj"])]
)
def test_norms_of_columns(
    tmp_path: Path, home: Path, kind: str, targets: list[str], dtype: str
) -> None:
    """DoRA of Conv1D and embeddings, whose norms are of columns, has its true figure too."""
    base = factory.make_base(tmp_path / "base", kind)
    dora = factory.make_adapter(base, tmp_path / "dora", use_dora=True, target_modules=targets)

    report, written = merge(home, Recipe((RecipeAdapter(str(dora)),), str(base), dtype=dtype))

    state = by_peft(base, dora)
    exact = {name: state.get(name, state.get(f"transformer.{name}")) for name in report}
    check(report, written, base, {n: t for n, t in exact.items() if t is not None})


KINDS: dict[str, dict[str, Any]] = {
    "BOFT": {"boft_block_size": 4},
    "GRALORA": {"r": 8},
    "OFT": {"oft_block_size": 8},
    "RANDLORA": {"r": 4},
    "VERA": {"r": 8},
    "VBLORA": {"r": 2, "num_vectors": 8, "vector_length": 16},
}


def trained(base: Path, out: Path, kind: str, **settings: Any) -> Path:
    """Save an adapter of a kind, moved away from where it starts."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(5)
        make: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
        config = make(target_modules=["q_proj", "down_proj"], **settings)
        model: Any = peft.get_peft_model(factory.load_base(base, torch.float32), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.05
        model.save_pretrained(str(out))
    return out


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_modules_through_peft(tmp_path: Path, home: Path, kind: str, dtype: str) -> None:
    """What PEFT's layer merges has the distance from PEFT's own merge in float64."""
    base = factory.make_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = trained(base, tmp_path / "adapter", kind, **KINDS[kind])

    report, written = merge(home, Recipe((RecipeAdapter(str(adapter)),), str(base), dtype=dtype))

    check(report, written, base, by_peft(base, adapter))


def test_what_stands_in_for_weights(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """In float64 too the modules whose turn it is not take no memory."""
    base = folders[0]
    spec = read_adapter(trained(base, tmp_path / "adapter", "VERA", r=8))
    shapes = {name: tuple(w.shape) for name, w in load_file(base / "model.safetensors").items()}
    names = [tensor.module for tensor in spec.tensors if tensor.module]
    modules = {name: Module(name, "weight", Kind.LINEAR, f"{name}.weight", None) for name in names}
    reading = TensorReader()
    read = {name: np.ones(shape) for name, shape in shapes.items()}.__getitem__
    with reading:
        peft_modules = PeftModules(
            {0: spec}, {0: modules}, shapes, reading, read, np.dtype(np.float64)
        )
        peft_modules.compute(0, modules[names[0]])

    model = peft_modules._shared[0]
    weights = [p for n, p in model.named_parameters() if n.endswith("base_layer.weight")]
    assert len(weights) == len(modules) > 2
    assert {8} == {weight.untyped_storage().nbytes() for weight in weights}


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_what_was_taken_away(
    tmp_path: Path, home: Path, folders: tuple[Path, Path, Path], kind: str
) -> None:
    """PiSSA and OLoRA are summed in float64 again, from the same float64 decomposition."""
    base = folders[0]
    adapter = trained(base, tmp_path / "adapter", "LORA", r=4, init_lora_weights=kind)

    report, written = merge(
        home, Recipe((RecipeAdapter(str(adapter)),), str(base), dtype="float32")
    )

    w, state = (
        load_file(base / "model.safetensors"),
        load_file(adapter / "adapter_model.safetensors"),
    )
    exact = {}
    for name in report:
        a, b = (
            state[f"base_model.model.{name.removesuffix('.weight')}.lora_{one}.weight"].double()
            for one in "AB"
        )
        wide = w[name].double()
        if kind == "pissa":
            u, s, v = torch.linalg.svd(wide, full_matrices=False)
            part = (u[:, :4] * s[:4]) @ v[:4]
        else:
            q, r = torch.linalg.qr(wide)
            part = 2 * q[:, :4] @ r[:4]  # lora_alpha is 8
        exact[name] = wide - part + 2 * b @ a
    check(report, written, base, exact)


def test_what_the_base_lacks(tmp_path: Path, home: Path) -> None:
    """A head that the adapter brings is measured as well: it is rounded once."""
    base = factory.make_base(tmp_path / "base", "bert")
    adapter = factory.make_adapter(
        base, tmp_path / "adapter", task_type="SEQ_CLS", modules_to_save=["classifier"]
    )

    report, written = merge(home, Recipe((RecipeAdapter(str(adapter)),), str(base)))

    heads = {name: one for name, one in report.items() if name.startswith("classifier.")}
    saved = load_file(adapter / "adapter_model.safetensors")
    exact = {name: saved[f"base_model.model.{name}"] for name in heads}
    assert {"classifier.weight", "classifier.bias"} == set(heads)
    check(heads, written, base, exact)


def test_a_module_that_is_too_large(
    tmp_path: Path, home: Path, folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of PEFT's that is not merged twice has no figure, and the report says why."""
    monkeypatch.setattr(through_peft, "REPEATED", 1 << 10)
    base = folders[0]
    adapter = trained(base, tmp_path / "adapter", "OFT", oft_block_size=8)

    merged = Registry(home).merge(Recipe((RecipeAdapter(str(adapter)),), str(base)), name="mix")

    said = "PEFT's OFT is computed again of 0 Mi elements at most"
    by_name = {one.name: one for one in merged.report}
    large = {name: one for name, one in by_name.items() if "down_proj" in name}
    assert large
    for name, one in by_name.items():
        assert (one.worst_ulps is None, one.unmeasured) == (
            (True, said) if name in large else (False, None)
        )
    told = json.loads((merged.folder / REPORT).read_text())
    assert {said} == {one["unmeasured"] for one in told["tensors"] if one["worst_ulps"] is None}


def test_threads_change_no_figure(
    tmp_path: Path, folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread and five tell the same figures to the last bit, of norms of columns too."""
    base, *adapters = folders
    more = factory.make_adapter(
        base, tmp_path / "more", use_dora=True, target_modules=["embed_tokens"]
    )
    inputs = tuple(RecipeAdapter(str(one)) for one in (*adapters, more))
    given = {"density": 0.5}
    recipe = Recipe(inputs, str(base), method="della", parameters=given, dtype="float32")
    monkeypatch.setattr(tensor, "_BLOCK", 512)  # so that a tensor has many blocks

    reports = []
    for count in (1, 5):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        reports.append(merge(tmp_path / str(count), recipe)[0])

    assert reports[0] == reports[1]
    assert any(name.endswith("embed_tokens.weight") for name in reports[0])
