"""Pickles that want to run, to fill the memory, to take for ever, or that lie."""

from __future__ import annotations

import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adreg.registry.errors import InputRefused, PickleRefused, TensorFileBroken
from adreg.registry.tensors.pickles import read_pickle
from adreg.registry.tensors.unpickle import MAX_BYTES, MAX_OPERATIONS

MARKED = "adreg-test-was-run"


class Runs:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what the pickle calls."""
        return self.reduced


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


CALL = b"ccollections\nOrderedDict\n"


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


def test_zip_bomb(tmp_path: Path) -> None:
    """An entry that is compressed is refused before a byte of it is unpacked."""
    pickled = state(tensor())
    path = archive(tmp_path / "x.bin", pickled + bytes(MAX_BYTES), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < MAX_BYTES / 100

    assert "is compressed, which torch.save never does" in str(refused(path))


def test_compressed_weights(tmp_path: Path) -> None:
    """So are compressed weights, whose bytes are not the tensor's."""
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", state(tensor()))
        file.writestr("x/data/0", bytes(16), zipfile.ZIP_DEFLATED)

    assert "its entry x/data/0 is compressed, which torch.save never does" in str(refused(path))


def test_a_pickle_that_is_too_long(tmp_path: Path) -> None:
    """A pickle longer than any of a checkpoint's is not read to its end."""
    long = text("a" * (40 << 20)) + b"0" + text("b" * (40 << 20))
    path = archive(tmp_path / "x.bin", state(b"N" + long))

    assert "operation b'0'" in str(refused(path))
    path = archive(tmp_path / "x.bin", state(b"N" + long.replace(b"0", b"", 1)))
    assert "longer than any" in str(refused(path))


def test_other_archives(tmp_path: Path) -> None:
    """A zip of something else, TorchScript and big-endian files are called what they are."""
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "x")
    assert "a zip archive that torch.save did not write" in str(refused(path))

    archive(path, state(tensor()), others={"x/constants.pkl": b"\x80\x02)."})
    assert "it is TorchScript" in str(refused(path))

    archive(path, state(tensor()), others={"x/byteorder": b"big"})
    assert "a big-endian machine" in str(refused(path))


def test_a_list_that_is_too_long(tmp_path: Path) -> None:
    """A list of entries that would fill the memory is not read to its end."""
    others = {f"x/{n}" + "y" * 60_000: b"" for n in range(300)}

    error = refused(archive(tmp_path / "x.bin", state(tensor()), others=others))

    assert "list of entries is longer than any" in str(error)


def test_one_name_twice(tmp_path: Path) -> None:
    """Of two entries of one name, two readers take two."""
    path = archive(tmp_path / "x.bin", state(tensor()))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("x/data/0", bytes(16))

    assert "two entries of its zip archive have one name" in str(refused(path))


def test_an_entry_beyond_the_end(tmp_path: Path) -> None:
    """An archive whose list points elsewhere is broken, not followed."""
    path = archive(tmp_path / "x.bin", state(tensor()))
    data = path.read_bytes()
    entry = data.rindex(b"x/data/0") - 46
    for offset, value, words in (
        (42, 1 << 30, "is not where its zip archive says"),
        (42, 3, "is not where its zip archive says"),
        (20, None, "is compressed"),
        (24, None, "is compressed"),
    ):
        number = struct.pack("<I", 1 << 30 if value is None else value)
        path.write_bytes(data[: entry + offset] + number + data[entry + offset + 4 :])
        assert words in str(refused(path))
    sizes = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(data[: entry + 20] + sizes + data[entry + 28 :])
    assert "reaches beyond the end of the file" in str(refused(path))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_cut_short(tmp_path: Path, *, new: bool) -> None:
    """A file cut anywhere, or longer than it says, is an error in words and never a crash."""
    path = tmp_path / "x.bin"
    torch.save(
        {"w": torch.ones(8), "v": torch.ones(8).half()}, path, _use_new_zipfile_serialization=new
    )
    data = path.read_bytes()
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        refused(path)
    if not new:
        path.write_bytes(data + b"x")
        assert "followed by unknown bytes" in str(refused(path))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_flipped_bytes(tmp_path: Path, *, new: bool) -> None:
    """A file with a wrong byte is read or refused, and what is read lies within the file."""
    path = tmp_path / "x.bin"
    torch.save(
        {"w": torch.ones(8), "v": torch.ones(8).half()}, path, _use_new_zipfile_serialization=new
    )
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        try:
            file = read_pickle(path)
        except (PickleRefused, TensorFileBroken):
            continue
        assert all(0 < t.start <= t.end <= len(data) for t in file.tensors)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"\n <html>", "a web page"),
        (b'{"error": "not found"}', "it is text"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "its zip archive is broken"),
        (bytes(257) + b"ustar\x00" + bytes(300), "tar archive"),
        (bytes(100), "operation"),
        (b"\x80\x02", "cut short"),
    ],
)
def test_no_pickle(tmp_path: Path, data: bytes, words: str) -> None:
    """What is no pickle at all is called what it is."""
    (tmp_path / "x.bin").write_bytes(data)

    assert words in str(refused(tmp_path / "x.bin"))


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    """Renamed safetensors are recognised, with the advice to name them right."""
    save_file({"a": torch.ones(2)}, tmp_path / "x.bin")

    error = refused(tmp_path / "x.bin")

    assert "it is safetensors under another name" in str(error)
    assert ".safetensors" in error.hint


def test_no_file(tmp_path: Path) -> None:
    """A missing file and a folder are errors of this file."""
    for path in (tmp_path / "nothing.bin", tmp_path):
        with pytest.raises(TensorFileBroken):
            read_pickle(path)
