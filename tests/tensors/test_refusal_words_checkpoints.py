"""Each refusal of a folder of shards or of quantised weights: with what, and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantising
import torch
from pickling import archive, state, tensor
from safetensors.numpy import save_file

from adreg.registry.bases.dequantised import dequantised
from adreg.registry.errors import AdregError, TensorFileBroken
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.checkpoint import INDEX, read_layout
from adreg.registry.tensors.header import read_header

AGAIN = "Fetch or save the file again."
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SINGLE = "model.safetensors"


def refused(ask: Callable[[], object]) -> AdregError:
    """Return the error of what is asked."""
    with pytest.raises(AdregError) as caught:
        ask()
    assert "\n" not in caught.value.sentence + caught.value.hint
    return caught.value


INDEXES: dict[str, tuple[Any, str, str]] = {
    "no map": (3, INDEX, "it has no weight_map"),
    "a path": (
        {"a": "../x.safetensors"},
        INDEX,
        "the shard name '../x.safetensors' is not",
    ),
    "one file": (
        {"a": ONE, "b": ONE.upper().replace("SAFETENSORS", "safetensors")},
        INDEX,
        f"{ONE!r} are one file on macOS and Windows",
    ),
    "too few": ({"a": ONE, "b": ONE, "c": TWO}, INDEX, f"{ONE} does not hold 'b'"),
    "too many": ({"a": ONE, "d": TWO}, INDEX, f"{TWO} holds 'c', which it does not name"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_indexes(tmp_path: Path, case: str) -> None:
    """The index or the shard, and what it says or holds, stand in one sentence."""
    weight_map, name, words = INDEXES[case]
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / ONE)
    save_file({name: np.zeros(2, np.float32) for name in "cd"}, tmp_path / TWO)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    error = refused(lambda: read_layout(tmp_path))

    assert f"{tmp_path / name}: " in error.sentence
    assert words in error.sentence
    assert AGAIN == error.hint


def test_a_name_in_two_shards(tmp_path: Path) -> None:
    """A tensor that stands in two files is named with both."""
    for name in (ONE, TWO):
        save_file({"a": np.zeros(2, np.float32)}, tmp_path / name)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": ONE, "b": TWO}}))

    error = refused(lambda: read_layout(tmp_path))

    assert f"{tmp_path / TWO}: 'a' stands in {ONE} too" == error.sentence
    assert AGAIN == error.hint


def test_pickled_checkpoints(tmp_path: Path) -> None:
    """One that is a link to nothing, and one of holes, are named."""
    path = tmp_path / "pytorch_model.bin"
    archive(path, state(tensor()))
    os.truncate(path, 1 << 30)
    error = refused(lambda: read_layout(tmp_path))
    assert f"{path}: hardly any of its bytes are there: it has holes" == error.sentence
    assert AGAIN == error.hint

    (tmp_path / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}})
    )
    path.unlink()
    error = refused(lambda: read_layout(tmp_path))
    assert "pytorch_model-00001-of-00001.bin: No such file or directory" in error.sentence
    assert AGAIN == error.hint


def test_headers(tmp_path: Path) -> None:
    """A file of holes, and a header that is long and not ASCII, are told by their size."""
    path = tmp_path / SINGLE
    entry = {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 1 << 30]}
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + (1 << 30))
    error = refused(lambda: read_header(path))
    assert f"{path}: of its {path.stat().st_size:,} bytes hardly any are there" in error.sentence
    assert AGAIN == error.hint

    header = b'{"__metadata__": {"a": "' + "ä".encode() * (9 << 20) + b'"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    error = refused(lambda: read_header(path))
    assert f"{path}: its header has {len(header):,} bytes and is not ASCII" == error.sentence
    assert AGAIN == error.hint


def test_files_that_change_while_they_are_read(tmp_path: Path) -> None:
    """A file that is gone, or shorter than its header said, is named when it is read."""
    path = tmp_path / SINGLE
    save_file({"a": np.zeros(64, np.float32)}, path)
    (info,) = read_header(path).tensors
    os.truncate(path, path.stat().st_size - 8)

    with TensorReader() as reader:
        shorter = refused(lambda: reader.read(path, info))
    path.unlink()
    with TensorReader() as reader:
        gone = refused(lambda: reader.read(path, info))

    assert f"{path}: it became shorter while it was read" == shorter.sentence
    assert f"{path}: No such file or directory" == gone.sentence
    assert (AGAIN, AGAIN) == (shorter.hint, gone.hint)


Edit = Callable[[dict[str, torch.Tensor]], object]
STATE = "weight.quant_state.bitsandbytes__nf4"


def text(value: str) -> torch.Tensor:
    """Return text as a state's bytes."""
    return torch.tensor(list(value.encode()), dtype=torch.uint8)


STATES: dict[str, tuple[str, Edit, str]] = {
    "missing": (
        "bitsandbytes 4-bit",
        lambda t: t.pop("weight.absmax"),
        f"'a.up_proj.weight.absmax' is missing, which belongs to 'a.up_proj.{STATE}'",
    ),
    "no JSON": (
        "bitsandbytes 4-bit",
        lambda t: t.update({STATE: text("{")}),
        f"'a.up_proj.{STATE}' is not JSON: ",
    ),
    "too little": (
        "bitsandbytes 4-bit",
        lambda t: t.update({STATE: text("{}")}),
        f"'a.up_proj.{STATE}' does not say what bitsandbytes needs",
    ),
    "shape": (
        "bitsandbytes 4-bit",
        lambda t: t.update({STATE: text('{"shape": [4, 8], "blocksize": 64}')}),
        "does not fit the shape",
    ),
    "SCB": ("LLM.int8", lambda t: t.update(SCB=torch.ones(3)), "SCB does not fit 'a.up_proj."),
    "matrix": (
        "packed 4-bit",
        lambda t: t.update(weight_shape=torch.tensor([0, 4])),
        "'a.up_proj.weight_shape' is not the shape of a matrix",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_states(tmp_path: Path, case: str) -> None:
    """A state that does not fit its weight is named with its file."""
    name, edit, words = STATES[case]
    stored, _ = quantising.MAKERS[name]((48, 64), np.random.default_rng(0))
    edit(stored)
    folder = quantising.save(tmp_path, {"a.up_proj." + end: t for end, t in stored.items()})
    layout = read_layout(folder)

    with pytest.raises(TensorFileBroken) as caught:
        dequantised(layout, {})

    assert str(folder) in caught.value.sentence
    assert words in caught.value.sentence
    assert AGAIN == caught.value.hint


def test_experts_without_scales(tmp_path: Path) -> None:
    """Blocks of MXFP4 without their scales are named with what is missing."""
    save_file({"w_blocks": np.ones((2, 4, 3, 16), np.uint8)}, tmp_path / SINGLE)

    error = refused(lambda: dequantised(read_layout(tmp_path), {}))

    words = "'w_scales' is missing, which belongs to 'w_blocks'"
    assert f"{tmp_path / SINGLE}: {words}" == error.sentence
    assert AGAIN == error.hint
