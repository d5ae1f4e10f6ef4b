"""Reading tensors by slices, from several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adreg.registry.errors import TensorFileBroken
from adreg.registry.tensors.arrays import LARGEST, NUMPY, TensorReader
from adreg.registry.tensors.header import TensorFile, read_header

TENSORS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@pytest.fixture
def file(tmp_path: Path) -> TensorFile:
    """Return a file with the numbers 0 to 99 in each float type, and an empty tensor."""
    path = tmp_path / "x.safetensors"
    tensors = {code: torch.arange(100).to(dtype).reshape(10, 10) for code, dtype in TENSORS.items()}
    save_file({**tensors, "none": torch.zeros(0, 3)}, path)
    return read_header(path)


def test_slices(file: TensorFile) -> None:
    """Elements come flat, in their own dtype, whole or from start to stop."""
    with TensorReader() as reader:
        for info in file.tensors:
            whole = reader.read(file.path, info)
            part = reader.read(file.path, info, 13, 57) if info.count else whole

            assert NUMPY[info.dtype] == whole.dtype
            assert list(range(info.count)) == whole.astype(float).tolist()
            assert list(range(13, 57)) == part.astype(float).tolist() or not info.count


def test_threads(file: TensorFile) -> None:
    """Threads that read the same file at once get what they asked for; the file opens once."""
    info = next(info for info in file.tensors if info.name == "F32")
    with TensorReader() as reader, ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda n: reader.read(file.path, info, n, n + 1)[0], range(100)))

        assert 1 == len(reader._descriptors)
    assert list(range(100)) == parts
    assert {} == reader._descriptors


def test_a_file_that_shrinks(file: TensorFile) -> None:
    """A file that became shorter since its header was read is TensorFileBroken."""
    info = file.tensors[-1] if file.tensors[-1].nbytes else file.tensors[0]
    file.path.write_bytes(file.path.read_bytes()[: info.end - 1])

    with TensorReader() as reader, pytest.raises(TensorFileBroken, match="became shorter"):
        reader.read(file.path, info)


def test_a_file_that_is_gone(file: TensorFile) -> None:
    """A file that went away since is TensorFileBroken."""
    file.path.unlink()

    with TensorReader() as reader, pytest.raises(TensorFileBroken, match="No such file"):
        reader.read(file.path, file.tensors[0])


def test_largest() -> None:
    """The largest finite values are those that torch knows."""
    assert {code: torch.finfo(dtype).max for code, dtype in TENSORS.items()} == LARGEST


def test_rounding_to_bfloat16() -> None:
    """ml_dtypes rounds float32 to bfloat16 as torch does: to nearest, ties to even."""
    bits = np.random.default_rng(0).integers(0, 0x7F7F0000, 100_000, dtype=np.uint32)
    bits = np.concatenate([bits, (bits & 0xFFFF0000) | 0x8000])  # and ties
    values = bits.view(np.float32)
    ours = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()

    assert np.array_equal(ours, theirs)
