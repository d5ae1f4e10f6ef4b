"""What a merge reports of each tensor, against numbers computed here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from running import Adreg, Ran
from safetensors.torch import load_file

from adreg.cli.main import main
from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.merge.report import REPORT, TensorReport

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base in bfloat16, a small LoRA of which rounding loses much, and a DoRA."""
    root = tmp_path_factory.mktemp("report")
    base = factory.make_base(root / "base")
    small = factory.make_adapter(base, root / "small", seed=1)
    factory.edit_tensors(small, lambda t: [one.mul_(0.05) for one in t.values()])
    return base, small, factory.make_adapter(base, root / "dora", seed=2, use_dora=True)


def bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor's bits, which -0 and 0 differ in."""
    return tensor.contiguous().view(torch.uint8).reshape(*tensor.shape, -1).numpy()


def exact_deltas(base: Path, adapters: list[tuple[Path, float]]) -> Tensors:
    """Return the weighted sum of what PEFT makes of each adapter less W, in float64."""
    before = {n: t.double() for n, t in load_file(base / "model.safetensors").items()}
    total = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    for folder, weight in adapters:
        alone = factory.load_adapter(base, folder, dtype=torch.float64).double()
        state = alone.merge_and_unload().state_dict()
        for name, tensor in before.items():
            total[name] += weight * (state[name] - tensor)
    return total


def merge(
    home: Path, base: Path, adapters: list[tuple[Path, float]], **more: Any
) -> tuple[dict[str, TensorReport], dict[str, Any], Tensors]:
    """Merge; return the report of each tensor, the file's JSON, and what was written."""
    inputs = tuple(RecipeAdapter(str(folder), weight) for folder, weight in adapters)
    merged = Registry(home).merge(Recipe(inputs, str(base), **more), name="mix")
    told = json.loads((merged.folder / REPORT).read_text())
    assert merged.totals is not None
    assert told["totals"] == asdict(merged.totals)
    assert told["tensors"] == [asdict(one) for one in merged.report]
    written = load_file(merged.folder / "model.safetensors")
    return {one.name: one for one in merged.report}, told, written


CASES: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "float16": {"dtype": "float16"},
    "float32": {"dtype": "float32"},
    "float64 sums": {"precision": "float64"},
    "ties": {"method": "ties", "parameters": {"density": 1.0, "normalize": False}},
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_counted(home: Path, folders: tuple[Path, Path, Path], case: str) -> None:
    """Elements, changed, lost, and the norms of delta and W are those of the written tensors."""
    base, small, _ = folders

    report, told, written = merge(home, base, [(small, 0.7)], **CASES[case])

    deltas = exact_deltas(base, [(small, 0.7)])
    before = load_file(base / "model.safetensors")
    assert sorted(name for name, delta in deltas.items() if delta.any()) == sorted(report)
    for name, one in report.items():
        old = before[name].to(written[name].dtype)
        same = (bits(old) == bits(written[name])).all(axis=-1)
        assert one.action == "merge"
        assert one.elements == old.numel()
        assert one.changed == int((~same).sum())
        assert one.lost == int((same & (deltas[name] != 0).numpy()).sum())
        assert one.delta_norm == pytest.approx(float(deltas[name].norm()), rel=1e-5)
        assert one.base_norm == pytest.approx(float(before[name].double().norm()), rel=1e-5)
    assert told["method"] == CASES[case].get("method", "linear")
    assert told["precision"] == CASES[case].get("precision", "float32")
    assert told["parameters"] == CASES[case].get("parameters", {})


def test_totals(home: Path, folders: tuple[Path, Path, Path]) -> None:
    """Totals are sums of the tensors', roots of sums of squares, and the worst of the errors."""
    base, small, dora = folders

    report, told, _ = merge(home, base, [(small, 1.0), (dora, 0.5)])

    ones, total = list(report.values()), told["totals"]
    assert len(ones) == total["tensors"] > 0
    for key in ("elements", "changed", "lost"):
        assert sum(getattr(one, key) for one in ones) == total[key]
    for key in ("delta_norm", "base_norm"):
        squares = sum(getattr(one, key) ** 2 for one in ones)
        assert math.sqrt(squares) == pytest.approx(total[key], rel=1e-12)
    assert max(one.worst_ulps or 0.0 for one in ones) == total["worst_ulps"]


SIGNIFICANT = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
SMALLEST = {torch.bfloat16: -126, torch.float16: -14, torch.float32: -126}
"""Stored bits of the significand, and the exponent under which numbers are subnormal."""


def worst(written: torch.Tensor, exact: torch.Tensor, base: torch.Tensor) -> float:
    """Return the largest error in units in the last place, over sampled rows."""
    rows = len(exact)
    chosen = sorted({(rows - 1) * n // 3 for n in range(4)})
    larger = torch.maximum(exact.abs(), base.abs()).to(written.dtype).double()
    exponent = torch.frexp(larger).exponent - 1
    exponent = exponent.clamp(min=SMALLEST[written.dtype]) - SIGNIFICANT[written.dtype]
    unit = torch.ldexp(torch.ones_like(larger), exponent)
    return float(((written.double() - exact).abs() / unit)[chosen].max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("which", [1, 2], ids=["lora", "dora"])
def test_the_worst_error(
    home: Path, folders: tuple[Path, Path, Path], which: int, dtype: str, precision: str
) -> None:
    """The largest distance of sampled rows from float64 is what it is, and of correct rounding.

    Half a unit is what rounding once allows; float32 sums in float32 outputs add their own.
    """
    base, adapter = folders[0], folders[which]

    report, _, written = merge(home, base, [(adapter, 1.0)], dtype=dtype, precision=precision)

    before = load_file(base / "model.safetensors")
    deltas = exact_deltas(base, [(adapter, 1.0)])
    own = 8.0 if (dtype, precision) == ("float32", "float32") else 0.002
    for name, one in report.items():
        w = before[name].double()
        error = worst(written[name], w + deltas[name], w)
        assert one.worst_ulps is not None
        assert one.worst_ulps == pytest.approx(error, abs=0.002)
        assert 0.2 < error <= 0.5 + own


def test_float32_keeps_all(home: Path, folders: tuple[Path, Path, Path]) -> None:
    """A small delta of which bfloat16 loses more than a tenth is kept whole in float32."""
    base, small, _ = folders

    _, rounded, _ = merge(home, base, [(small, 0.1)])
    _, kept, _ = merge(home, base, [(small, 0.1)], dtype="float32")

    assert rounded["totals"]["lost"] > rounded["totals"]["elements"] / 10
    assert 0 == kept["totals"]["lost"]
    # All but a few whose delta is below half a unit of float32.
    assert kept["totals"]["changed"] == kept["totals"]["elements"]


def test_what_is_replaced(tmp_path: Path, home: Path, folders: tuple[Path, Path, Path]) -> None:
    """A head that the adapter brings is reported too, as replaced, with its distance from W."""
    base = folders[0]
    saved = factory.make_adapter(base, tmp_path / "saved", modules_to_save=["lm_head"])

    report, _, written = merge(home, base, [(saved, 1.0)])

    head = report["lm_head.weight"]
    before = load_file(base / "model.safetensors")["lm_head.weight"]
    assert "replace" == head.action
    assert int((before != written["lm_head.weight"]).sum()) == head.changed
    saved_head = load_file(saved / "adapter_model.safetensors")[
        "base_model.model.lm_head.weight"
    ].double()
    distance = float((saved_head - before.double()).norm())
    assert head.delta_norm == pytest.approx(distance, rel=1e-5)


@pytest.fixture
def adreg(home: Path, capfd: pytest.CaptureFixture[str]) -> Adreg:
    """Run adreg in this process, in the test's own registry."""
    del home

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(list(arguments))
        out, err = capfd.readouterr()
        return Ran(int(exited.value.code or 0), out, err)

    return run


@pytest.fixture
def said(
    adreg: Adreg, tmp_path: Path, folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Merge the small adapter by the command line, with more options."""
    monkeypatch.setenv("COLUMNS", "200")
    base, small, _ = folders

    def run(*options: str) -> Ran:
        return adreg(
            "-q", "merge", str(small), "--base", str(base), "-o", str(tmp_path / "out"), *options
        )

    return run


def test_the_table(tmp_path: Path, said: Callable[..., Ran]) -> None:
    """--report prints a line for each tensor with its numbers, and then the sums."""
    ran = said("--report", "--name", "bot")

    told = json.loads((tmp_path / "out" / REPORT).read_text())
    assert (0, "") == (ran.code, ran.err)
    lines = ran.out.splitlines()
    heads = ["tensor", "action", "|delta|", "|w|", "changed %", "lost %", "worst ulp"]
    assert heads == lines[0].split("\t")
    for line, one in zip(lines[1:], told["tensors"], strict=False):
        expected = [
            one["name"],
            one["action"],
            f"{one['delta_norm']:.4g}",
            f"{one['base_norm']:.4g}",
            f"{100 * one['changed'] / one['elements']:.2f}",
            f"{100 * one['lost'] / one['elements']:.2f}",
            f"{one['worst_ulps']:.3f}",
        ]
        assert expected == line.split("\t")
    total = told["totals"]
    share = 100 * total["changed"] / total["elements"]
    assert f"{share:.1f} % of {total['elements']:,} elements changed" in ran.out


def test_json(tmp_path: Path, said: Callable[..., Ran]) -> None:
    """As JSON the report and the totals are those of the file, with or without --report."""
    plain = json.loads(said("--json").out)

    told = json.loads((tmp_path / "out" / REPORT).read_text())
    assert told["tensors"] == plain["report"]
    assert told["totals"] == plain["totals"]


def test_no_report_without_a_merge(tmp_path: Path, said: Callable[..., Ran]) -> None:
    """A dry run has no numbers to tell, and says so with none."""
    planned = json.loads(said("--dry-run", "--json").out)

    assert planned["totals"] is None
    assert [] == planned["report"]
    assert not (tmp_path / "out").exists()


def test_the_file_is_strict_json(home: Path, folders: tuple[Path, Path, Path]) -> None:
    """The report holds no NaN and no machine's path, and is recorded with the model's files."""
    base, small, _ = folders
    merged = Registry(home).merge(Recipe((RecipeAdapter(str(small)),), str(base)), name="mix")
    text = (merged.folder / REPORT).read_text()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    told = json.loads(text, parse_constant=refuse)
    assert {"method", "parameters", "precision", "dropped", "totals", "tensors"} == set(told)
    assert str(base.parent) not in text
    assert REPORT in {file.name for file in merged.files}
