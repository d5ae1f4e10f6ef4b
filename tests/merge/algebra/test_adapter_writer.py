"""The files of an adapter that was made, and the ranks of its configuration."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from adreg.registry import digest
from adreg.registry.adapters.config import alpha_of, parse_config, rank_of, scale_of
from adreg.registry.merge.algebra.adapter_config import lora_config
from adreg.registry.merge.algebra.adapter_writer import LINEAR, AdapterWriter
from adreg.registry.tensors.header import read_header


def test_tensors_of_several_types(tmp_path: Path) -> None:
    """The library reads every tensor as it was put, each aligned to its own type."""
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.arange(10, dtype=ml_dtypes.bfloat16).reshape(5, 2)
    with AdapterWriter(tmp_path) as writer:
        writer.put("odd", np.arange(3, dtype=np.float16))
        writer.put_lora("m", LINEAR, a, b.astype(np.float32))
        writer.put("transposed", a.T)
        files = writer.finish({"r": 2}, "card\n")

    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    assert np.array_equal(a, tensors["base_model.model.m.lora_A.weight"])
    assert np.array_equal(a.T, tensors["transposed"])
    assert np.array_equal([0, 1, 2], tensors["odd"])
    header = read_header(path)
    width = {"F32": 4, "F16": 2}
    assert all(one.start % width[one.dtype] == 0 for one in header.tensors)
    assert {"m": 2} == writer.ranks
    for file in files:
        assert file.sha256 == digest.of_file(tmp_path / file.name)
    assert {file.name for file in files} == {one.name for one in tmp_path.iterdir()}


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    """Leaving by an exception removes what was put aside."""

    def fail() -> None:
        with AdapterWriter(tmp_path) as writer:
            writer.put("x", np.zeros(3, np.float32))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "ranks",
    [
        {"fc": 2, "head.fc": 4, "x": 4, "y": 4},
        {"fc": 4, "head.fc": 2, "x": 4},
        {"a.b": 1, "a_b": 2, "x": 3, "y": 3},
        {"layers.1.q": 1, "layers.11.q": 2, "layers.2.q": 2},
    ],
)
def test_ranks_of_names_that_end_alike(ranks: dict[str, int]) -> None:
    """Each module gets its own rank by PEFT's matching of patterns, and the scale 1."""
    settings = parse_config(lora_config(ranks)).lora

    assert settings is not None
    assert ranks == {name: rank_of(settings, name) for name in ranks}
    assert ranks == {name: alpha_of(settings, name) for name in ranks}
    assert {1.0} == {scale_of(settings, name) for name in ranks}
