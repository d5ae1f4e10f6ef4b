"""Safetensors headers: what the strict reader takes, and each lie that it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from adreg.registry.errors import TensorFileBroken
from adreg.registry.tensors.header import read_header


def entry(
    start: Any = 0, end: Any = 4, dtype: Any = "F32", shape: Any = None, **more: Any
) -> dict[str, Any]:
    """Return what a header says of one tensor, (1,) of F32 unless told otherwise."""
    shape = [1] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end], **more}


def write(path: Path, header: Mapping[str, Any] | str, body: bytes = bytes(4)) -> Path:
    """Write a file with this header, well-formed or not, and these bytes behind it."""
    text = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + body)
    return path


def test_what_the_library_writes(tmp_path: Path) -> None:
    """Names, dtypes, shapes, places and metadata are those that safetensors wrote."""
    arrays = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.mask": np.array([True, False]),
        "c.step": np.array(7, np.int64),
        "d.none": np.zeros((0, 3), np.float16),
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np"})
    file = read_header(path)
    data = path.read_bytes()

    assert {"format": "np"} == file.metadata
    assert {n: a.shape for n, a in arrays.items()} == {t.name: t.shape for t in file.tensors}
    assert {"F32", "BOOL", "I64", "F16"} == {t.dtype for t in file.tensors}
    for tensor in file.tensors:
        assert arrays[tensor.name].tobytes() == data[tensor.start : tensor.end]
        assert arrays[tensor.name].size == tensor.count


LIES: dict[str, tuple[Any, bytes, str]] = {
    "overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6), "'b' overlaps another"),
    "same place": ({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4), "'b' overlaps another"),
    "hole": ({"a": entry(0, 4), "b": entry(6, 10)}, bytes(10), "'b' leaves a hole before it"),
    "hole at the front": ({"a": entry(2, 6)}, bytes(6), "'a' leaves a hole before it"),
    "trailing bytes": ({"a": entry()}, bytes(5), "followed by unknown bytes"),
    "cut short": ({"a": entry()}, bytes(3), "cut short"),
    "duplicate key": (
        json.dumps({"a": entry()})[:-1] + "," + json.dumps({"a": entry(4, 8)})[1:],
        bytes(8),
        "'a' stands twice",
    ),
    "duplicate field": (
        '{"a": {"dtype": "F32", "dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}',
        bytes(4),
        "'dtype' stands twice",
    ),
    "unknown dtype": ({"a": entry(dtype="F33")}, bytes(4), "unknown dtype 'F33'"),
    "dtype no text": ({"a": entry(dtype=["F32"])}, bytes(4), "unknown dtype"),
    "unknown field": ({"a": entry(code="x")}, bytes(4), "does not have just dtype"),
    "missing field": ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), "does not have just"),
    "entry no object": ({"a": 3}, bytes(4), "does not have just"),
    "negative offset": ({"a": entry(-4, 0)}, bytes(4), "impossible offsets"),
    "turned offsets": ({"a": entry(4, 0)}, bytes(4), "impossible offsets"),
    "three offsets": (
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}},
        bytes(4),
        "impossible offsets",
    ),
    "float offset": ({"a": entry(0, 4.0)}, bytes(4), "impossible offsets"),
    "huge offset": ({"a": entry(0, 1 << 64)}, bytes(4), "impossible offsets"),
    "wrong size": ({"a": entry(0, 4, shape=[2])}, bytes(4), "needs 8 bytes and claims 4"),
    "huge shape": ({"a": entry(0, 4, shape=[1 << 62, 1 << 62])}, bytes(4), "and claims 4"),
    "bool in shape": ({"a": entry(shape=[True])}, bytes(4), "impossible shape"),
    "negative shape": ({"a": entry(shape=[-1, -1])}, bytes(4), "impossible shape"),
    "float shape": ({"a": entry(shape=[1.0])}, bytes(4), "impossible shape"),
    "shape no list": ({"a": entry(shape="1")}, bytes(4), "impossible shape"),
    "many dimensions": ({"a": entry(shape=[1] * 17)}, bytes(4), "impossible shape"),
    "half a byte": ({"a": entry(0, 1, "F4", [3])}, bytes(1), "do not fill whole bytes"),
    "a way up": ({"../../x": entry()}, bytes(4), r"'\.\./\.\./x' is not allowed"),
    "a path": ({"/etc/x": entry()}, bytes(4), "is not allowed"),
    "a Windows path": ({"a\\b": entry()}, bytes(4), "is not allowed"),
    "a terminal's colour": ({"\x1b[31m": entry()}, bytes(4), "is not allowed"),
    "no name": ({"": entry()}, bytes(4), "is not allowed"),
    "metadata no text": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "metadata no object": ({"__metadata__": []}, b"", "__metadata__"),
    "a list": ("[]", b"", "is not a JSON object"),
    "space in front": (' {"a": 1}', b"", "is not a JSON object"),
    "no JSON": ("{a}", b"", "header is broken"),
    "nested deeply": ('{"a":' * 100_000, b"", "header is broken"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(tmp_path: Path, lie: str) -> None:
    """Each lie is refused with the file and what is wrong with it."""
    header, body, words = LIES[lie]
    path = write(tmp_path / "x.safetensors", header, body)

    with pytest.raises(TensorFileBroken, match=words) as raised:
        read_header(path)

    assert path == raised.value.path


PREFIXES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "only 0 bytes"),
    "seven bytes": (bytes(7), "only 7 bytes"),
    "huge header": ((1 << 62).to_bytes(8, "little") + b"{}", "header claims"),
    "header beyond the file": ((99).to_bytes(8, "little") + b"{}", "header claims 99 bytes"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
}


@pytest.mark.parametrize("case", PREFIXES)
def test_a_file_that_is_no_safetensors(tmp_path: Path, case: str) -> None:
    """A file whose first bytes are wrong is refused before its header is read."""
    data, words = PREFIXES[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)

    with pytest.raises(TensorFileBroken, match=words) as raised:
        read_header(path)

    assert raised.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there, and a folder, are refused as broken, with the system's words."""
    with pytest.raises(TensorFileBroken, match="No such file"):
        read_header(tmp_path / "x.safetensors")
    with pytest.raises(TensorFileBroken):
        read_header(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 8, 40, -1])
def test_a_file_that_is_cut(tmp_path: Path, keep: int) -> None:
    """A real file that is cut anywhere is refused."""
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(16, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(TensorFileBroken):
        read_header(path)


@settings(deadline=None)  # the disk may be slow
@given(data=st.binary(max_size=200), honest=st.booleans())
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, honest: bool) -> None:
    """Whatever the bytes are, they are read or refused as broken: no other error comes out."""
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data if honest else data)

    try:
        read_header(path)
    except TensorFileBroken:
        return
