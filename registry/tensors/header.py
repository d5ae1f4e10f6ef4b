"""A strict reader of safetensors headers: what a file says, checked against what it has.

Stricter than the safetensors library 0.8, which accepts duplicate keys, unknown
fields and tensor names like ``../../x`` (seen by running it). The format:
8 bytes little-endian header length, a JSON object, the tensors' bytes without holes.

The object is read entry by entry, so that no header takes much more memory than the
tensors that it describes, whatever else stands in it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adreg.registry.errors import TensorFileBroken
from adreg.registry.jsonio import unique
from adreg.registry.opening import is_hollow, open_regular
from adreg.registry.tensors import dtypes

MAX_HEADER = 25_000_000
"""What the Hub's client reads (huggingface_hub 2.4, constants.py); the library's limit is 100 MB,
and the header of 138,000 tensors, the factors of all experts of Kimi-K2, has about 20 MB."""

MAX_TENSORS = 250_000
"""Tensors of one file, and notes in its metadata."""

_MAX_WIDE = 8 << 20
"""Bytes of a header beyond ASCII, which takes up to four times as much memory as it has bytes."""

_MAX_NAME = 512
_MAX_ENTRY = 1024
_MAX_DIMENSIONS = 16
_FIELDS = {"dtype", "shape", "data_offsets"}
_SPACE = re.compile(r"[ \t\n\r]*")
_HALF = re.compile("[\ud800-\udfff]")
"""Half a pair of UTF-16 is no character: it fails where it is stored or printed."""

_DECODER = json.JSONDecoder()
_WHOLE = "(?:0|[1-9][0-9]{0,18})"
_USUAL = re.compile(
    rf'{{"dtype":"([A-Z0-9_]+)","shape":\[((?:{_WHOLE}(?:,{_WHOLE}){{0,15}})?)\],'
    rf'"data_offsets":\[({_WHOLE}),({_WHOLE})\]}}'
)
"""An entry as the library writes it, which is read in half the time."""


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


def read_header(path: Path, size: int | None = None) -> TensorFile:
    """Read and check the header of one safetensors file; its weights are not read.

    ``size`` is the whole file's where ``path`` holds no more than its header.

    Raises TensorFileBroken when the file is not safetensors, is cut short or longer
    than it says, has holes, overlaps, duplicate keys, unknown dtypes or fields, names
    that could be paths or control a terminal, or claims bytes that no disk holds; and
    when it is not a regular file.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size if size is None else size
            header, length = _read_text(path, file, size)
    except OSError as error:
        raise TensorFileBroken(path, error.strerror or str(error)) from error
    try:
        return _parse(path, header, 8 + length, size)
    except ValueError as error:
        raise TensorFileBroken(path, str(error), "Fetch or save the file again.") from None


def _read_text(path: Path, file: BinaryIO, size: int) -> tuple[str, int]:
    """Return the header and the number of its bytes."""
    again = "Fetch or save the file again."
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
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
    data = file.read(length)
    if is_hollow(file.fileno()):
        raise TensorFileBroken(path, f"of its {size:,} bytes hardly any are there: holes", again)
    if length > _MAX_WIDE and not data.isascii():
        raise TensorFileBroken(path, f"its header has {length:,} bytes and is not ASCII", again)
    try:
        return data.decode("utf-8"), length
    except UnicodeDecodeError:
        raise TensorFileBroken(path, "its header is broken: it is not UTF-8", again) from None


def _parse(path: Path, header: str, body: int, size: int) -> TensorFile:
    if not header.startswith("{"):
        raise ValueError("its header is not a JSON object")
    try:
        metadata, tensors = _entries(header, body)
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is broken: {error.msg}") from None
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
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


class _Text:
    """A JSON text, read from left to right; raises ValueError where it is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def skip(self) -> None:
        self.place = _SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]  # always matches

    def at(self, sign: str) -> bool:
        """Whether this is what comes next; then it is passed."""
        self.skip()
        found = self.text.startswith(sign, self.place)
        self.place += len(sign) if found else 0
        return found

    def take(self, sign: str) -> None:
        if not self.at(sign):
            raise ValueError(f"its header is broken: there is no {sign!r} at {self.place:,}")

    def string(self) -> str:
        self.skip()
        if not self.text.startswith('"', self.place):
            raise ValueError(f"its header is broken: there is no text at {self.place:,}")
        value, self.place = _DECODER.raw_decode(self.text, self.place)
        return str(value)

    def keys(self) -> Iterator[str]:
        """Give each key of an object; the caller takes its value before the next."""
        self.take("{")
        if self.at("}"):
            return
        seen: set[str] = set()
        while True:
            key = self.string()
            if key in seen:
                raise ValueError(f"its header is broken: the key {key[:200]!r} stands twice")
            if len(seen) > MAX_TENSORS:
                raise ValueError(f"its header describes more than {MAX_TENSORS:,} tensors or notes")
            seen.add(key)
            self.take(":")
            self.skip()
            yield key
            if not self.at(","):
                self.take("}")
                return

    def entry(self) -> Any:  # noqa: ANN401  # parsed JSON
        """Take an object without others in it, of a bounded length; None for anything else."""
        if found := _USUAL.match(self.text, self.place):
            self.place = found.end()
            dtype, shape, start, stop = found.groups()
            lengths = [int(length) for length in shape.split(",")] if shape else []
            return {"dtype": dtype, "shape": lengths, "data_offsets": [int(start), int(stop)]}
        if not self.text.startswith("{", self.place):
            return None
        end = self.text.find("}", self.place, self.place + _MAX_ENTRY) + 1
        if not end:
            raise ValueError(f"its header is broken: the object at {self.place:,} does not end")
        value = json.loads(self.text[self.place : end], object_pairs_hook=_unique)
        self.place = end
        return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique(pairs)
    except ValueError as error:
        raise ValueError(f"its header is broken: {error}") from None


def _entries(header: str, body: int) -> tuple[dict[str, str], list[TensorInfo]]:
    """Return the metadata and the tensors, in the header's order."""
    text = _Text(header)
    metadata: dict[str, str] = {}
    tensors = []
    for name in text.keys():  # noqa: SIM118  # no dict's
        if name == "__metadata__":
            metadata = _metadata(text)
        else:
            tensors.append(_tensor(name, text.entry(), body))
    text.skip()
    if text.place != len(header):
        raise ValueError("its header is broken: something follows its end")
    return metadata, tensors


def _metadata(text: _Text) -> dict[str, str]:
    metadata: dict[str, str] = {}
    wrong = "its __metadata__ is not a map of text to text"
    if not text.text.startswith("{", text.place):
        raise ValueError(wrong)
    for key in text.keys():  # noqa: SIM118  # no dict's
        if not text.text.startswith('"', text.place):
            raise ValueError(wrong)
        metadata[key] = value = text.string()
        if _HALF.search(key) or _HALF.search(value):
            raise ValueError("its __metadata__ holds half a character (a lone surrogate)")
    return metadata


def _tensor(name: str, entry: Any, body: int) -> TensorInfo:  # noqa: ANN401  # parsed JSON
    bad = not name.isprintable() or "/" in name or "\\" in name or ".." in name
    if bad or not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"the tensor name {name[:200]!r} is not allowed")
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
