"""Values that are looked at while they pass by are the same that a second reading would find."""

from __future__ import annotations

import random
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from adreg.registry.adapters.spec import AdapterTensor, Part
from adreg.registry.adapters.values import PassingValues, check_values
from adreg.registry.tensors.encode import Entry, encode_header
from adreg.registry.tensors.header import read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of all float types and an empty tensor, at odd places, with values not finite."""
    draw = np.random.default_rng(3)
    kinds = {"U8": np.uint8, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    kinds |= {"F32": np.float32, "F64": np.float64}
    entries, data = [], b""
    for number, (code, kind) in enumerate(kinds.items()):
        values = draw.integers(0, 100, 101 + number).astype(kind)
        if code in {"F16", "BF16", "F64"}:
            values[[0, -1]] = [np.inf, np.nan]
        entries += [
            Entry(f"t{number}", code, values.shape),
            Entry(f"empty{number}", code, (0,)),
        ]
        data += values.tobytes()
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(encode_header(entries, {}) + data)
    return path


@pytest.mark.parametrize("longest", [1, 7, 64, 1 << 20])
def test_pieces_of_any_size_give_the_same(file: Path, longest: int) -> None:
    """However the bytes are cut, every bad value is counted, the first and the last too."""
    tensors = [
        AdapterTensor(info.name, info.name, Part.FULL, "weight", info)
        for info in read_header(file).tensors
    ]
    values, rest, draw = PassingValues(tensors), file.read_bytes(), random.Random(longest)  # noqa: S311

    while rest:
        size = draw.randint(1, longest)
        values.see(rest[:size])
        rest = rest[size:]

    assert [
        f"the tensor 't{number}' has 2 values that are not finite" for number in (1, 2, 4)
    ] == values.reasons()
    assert values.reasons() == check_values(file, tensors, lambda _: None)
