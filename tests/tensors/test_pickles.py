"""Files of torch.save: what is read of them is what torch reads of them."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from adreg.registry.errors import PickleRefused, TensorFileBroken
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.header import TensorFile
from adreg.registry.tensors.pickles import read_pickle

CODES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
}
UNTYPED = {
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint16,
    torch.uint32,
    torch.uint64,
}
"""Types that torch can save in the older format, but not load (2.13: an AttributeError)."""

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def save(value: object, path: Path, *, new: bool = True, protocol: int = 2) -> Path:
    """Save with torch, in the format of now or of before 1.6."""
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    return path


def raw(tensor: torch.Tensor) -> bytes:
    """Return a tensor's bytes in C's order."""
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def held(file: TensorFile) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return dtype, shape and bytes of each tensor, read where the description says."""
    found = {}
    with TensorReader() as reader:
        for tensor in file.tensors:
            buffer = bytearray(tensor.nbytes)
            reader.read_into(file.path, tensor.start, memoryview(buffer))
            found[tensor.name] = (tensor.dtype, tensor.shape, bytes(buffer))
    return found


def expected(state: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return the same of what torch loaded."""
    return {name: (CODES[t.dtype], tuple(t.shape), raw(t)) for name, t in state.items()}


def values(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Return a tensor in which no two neighbours are the same."""
    count = torch.Size(shape).numel()
    plain = torch.arange(1, count + 1, dtype=torch.float32).reshape(shape)
    return (plain % 2 if dtype is torch.bool else plain).to(dtype)


@FORMATS
@pytest.mark.parametrize("dtype", CODES, ids=CODES.values())
def test_each_type(tmp_path: Path, dtype: torch.dtype, *, new: bool) -> None:
    """A tensor of each type is found with the bytes that torch loads."""
    state = {"w": values(dtype, 3, 5), "one": values(dtype, 1)[0], "none": values(dtype, 0, 4)}
    path = save(state, tmp_path / "x.bin", new=new)

    loaded = state if dtype in UNTYPED and not new else torch.load(path, weights_only=True)

    assert expected(loaded) == held(read_pickle(path))


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_each_protocol(tmp_path: Path, protocol: int, *, new: bool) -> None:
    """The pickle's protocol makes no difference, from 2 on."""
    state = OrderedDict(a=values(torch.float32, 4), b=values(torch.bfloat16, 2, 2))
    path = save(state, tmp_path / "x.bin", new=new, protocol=protocol)

    assert expected(state) == held(read_pickle(path))


@FORMATS
def test_a_module(tmp_path: Path, *, new: bool) -> None:
    """A module's state_dict, with its versions as attributes, is read as it is."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    path = save(module.state_dict(), tmp_path / "x.bin", new=new)

    assert expected(torch.load(path, weights_only=True)) == held(read_pickle(path))
    assert "1.num_batches_tracked" in held(read_pickle(path))


@FORMATS
def test_parameters_and_prefixes(tmp_path: Path, *, new: bool) -> None:
    """Parameters are tensors, as raw dumps of requires_grad hold them; keys stay as they are."""
    key = "base_model.model.layers.0.q_proj.lora_A.default.weight"
    state = {key: torch.nn.Parameter(values(torch.float16, 4, 8)), "b": values(torch.float32, 2)}
    path = save(state, tmp_path / "x.bin", new=new)

    assert expected(torch.load(path, weights_only=True)) == held(read_pickle(path))


@FORMATS
def test_tied_weights_and_views(tmp_path: Path, *, new: bool) -> None:
    """Two names of one storage have one range, and a view of it a part of that range."""
    whole = values(torch.float32, 6, 4)
    state = {"head": whole, "embed": whole, "rows": whole[2:4], "flat": whole.view(-1)[3:7]}
    path = save(state, tmp_path / "x.bin", new=new)

    file = read_pickle(path)

    assert expected(torch.load(path, weights_only=True)) == held(file)
    places = {tensor.name: (tensor.start, tensor.end) for tensor in file.tensors}
    assert places["head"] == places["embed"]
    assert places["rows"] == (places["head"][0] + 32, places["head"][0] + 64)
    assert sorted((t.start, t.end, t.name) for t in file.tensors) == [
        (t.start, t.end, t.name) for t in file.tensors
    ]


def rewrite(path: Path, *replacements: tuple[bytes, bytes]) -> None:
    """Replace bytes of the pickle in a zip of torch; an entry's place moves with it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            for old, new in replacements if name.endswith("data.pkl") else ():
                assert old in data
                data = data.replace(old, new)  # noqa: PLW2901  # one after the other
            archive.writestr(name, data)


def test_storages_of_a_gpu(tmp_path: Path) -> None:
    """Storages that lay on a GPU are read like any, of both spellings that torch has had."""
    state = {"w": values(torch.float32, 3, 3), "h": values(torch.float16, 2)}
    path = save(state, tmp_path / "x.bin")
    rewrite(
        path,
        (b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"),
        (b"ctorch\nHalfStorage", b"ctorch.cuda\nHalfStorage"),
    )
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)

    assert expected(state) == held(read_pickle(path))


def test_storages_of_a_gpu_in_the_older_format(tmp_path: Path) -> None:
    """The same of files from before torch 1.6."""
    state = {"w": values(torch.float32, 3, 3), "h": values(torch.float16, 2)}
    path = save(state, tmp_path / "x.bin", new=False)
    old, new = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    assert path.read_bytes().count(old) == 1  # the second storage takes it from the memo
    path.write_bytes(path.read_bytes().replace(old, new))

    loaded = torch.load(path, weights_only=True, map_location="cpu")

    assert expected(loaded) == expected(state) == held(read_pickle(path))


@FORMATS
@pytest.mark.parametrize("key", ["state_dict", "model", "module", "model_state_dict"])
def test_a_state_dict_beside_other_things(tmp_path: Path, key: str, *, new: bool) -> None:
    """The weights of a training checkpoint are unwrapped; what holds no weights is named."""
    state = {"w": values(torch.float32, 3), "scale": 2.0, "note": "x", "nothing": None}
    saved = {key: state, "epoch": 3, "args": {"lr": 1e-4, "betas": (0.9, 0.99)}}
    file = read_pickle(save(saved, tmp_path / "x.bin", new=new))

    assert expected({"w": state["w"]}) == held(file)
    assert {"left_out": "args, epoch, note, nothing, scale"} == file.metadata


@FORMATS
@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"a": torch.ones(2, 3).t()}, "'a' is a view whose elements do not lie in order"),
        ({"a": torch.ones(1).expand(4)}, "'a' is a view"),
        ({"a": torch.ones(8)[::2]}, "'a' is a view"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "ComplexDoubleStorage"),
        ({"a": torch.ones(2, dtype=torch.complex64).conj()}, "lazy negation or conjugate"),
        ({"a": torch.ones(2).to_sparse()}, "asks for torch._utils._rebuild_sparse_tensor"),
        ({"a": torch.ones(2), "b": {"c": torch.ones(2)}}, "'b' is neither a tensor nor"),
        ({"a": torch.ones(2), "b": [1, 2]}, "'b' is neither a tensor nor"),
        ({"model": {"a": torch.ones(2)}, "optimizer": {0: torch.ones(2)}}, "model, optimizer"),
        ({"what": {"a": torch.ones(2)}}, "'what', which is no known state dict"),
        ({"model": [torch.ones(2)]}, "'model', which is no known state dict"),
        ({3: torch.ones(2)}, "the tensor name '3' is not allowed"),
        ({"../a": torch.ones(2)}, "is not allowed"),
        ({"a\x1b[2J": torch.ones(2)}, "is not allowed"),
        ({"": torch.ones(2)}, "is not allowed"),
        ({("a", "b"): torch.ones(2)}, "neither text nor a number"),
        ([torch.ones(2)], "it holds no dict of tensors"),
        (torch.ones(2), "it holds no dict of tensors"),
        (torch.nn.Linear(2, 2), "asks for torch.nn.modules.linear.Linear, which is code"),
        ({"a": {1, 2}}, "__builtin__.set"),
    ],
)
def test_what_no_file_of_tensors_holds(
    tmp_path: Path, saved: object, words: str, *, new: bool
) -> None:
    """What safetensors could not say is refused by name, never dropped or bent."""
    path = save(saved, tmp_path / "x.bin", new=new)

    with pytest.raises(PickleRefused) as caught:
        read_pickle(path)

    assert words in str(caught.value)
    assert "state_dict()" in caught.value.hint


def test_lengths_of_one(tmp_path: Path) -> None:
    """A dimension of one element may have any stride: torch leaves odd ones there."""
    odd = torch.arange(6.0).as_strided((1, 3, 1, 2), (99, 2, 7, 1))
    path = save({"a": odd, "none": torch.ones(3, 0).t()}, tmp_path / "x.bin")

    assert expected(torch.load(path, weights_only=True)) == held(read_pickle(path))


@FORMATS
@pytest.mark.parametrize("saved", [{}, OrderedDict(), {"state_dict": {}}, {"epoch": 3}])
def test_empty(tmp_path: Path, saved: object, *, new: bool) -> None:
    """A file without a tensor is called empty, such as those that a script saved too late."""
    path = save(saved, tmp_path / "x.bin", new=new)

    with pytest.raises(TensorFileBroken, match="it holds no tensors") as caught:
        read_pickle(path)

    assert ("an empty dict" in str(caught.value)) == (not saved)


def test_a_look_needs_no_weights(tmp_path: Path) -> None:
    """Only the pickle and the list of entries are read: the weights may be of any size."""
    path = save({"w": values(torch.float32, 512, 512)}, tmp_path / "x.bin")
    before = path.read_bytes()
    (tensor,) = read_pickle(path).tensors
    blank = bytes(tensor.nbytes)
    path.write_bytes(before[: tensor.start] + blank + before[tensor.end :])

    assert (tensor,) == read_pickle(path).tensors
