"""Distances of weights in units in the last place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adreg.registry.tensors.checkpoint import Layout, read_layout
from adreg.registry.trial import ulps
from adreg.registry.trial.ulps import rounding_bound, weight_distance


def layout(folder: Path, values: list[float], dtype: torch.dtype) -> Layout:
    """Save one tensor ``w`` and return its layout."""
    folder.mkdir()
    save_file({"w": torch.tensor(values, dtype=dtype)}, folder / "model.safetensors")
    return read_layout(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_neighbours(tmp_path: Path, dtype: torch.dtype) -> None:
    """One step up is one unit, across a power of two and across zero; the zeros are none apart."""
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    eps = torch.finfo(dtype).eps
    one = layout(tmp_path / "one", [1.0, 1.0, -tiny, 0.0, 3.0], dtype)
    two = layout(tmp_path / "two", [1.0 + eps, 1.0 - eps / 2, tiny, -0.0, 3.0], dtype)
    found = weight_distance(one, two, ["w"])

    assert (5, 1, 4, 2, "w") == (
        found.elements,
        found.identical,
        found.near,
        found.ulps,
        found.tensor,
    )
    assert eps == found.largest


def test_the_reference_is_rounded_first(tmp_path: Path) -> None:
    """A float32 base is what it would be in the dtype of the result."""
    result = layout(tmp_path / "result", [0.1, 0.2], torch.bfloat16)
    base = layout(tmp_path / "base", [0.1, 0.2], torch.float32)

    assert 2 == weight_distance(result, base, ["w"]).identical


def test_bound(tmp_path: Path) -> None:
    """The bound is half a unit of what was merged and half a unit of what came out."""
    merged = layout(tmp_path / "merged", [5.0, 0.0, 0.25], torch.bfloat16)
    result = layout(tmp_path / "result", [1.5, 0.0, -0.5], torch.bfloat16)

    assert (2**-5 + 2**-7) / 2 == rounding_bound(merged, result, ["w"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_spacing(dtype: type) -> None:
    """Units in the last place are numpy's, subnormals too."""
    values: Any = np.array([1e-7, 6e-8, 0.1, -0.6, 1.0, 1023.5, -60000.0, 0.0], dtype)

    assert np.array_equal(np.abs(np.spacing(values)), ulps._spacing(values))


def test_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the pieces, the answer is the same."""
    values = torch.linspace(-1, 1, 100).tolist()
    one = layout(tmp_path / "one", values, torch.bfloat16)
    two = layout(tmp_path / "two", [value * 1.002 for value in values], torch.bfloat16)
    whole = weight_distance(one, two, ["w"])
    monkeypatch.setattr(ulps, "_PIECE", 7)

    assert whole == weight_distance(one, two, ["w"])
    assert 0 < whole.identical < 100
