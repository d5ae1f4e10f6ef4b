"""Writing headers and spreading tensors over shards, judged by the safetensors library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from adreg.registry.tensors.arrays import Array
from adreg.registry.tensors.encode import Entry, encode_header, shard_names, spread
from adreg.registry.tensors.header import read_header


def test_the_library_reads_it(tmp_path: Path) -> None:
    """Safetensors reads a header of ours with the same tensors, metadata and values."""
    arrays: dict[str, Array] = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.größe": np.array([1, 2, 3], np.int16),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4), np.float16),
    }
    codes = {"f4": "F32", "i2": "I16", "f8": "F64", "f2": "F16"}
    entries = [Entry(n, codes[a.dtype.str[1:]], a.shape) for n, a in arrays.items()]
    path = tmp_path / "x.safetensors"
    header = encode_header(entries, {"format": "pt"})
    path.write_bytes(header + b"".join(a.tobytes() for a in arrays.values()))

    assert 0 == len(header) % 8
    with safetensors.safe_open(path, "np") as file:
        assert {"format": "pt"} == file.metadata()
    read = safetensors.numpy.load_file(path)
    assert set(arrays) == set(read)
    for name, array in arrays.items():
        assert array.dtype == read[name].dtype
        assert np.array_equal(array, read[name])
    assert set(arrays) == {tensor.name for tensor in read_header(path).tensors}


def test_an_entry_knows_its_bytes() -> None:
    """Bytes follow from the dtype and the shape; a scalar is one element."""
    assert 2 * 3 * 2 == Entry("a", "BF16", (2, 3)).nbytes
    assert 8 == Entry("a", "I64", ()).nbytes
    assert 0 == Entry("a", "F32", (0, 5)).nbytes


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50), max_size=30),
    most=st.integers(1, 60),
)
def test_shards(sizes: list[int], most: int) -> None:
    """Shards keep the order, none is empty, and none is too large but by a single tensor."""
    entries = [Entry(str(n), "U8", (size,)) for n, size in enumerate(sizes)]
    shards = spread(entries, most)

    assert entries == [entry for shard in shards for entry in shard]
    for shard in shards:
        assert shard
        rest = sum(entry.nbytes for entry in shard[1:])
        assert shard[0].nbytes + rest <= most or rest == 0


def test_names_of_shards() -> None:
    """Files are called as transformers calls them."""
    assert ["model.safetensors"] == shard_names(1)
    assert ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] == shard_names(
        2
    )
