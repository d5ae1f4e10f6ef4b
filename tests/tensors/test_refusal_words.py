"""Each refusal of a file of tensors says what is wrong with it, and what to do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pickling import CALL, archive, number, state, storage, tensor, text
from safetensors.numpy import save_file
from unprivileged import unreadable

from adreg.registry.errors import JsonBroken, PickleRefused, TensorFileBroken
from adreg.registry.jsonio import read_object
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.checkpoint import Layout, read_layout
from adreg.registry.tensors.header import read_header
from adreg.registry.tensors.pickles import read_pickle
from adreg.registry.tensors.quantised import fourbit, mxfp4

AGAIN = "Fetch or save the file again."
RESAVE = "If you trust its source, load it there where it came from and save its state_dict()"

SAFETENSORS: dict[bytes, tuple[str, str]] = {
    b"12345": ("it has only 5 bytes and no header", AGAIN),
    b"version https://git-lfs": (
        "it is a git-lfs pointer, not the weights",
        "Fetch it with `git lfs pull`.",
    ),
    b"\xff" * 8: ("its header claims 18,446,744,073,709,551,615 bytes", AGAIN),
    b"\x09" + bytes(7): ("its header claims 9 bytes and the file has 8", AGAIN),
    b"\x02" + bytes(7) + b"\xff\xff": ("its header is broken: it is not UTF-8", AGAIN),
    b"\x02" + bytes(7) + b"[]": ("its header is not a JSON object", AGAIN),
    b"\x02" + bytes(7) + b"{}x": (
        "it is followed by unknown bytes: the header describes 10 bytes, the file has 11",
        AGAIN,
    ),
    b"\x13" + bytes(7) + b'{"__metadata__": 3}': (
        "its __metadata__ is not a map of text to text",
        AGAIN,
    ),
}


@pytest.mark.parametrize("data", SAFETENSORS)
def test_safetensors(tmp_path: Path, data: bytes) -> None:
    """The file and the fault stand in one sentence, the way on in another."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)

    with pytest.raises(TensorFileBroken) as refused:
        read_header(path)

    words, hint = SAFETENSORS[data]
    assert f"{path}: {words}" == refused.value.sentence
    assert hint == refused.value.hint


OTHERS: dict[bytes, tuple[str, str]] = {
    b"": ("it is empty", AGAIN),
    b"version https://git-lfs": (
        "it is a git-lfs pointer, not the weights",
        "Fetch it with `git lfs pull`.",
    ),
    b"<html>": (
        "it is a web page, not the weights",
        "Fetch the file itself; it may need a login.",
    ),
    b'{"a": 1}': ("it is text, not weights", AGAIN),
    b"GGUF\x03": ("it is GGUF under another name", "Use the checkpoint that it was made from."),
    b"\x89HDF\r": ("it is HDF5 under another name", "Use the checkpoint that torch saved."),
    b"\x1f\x8b\x08": ("it is compressed with gzip", "Unpack it first."),
    b"\x02" + bytes(7) + b"{}": (
        "it is safetensors under another name",
        "Rename it to end in .safetensors.",
    ),
}


@pytest.mark.parametrize("data", OTHERS)
def test_no_pickles(tmp_path: Path, data: bytes) -> None:
    """What is no pickle is called what it is, with what to do about it."""
    path = tmp_path / "x.bin"
    path.write_bytes(data)

    with pytest.raises(TensorFileBroken) as refused:
        read_pickle(path)

    words, hint = OTHERS[data]
    assert f"{path}: {words}" == refused.value.sentence
    assert hint == refused.value.hint


REBUILD = b"ctorch._utils\n_rebuild_"
THIRD = REBUILD + b"tensor_v3\n(" + storage() + number(0) + b"K\x04\x85K\x01\x85\x89N" + text("F32")
VIEW = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(4)

PICKLES: dict[str, tuple[bytes, str]] = {
    "code": (b"cos\nsystem\n" + text("id") + b"\x85R", "its pickle asks for os.system, which"),
    "view": (VIEW + text("view") + b"tQ", "it holds views of storages, as torch before 0.4 saved"),
    "operation": (b"\x82\x01", r"its pickle has the operation b'\x82', which no tensor needs"),
    "calls": (b"NNR", "its pickle calls what is no function of tensors"),
    "attributes": (b"N}b", "its pickle sets attributes of what has none"),
    "key": (b"}NNs", "a dict of its pickle has a key that is neither text nor a number"),
    "complex": (
        tensor(held=storage(kind=b"ctorch\nComplexDoubleStorage\n")),
        "the tensor 'w' has the type ComplexDoubleStorage, which safetensors does not have",
    ),
    "columns": (
        tensor(shape=b"K\x02K\x02\x86", strides=b"K\x01K\x02\x86"),
        "the tensor 'w' is a view whose elements do not lie in order",
    ),
    "lazy": (
        REBUILD + b"tensor_v2\n(" + storage() + number(0) + b"K\x04\x85K\x01\x85\x89}\x88tR",
        "a tensor is a lazy negation or conjugate, whose bytes are not its values",
    ),
}

LIES: dict[str, tuple[bytes, str]] = {
    "list": (CALL + b"K\x01\x85R", "an OrderedDict is made from no list"),
    "pairs": (CALL + b"]K\x01a\x85R", "an OrderedDict is made from no pairs"),
    "third": (THIRD + b"tR", "a tensor has no element type"),
    "parameter": (REBUILD + b"parameter\n(NN}tR", "a parameter is made from no tensor"),
    "size": (b"ctorch\nSize\n(" + text("x") + b"tR", "a torch.Size holds no sizes"),
    "append": (b"NNa", "its pickle appends to no list"),
    "name": (b"NN\x93", "its pickle names something by no text"),
    "storage": (tensor(held=b"N"), "a tensor is made from no storage"),
    "size of storage": (storage(count=-1), "a storage has an impossible place or size"),
    "nothing": (b"N", "it holds no tensors"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles(tmp_path: Path, case: str) -> None:
    """A pickle that asks for more than tensors: with what, and how to do without."""
    value, words = PICKLES[case]
    path = archive(tmp_path / "x.bin", state(value))

    with pytest.raises(PickleRefused) as refused:
        read_pickle(path)

    assert f"{path}: {words}" in refused.value.sentence
    assert RESAVE in refused.value.hint


@pytest.mark.parametrize("case", LIES)
def test_pickles_that_lie(tmp_path: Path, case: str) -> None:
    """A pickle that is broken: where, and what to do."""
    value, words = LIES[case]
    path = archive(tmp_path / "x.bin", state(value))

    with pytest.raises(TensorFileBroken) as refused:
        read_pickle(path)

    assert f"{path}: {words}" == refused.value.sentence
    assert AGAIN == refused.value.hint


def test_an_encrypted_entry(tmp_path: Path) -> None:
    """An entry with a password is named."""
    path = archive(tmp_path / "x.bin", state(tensor()))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"x/data/0") - 46 + 8] |= 1  # the list's flags (APPNOTE 4.3.12)
    path.write_bytes(data)

    with pytest.raises(PickleRefused, match="its entry x/data/0 is encrypted") as refused:
        read_pickle(path)

    assert RESAVE in refused.value.hint


def legacy(keys: object, value: bytes | None = None, version: int = 1001) -> bytes:
    """Return a file of torch before 1.6 with this list of storages."""
    first = [0x1950A86A20F9469CFC6C, version, {"little_endian": True}]
    made = state(tensor(held=VIEW + b"NtQ")) if value is None else value
    pickled = [*(pickle.dumps(one, 2) for one in first), made, pickle.dumps(keys, 2)]
    return b"".join(pickled) + (4).to_bytes(8, "little") + bytes(16)


COMPLEX = state(tensor(held=storage(kind=b"ctorch\nComplexDoubleStorage\n")))
LEGACY: dict[str, tuple[bytes, str, str]] = {
    "another pickle": (
        pickle.dumps(3, 2),
        "it is a pickle that torch.save did not write",
        RESAVE,
    ),
    "version": (
        legacy(["0"], version=7),
        "it is of a version of torch.save that is not known",
        RESAVE,
    ),
    "type": (
        legacy(["0"], COMPLEX),
        "it holds a ComplexDoubleStorage, which safetensors does not have",
        RESAVE,
    ),
    "no list": (legacy({}), "its list of storages is broken", AGAIN),
    "other list": (legacy(["7"]), "its list of storages does not agree with its tensors", AGAIN),
    "size": (
        legacy(["0"])[:-24] + bytes(24),
        "a storage has another size than its tensors say, or is cut off",
        AGAIN,
    ),
    "cut": (legacy(["0"])[:-1], "bytes are described, it has", AGAIN),
}


@pytest.mark.parametrize("case", LEGACY)
def test_the_older_format(tmp_path: Path, case: str) -> None:
    """The files of torch before 1.6 are refused in the same words."""
    data, words, hint = LEGACY[case]
    path = tmp_path / "x.bin"
    path.write_bytes(data)

    with pytest.raises((PickleRefused, TensorFileBroken)) as refused:
        read_pickle(path)

    assert str(path) in refused.value.sentence
    assert words in refused.value.sentence
    assert hint in refused.value.hint


def test_the_older_format_of_these_tests(tmp_path: Path) -> None:
    """What the tests above spoil is a file that torch and adreg read."""
    path = tmp_path / "x.bin"
    path.write_bytes(legacy(["0"]))

    assert torch.equal(torch.zeros(4), torch.load(path, weights_only=True)["w"])
    assert ["w"] == [one.name for one in read_pickle(path).tensors]


@pytest.mark.parametrize("read", [read_pickle, read_header, read_object])
def test_files_that_are_not_there(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """What the system says of a path stands in the sentence, and there is a hint."""
    path = tmp_path / "nothing"

    with pytest.raises(Exception, match="No such file or directory") as refused:
        read(path)

    assert f"{path}: No such file or directory" == str(refused.value)
    assert AGAIN == getattr(refused.value, "hint", None)


@pytest.mark.parametrize("read", [read_pickle, read_header, read_object])
def test_files_that_may_not_be_read(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """Nor is a file without the right to read it a crash."""
    (tmp_path / "x").write_text("x")

    with (
        unreadable(tmp_path, "x") as folder,
        pytest.raises(Exception, match="Permission denied") as refused,
    ):
        read(folder / "x")

    assert AGAIN == getattr(refused.value, "hint", None)


def test_long_json(tmp_path: Path) -> None:
    """A file of JSON that is longer than any real one is not read to its end."""
    path = tmp_path / "x.json"
    path.write_bytes(b"{" + b" " * 100 + b"}")

    with pytest.raises(Exception, match="it is larger than 50 bytes") as refused:
        read_object(path, max_bytes=50)

    assert AGAIN == getattr(refused.value, "hint", None)


STATE = "w.quant_state.bitsandbytes__nf4"


def layout_of(folder: Path, arrays: dict[str, Array]) -> tuple[Path, Layout]:
    """Save arrays, and read where they lie."""
    save_file(arrays, folder / "model.safetensors")
    return folder / "model.safetensors", read_layout(folder)


def test_states_of_quantisation(tmp_path: Path) -> None:
    """A state that is none, and blocks and scales that do not fit, are named with their file."""
    path, layout = layout_of(tmp_path, {STATE: np.ones(3, np.float32)})
    with TensorReader() as reader, pytest.raises(TensorFileBroken) as refused:
        fourbit.find(layout, reader)
    assert f"{path}: {STATE!r} is no quantisation state" == refused.value.sentence
    assert AGAIN == refused.value.hint

    blocks, scales = np.ones((2, 4, 3, 16), np.uint8), np.ones((2, 4, 2), np.uint8)
    path, layout = layout_of(tmp_path, {"w_blocks": blocks, "w_scales": scales})
    with pytest.raises(TensorFileBroken) as refused:
        mxfp4.find(layout)
    assert f"{path}: 'w_blocks' and 'w_scales' do not fit each other" == refused.value.sentence
    assert AGAIN == refused.value.hint


@pytest.mark.parametrize(
    ("data", "words", "hint"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1",
            "it is a git-lfs pointer, not the file itself",
            "Fetch it with `git lfs pull`.",
        ),
        (b"[]", "it is not valid JSON: it is not a JSON object", AGAIN),
        (b'{"a": 1, "a": 2}', "it is not valid JSON: the key 'a' stands twice", AGAIN),
    ],
)
def test_json(tmp_path: Path, data: bytes, words: str, hint: str) -> None:
    """What is no JSON object is named with its file."""
    path = tmp_path / "config.json"
    path.write_bytes(data)

    with pytest.raises(JsonBroken) as refused:
        read_object(path)

    assert f"{path}: {words}" == refused.value.sentence
    assert hint == refused.value.hint
