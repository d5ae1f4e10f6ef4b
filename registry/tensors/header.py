"""A strict reader of safetensors headers: what a file says, checked against what it has.

Stricter than the safetensors library 0.8, which accepts duplicate keys, unknown
fields and tensor names like ``../../x`` (seen by running it). The format:
8 bytes little-endian header length, a JSON object, the tensors' bytes without holes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adreg.registry.errors import TensorFileBroken
from adreg.registry.jsonio import parse_object
from adreg.registry.tensors import dtypes

MAX_HEADER = 100_000_000
"""The library's own limit (safetensors 0.8, MAX_HEADER_SIZE)."""

_MAX_DIMENSIONS = 16
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as its header describes it; ``start`` and ``end`` count from the file's begin."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return self.end - self.start

    @property
    def count(self) -> int:
        """The number of its elements."""
        return self.nbytes * 8 // dtypes.BITS[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A file of tensors as its header describes it: the tensors in the order of their bytes."""

    path: Path
    size: int
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]


def read_header(path: Path) -> TensorFile:
    """Read and check the header of one safetensors file; its weights are not read.

    Raises TensorFileBroken when the file is not safetensors, is cut short or longer
    than it says, has holes, overlaps, duplicate keys, unknown dtypes or fields, or
    names that could be paths or control a terminal.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            _check_prefix(path, prefix, length, size)
            data = file.read(length)
    except OSError as error:
        raise TensorFileBroken(path, error.strerror or str(error)) from error
    try:
        return _parse(path, data, 8 + length, size)
    except ValueError as error:
        raise TensorFileBroken(path, str(error), "Fetch or save the file again.") from None


def _check_prefix(path: Path, prefix: bytes, length: int, size: int) -> None:
    again = "Fetch or save the file again."
    if prefix == b"version ":
        raise TensorFileBroken(
            path, "it is a git-lfs pointer, not the weights", "Fetch it with `git lfs pull`."
        )
    if len(prefix) < 8:
        raise TensorFileBroken(path, f"it has only {size} bytes and no header", again)
    if length > MAX_HEADER:
        raise TensorFileBroken(path, f"its header claims {length:,} bytes", again)
    if 8 + length > size:
        raise TensorFileBroken(
            path, f"its header claims {length:,} bytes and the file has {size:,}", again
        )


def _parse(path: Path, data: bytes, body: int, size: int) -> TensorFile:
    if not data.startswith(b"{"):
        raise ValueError("its header is not a JSON object")
    try:
        header = parse_object(data)
    except ValueError as error:
        raise ValueError(f"its header is broken: {error}") from None
    metadata = _metadata(header.pop("__metadata__", {}))
    tensors = sorted(
        (_tensor(name, entry, body) for name, entry in header.items()),
        key=lambda tensor: (tensor.start, tensor.end),
    )
    position = body
    for tensor in tensors:
        if tensor.start != position:
            kind = "overlaps another" if tensor.start < position else "leaves a hole before it"
            raise ValueError(f"the tensor {tensor.name!r} {kind}")
        position = tensor.end
    if position != size:
        verb = "cut short" if size < position else "followed by unknown bytes"
        raise ValueError(
            f"it is {verb}: the header describes {position:,} bytes, the file has {size:,}"
        )
    return TensorFile(path, size, tuple(tensors), metadata)


def _metadata(value: Any) -> dict[str, str]:  # noqa: ANN401  # parsed JSON
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError("its __metadata__ is not a map of text to text")
    return value


def _tensor(name: str, entry: Any, body: int) -> TensorInfo:  # noqa: ANN401  # parsed JSON
    if not name or not name.isprintable() or "/" in name or "\\" in name or ".." in name:
        raise ValueError(f"the tensor name {name!r} is not allowed")
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise ValueError(f"the tensor {name!r} does not have just dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes.BITS:
        raise ValueError(f"the tensor {name!r} has the unknown dtype {dtype!r}")
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"the tensor {name!r} has the impossible shape {shape!r}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the tensor {name!r} has the impossible offsets {offsets!r}")
    try:
        expected = dtypes.nbytes(dtype, tuple(shape))
    except ValueError as error:
        raise ValueError(f"the tensor {name!r}: {error}") from None
    if offsets[1] - offsets[0] != expected:
        raise ValueError(
            f"the tensor {name!r} of {dtype} {shape} needs {expected:,} bytes"
            f" and claims {offsets[1] - offsets[0]:,}"
        )
    return TensorInfo(name, dtype, tuple(shape), body + offsets[0], body + offsets[1])


def _naturals(value: Any) -> bool:  # noqa: ANN401  # parsed JSON
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 63
        for item in value
    )
