"""Files of torch.save that lie, are cut short, or are something else."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch
from pickling import archive, refused, state, tensor
from safetensors.torch import save_file

from adreg.registry.errors import PickleRefused, TensorFileBroken
from adreg.registry.tensors.pickles import read_pickle
from adreg.registry.tensors.unpickle import MAX_BYTES


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
