"""Pickles made opcode by opcode, in archives as torch.save writes them."""

from __future__ import annotations

import resource
import struct
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from adreg.registry.errors import InputRefused, PickleRefused, TensorFileBroken
from adreg.registry.tensors.pickles import read_pickle

CALL = b"ccollections\nOrderedDict\n"
"""What calls of an OrderedDict begin with."""


def text(value: str) -> bytes:
    """Return the opcode of a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """Return the opcode of a number of up to 8 bytes."""
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def storage(
    kind: bytes = b"ctorch\nFloatStorage\n", key: bytes = text("0"), count: int = 4
) -> bytes:
    """Return the opcodes of a storage, as torch.save writes them."""
    return b"(" + text("storage") + kind + key + text("cpu") + number(count) + b"tQ"


def tensor(
    held: bytes = storage(),
    offset: int = 0,
    shape: bytes = b"K\x04\x85",
    strides: bytes = b"K\x01\x85",
) -> bytes:
    """Return the opcodes of a tensor of 4 floats."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n("
    hooks = b"ccollections\nOrderedDict\n)R"
    return call + held + number(offset) + shape + strides + b"\x89" + hooks + b"tR"


def state(value: bytes) -> bytes:
    """Return the pickle of a dict that holds ``value`` as 'w'."""
    return b"\x80\x02}" + text("w") + value + b"s."


def archive(
    path: Path,
    pickled: bytes,
    compression: int = zipfile.ZIP_STORED,
    others: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """Write a zip as torch writes it, with a storage '0' of 4 floats."""
    entries = {"x/data.pkl": pickled, "x/version": b"3\n", "x/byteorder": b"little"}
    entries["x/data/0"] = bytes(16)
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {**entries, **others}.items():
            file.writestr(name, data)
    return path


def refused(path: Path) -> InputRefused:
    """Return the error of a file, which must come soon and without much memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises((PickleRefused, TensorFileBroken)) as caught:
        read_pickle(path)
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.hint
    return caught.value
