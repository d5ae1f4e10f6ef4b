"""Walking through a GGUF header before the package gguf does, which believes what it says.

gguf 0.19 (gguf_reader.py) makes two objects for each element that an array claims, also
beyond the end of the file: a length of 2^40 takes all memory. The layout: ggml's
docs/gguf.md, version 2 and 3, little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from adreg.registry.errors import TensorFileBroken
from adreg.registry.opening import open_regular

_MAX_ELEMENTS = 200_000
"""Entries, elements of arrays and tensors of one file; an adapter has a few hundred."""

_MAX_TEXT = 1 << 20
_VERSIONS = frozenset({2, 3})
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type; texts and arrays have a length of their own."""


def check_header(path: Path) -> None:
    """Raise TensorFileBroken for a header that claims more than the file has, or too much."""
    try:
        with open_regular(path) as file:
            if int.from_bytes(file.read(8)[4:], "big") in _VERSIONS:
                advice = "Make it again with convert_lora_to_gguf.py, without --bigendian."
                raise TensorFileBroken(path, "it is a big-endian GGUF", advice)
            file.seek(0)
            _Walk(file).whole()
    except OSError as error:
        raise TensorFileBroken(path, error.strerror or str(error)) from error
    except ValueError as error:
        reason = f"it is no readable GGUF: {error}"
        raise TensorFileBroken(path, reason, "Fetch or make it again.") from None


class _Walk:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._elements = 0

    def whole(self) -> None:
        self._take(4)
        if (version := self._number("<I")) not in _VERSIONS:
            raise ValueError(f"its version is {version}, and 2 and 3 are known")
        tensors, entries = self._number("<Q"), self._number("<Q")
        self._count(tensors + entries)
        for _ in range(entries):
            self._text()
            self._value(self._number("<I"))
        for _ in range(tensors):
            self._text()
            dimensions = self._number("<I")
            if dimensions > 4:
                raise ValueError(f"a tensor of it has {dimensions} dimensions")
            self._take(8 * dimensions + 4 + 8)

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._text()
        elif kind == _ARRAY:
            inner, length = self._number("<I"), self._number("<Q")
            self._count(length)
            for _ in range(length):
                if inner not in _SIZES and inner != _STRING:
                    raise ValueError(f"an array of it holds values of the type {inner}")
                self._value(inner)
        elif kind in _SIZES:
            self._take(_SIZES[kind])
        else:
            raise ValueError(f"a value of it has the unknown type {kind}")

    def _text(self) -> None:
        length = self._number("<Q")
        if length > _MAX_TEXT:
            raise ValueError(f"a text of it claims {length:,} bytes")
        self._take(length)

    def _count(self, more: int) -> None:
        self._elements += more
        if self._elements > _MAX_ELEMENTS:
            raise ValueError(f"its header claims {self._elements:,} values")

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise ValueError("its header is cut short")
        return data
