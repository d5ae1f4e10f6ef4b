"""Pickles that want to run, to fill the memory or to take for ever."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pickling import CALL, archive, refused, state, storage, tensor, text

from adreg.registry.errors import PickleRefused
from adreg.registry.tensors.pickles import read_pickle
from adreg.registry.tensors.unpickle import MAX_OPERATIONS

MARKED = "adreg-test-was-run"


class Runs:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what the pickle calls."""
        return self.reduced


def test_the_opcodes_of_these_tests(tmp_path: Path) -> None:
    """What the tests below spoil is a file that torch and adreg read."""
    path = archive(tmp_path / "x.bin", state(tensor()))

    assert torch.equal(torch.zeros(4), torch.load(path, weights_only=True)["w"])
    assert ["w"] == [one.name for one in read_pickle(path).tensors]


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Runs(os.system, f"touch {MARKED}"), "posix.system, which is code"),
        (Runs(eval, f"open({MARKED!r}, 'w')"), "__builtin__.eval, which is code"),
        (Runs(getattr, "x", "load"), "__builtin__.getattr, which is code"),
        (Runs(torch.load, "x"), "torch.serialization.load, which is code"),
        (Runs(torch.empty, 1 << 40), "which is code"),
        (Runs(bytearray, 1 << 40), "__builtin__.bytearray, which is code"),
    ],
)
def test_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Runs, words: str, *, new: bool
) -> None:
    """A pickle that calls anything is refused with the name of it, and nothing is called."""
    monkeypatch.chdir(tmp_path)
    saved = {"w": torch.ones(2), "x": value}
    torch.save(saved, "x.bin", _use_new_zipfile_serialization=new)

    assert words in str(refused(tmp_path / "x.bin"))
    assert [tmp_path / "x.bin"] == list(tmp_path.iterdir())


def test_a_plain_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that torch did not write is refused, whatever its protocol."""
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(Runs(os.system, f"touch {MARKED}"), protocol)
        (tmp_path / "x.bin").write_bytes(data)

        assert isinstance(refused(tmp_path / "x.bin"), PickleRefused)
        assert not (tmp_path / MARKED).exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"cos\nsystem\n" + text("id") + b"\x85R", "os.system"),
        (text("os") + text("system") + b"\x93", "os.system"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", "__globals__"),
        (b"ctorch\n_utils.os.system\n", "torch._utils.os.system"),
        (b"cos\nsys\x1b[2Jtem\n", "x1b"),
        (b"(ios\nsystem\n", "operation b'i'"),
        (b"(cos\nsystem\no", "os.system"),
        (CALL + b")\x81", r"operation b'\x81'"),
        (b"\x82\x01", r"operation b'\x82'"),
        (b"P1\n", "operation b'P'"),
        (b"ctorch\nFloatStorage\n)R", "calls what is no function"),
        (text("x") + b")R", "calls what is no function"),
        (CALL + b"]R", "calls what is no function"),
        (tensor() + b"}b", "sets attributes"),
        (CALL + b")R)b", "sets attributes"),
        (CALL + b"}" + text("__class__") + text("x") + b"sb", "sets attributes"),
        (text("storage") + b"Q", "refers to something outside"),
        (storage(key=storage()), "refers to a storage in an unknown way"),
        (storage(kind=b"ctorch\nSize\n"), "refers to a storage in an unknown way"),
        (b"(" + text("module") + b"NNNNtQ", "refers to something outside"),
        (storage(count=-1), "an impossible place or size"),
        (tensor(offset=-1), "an impossible offset"),
        (tensor(shape=b"J\xfc\xff\xff\xff\x85"), "an impossible offset, shape"),
        (tensor(shape=b"(" + b"K\x01" * 17 + b"t"), "an impossible offset, shape"),
        (tensor(shape=b"G" + struct.pack(">d", 4) + b"\x85"), "an impossible offset, shape"),
        (tensor(shape=b"K\x02K\x02\x86"), "another number of strides"),
        (tensor(held=text("x")), "made from no storage"),
        (tensor(held=storage(key=text("7"))), "the bytes of the tensor 'w' are not there"),
        (tensor(held=storage(count=5)), "claims more bytes than the file has"),
        (tensor(held=storage(count=1 << 60)), "claims more bytes than the file has"),
        (tensor(shape=b"K\x05\x85"), "reaches beyond its storage"),
        (tensor(offset=1), "reaches beyond its storage"),
        (tensor(offset=1 << 62), "reaches beyond its storage"),
        (tensor() + text("w") + tensor() + b"s", "sets an item of no dict"),
        (b"N" + text("w") + b"s}" + text("w") + b"N", "sets an item of no dict"),
        (b"(N" + b"u", "its pickle is broken"),
        (b"h\x07", "its pickle is broken"),
        (b"t", "its pickle is broken"),
        (b"000", "operation b'0'"),
        (b"X\x01\x00\x00\x00\xff", "its pickle is broken"),
        (b"X\xff\xff\xff\xffa", "cut short|longer than any"),
        (b"\x8d" + b"\xff" * 8, "longer than any"),
        (b"\x8b\xff\xff\xff\x7f", "an impossible number"),
        (b"c" + b"a" * 300 + b"\nx\n", "a name that is too long"),
        (b"ctorch\n", "cut short|too long"),
    ],
)
def test_opcodes(tmp_path: Path, value: bytes, words: str) -> None:
    """Each way out of the machine is closed, with the words for it."""
    error = refused(archive(tmp_path / "x.bin", state(value)))

    assert any(word in str(error) for word in words.split("|"))


def test_twice(tmp_path: Path) -> None:
    """Of two tensors of one name nobody knows which is meant."""
    pickled = b"\x80\x02}" + (text("w") + tensor() + b"s") * 2 + b"."

    assert "the key w stands twice" in str(refused(archive(tmp_path / "x.bin", pickled)))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"]" * 100_000 + b"a" * 99_999, id="deep lists"),
        pytest.param(b")" + b"\x85" * 100_000, id="deep tuples"),
        pytest.param(b"(" * 100_000 + b"N" + b"t" * 100_000, id="deep marks"),
        pytest.param(b")" + b"q\x00h\x00\x86" * 1000, id="doubling tuples"),
        pytest.param(b"]" + b"q\x00h\x00a" * 1000, id="a list in itself"),
        pytest.param(
            b"ctorch\nSize\nq\x00(" + b"K\x01" * 50_000 + b"tq\x01" + b"h\x00h\x01\x85R" * 50_000,
            id="copied sizes",
        ),
        pytest.param(
            CALL
            + b"q\x00]q\x01("
            + (text("k") + b"N\x86") * 1
            + b"e"
            + b"h\x00h\x01\x85R" * 50_000,
            id="copied dicts",
        ),
        pytest.param(b"Nr\xff\xff\xff\xff" * 1000, id="a far memo"),
        pytest.param(b"}" * (MAX_OPERATIONS + 1), id="many dicts"),
        pytest.param(b"}" + b")" + b"q\x00h\x00\x86" * 40 + b"Ns", id="a key that takes for ever"),
    ],
)
def test_bombs(tmp_path: Path, value: bytes) -> None:
    """Depth, doubling and repetition cost neither the stack, nor the memory, nor the time."""
    refused(archive(tmp_path / "x.bin", state(value)))


def test_a_deep_value_beside_the_weights(tmp_path: Path) -> None:
    """What holds no weights may be as deep as it likes: it is looked through, and left out."""
    deep = b"]" * 100_000 + b"a" * 99_999
    doubled = b")" + b"q\x00h\x00\x86" * 1000
    pickled = b"\x80\x02}(" + text("model") + b"}" + text("w") + tensor() + b"s"
    pickled += text("deep") + deep + text("doubled") + doubled + b"u."

    file = read_pickle(archive(tmp_path / "x.bin", pickled))

    assert {"left_out": "deep, doubled"} == file.metadata


def test_a_pickle_that_is_too_long(tmp_path: Path) -> None:
    """A pickle longer than any of a checkpoint's is not read to its end."""
    long = text("a" * (40 << 20)) + b"0" + text("b" * (40 << 20))
    path = archive(tmp_path / "x.bin", state(b"N" + long))

    assert "operation b'0'" in str(refused(path))
    path = archive(tmp_path / "x.bin", state(b"N" + long.replace(b"0", b"", 1)))
    assert "longer than any" in str(refused(path))
