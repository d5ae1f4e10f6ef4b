"""A folder of shards and its index, held against each other in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adreg.registry.errors import JsonBroken, TensorFileBroken
from adreg.registry.tensors.arrays import Array
from adreg.registry.tensors.checkpoint import INDEX, read_layout

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MAP = {"a": ONE, "b": ONE, "c": TWO}


def write(folder: Path, weight_map: object) -> Path:
    """Write shards of a, b and c, and an index that says ``weight_map``."""
    save_file({"a": np.zeros(2, np.float32), "b": np.zeros((2, 2), np.float16)}, folder / ONE)
    save_file({"c": np.zeros(3, np.float32)}, folder / TWO)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_shards_and_one_file_are_one_layout(tmp_path: Path) -> None:
    """The layout's digest and counts do not depend on how tensors are spread over files."""
    sharded, single = tmp_path / "sharded", tmp_path / "single"
    sharded.mkdir()
    single.mkdir()
    write(sharded, MAP)
    arrays: dict[str, Array] = {
        "c": np.ones(3, np.float32),
        "b": np.ones((2, 2), np.float16),
        "a": np.ones(2, np.float32),
    }
    save_file(arrays, single / "model.safetensors")
    layout, other = read_layout(sharded), read_layout(single)

    assert layout.digest() == other.digest()
    assert (9, 28) == (layout.parameters, layout.nbytes) == (other.parameters, other.nbytes)
    assert {"a", "b", "c"} == {tensor.name for tensor in layout}
    assert "a" in layout
    assert "d" not in layout
    assert (2, 2) == layout["b"].shape


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({**MAP, "d": TWO}, f"{TWO} does not hold 'd'"),
        ({"a": ONE, "c": TWO}, f"{ONE} holds 'b', which it does not name"),
        ({"a": ONE, "b": TWO, "c": TWO}, "does not hold 'b'|holds 'b'"),
        ({**MAP, "d": "../secret.safetensors"}, "is not a plain file name"),
        ({**MAP, "d": "/etc/x.safetensors"}, "is not a plain file name"),
        ({**MAP, "d": "C:x.safetensors"}, "is not a plain file name"),
        ({**MAP, "d": ".hidden.safetensors"}, "is not a plain file name"),
        ({**MAP, "d": "x.bin"}, "is not a plain file name"),
        ({**MAP, "d": 3}, "is not a plain file name"),
        ({}, "it has no weight_map"),
        ([], "it has no weight_map"),
        (None, "it has no weight_map"),
        ({**MAP, "d": "model-00003-of-00003.safetensors"}, "No such file"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, weight_map: object, words: str) -> None:
    """A tensor that only one side knows, and a shard name that is a path, are refused."""
    with pytest.raises(TensorFileBroken, match=words):
        read_layout(write(tmp_path, weight_map))


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    """A tensor that two shards hold is refused, with both."""
    write(tmp_path, MAP)
    save_file({"c": np.zeros(3, np.float32), "a": np.zeros(2, np.float32)}, tmp_path / TWO)

    with pytest.raises(TensorFileBroken, match=f"'a' stands in {ONE} too"):
        read_layout(tmp_path)


def test_an_index_that_is_no_json(tmp_path: Path) -> None:
    """An index that cannot be parsed is JsonBroken, and names the file."""
    write(tmp_path, MAP)
    (tmp_path / INDEX).write_text("{")

    with pytest.raises(JsonBroken) as raised:
        read_layout(tmp_path)

    assert tmp_path / INDEX == raised.value.path


def test_nothing_there(tmp_path: Path) -> None:
    """Without index and weights the file that was looked for is named."""
    with pytest.raises(TensorFileBroken, match=r"model\.safetensors"):
        read_layout(tmp_path)
