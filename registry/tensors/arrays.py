"""Tensors as numpy arrays, read by slices so that no tensor need be held whole.

numpy has no bfloat16; ml_dtypes adds it, with correct rounding (to nearest, ties to even).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from adreg.registry.errors import TensorFileBroken
from adreg.registry.tensors.header import TensorInfo

Array = NDArray[Any]

NUMPY: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
"""The numpy type of each float type."""

LARGEST: dict[str, float] = {
    code: float(ml_dtypes.finfo(dtype).max) for code, dtype in NUMPY.items()
}
"""The largest finite value of each float type."""


@final
class TensorReader:
    """Open safetensors files that are read from by slices; safe to share between threads.

    Files are opened when first used and closed together by ``close`` or ``with``.
    ``bytes_read`` counts what was asked of the files.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> TensorReader:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all files."""
        self.close()

    def close(self) -> None:
        """Close all files; reading again opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def open(self, path: Path) -> int:
        """Return the descriptor of a file, opened for reading. Raises TensorFileBroken."""
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            try:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            except OSError as error:
                raise TensorFileBroken(path, error.strerror or str(error)) from error
            # Two threads may open the same file at once; setdefault keeps one of them.
            if (kept := self._descriptors.setdefault(path, descriptor)) != descriptor:
                os.close(descriptor)
                return kept
        return descriptor

    def read_into(self, path: Path, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes at ``offset``; raise TensorFileBroken at the end."""
        descriptor = self.open(path)
        done = 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise TensorFileBroken(path, "it became shorter while it was read")
            done += count

    def read(
        self,
        path: Path,
        info: TensorInfo,
        start: int = 0,
        stop: int | None = None,
        into: Array | None = None,
    ) -> Array:
        """Read elements [start, stop) of a float tensor, flat, in its own dtype.

        ``into`` is a flat array of that length and dtype to fill and return.
        """
        dtype = NUMPY[info.dtype]
        stop = info.count if stop is None else stop
        array = np.empty(stop - start, dtype) if into is None else into
        view = array.view(np.uint8).data if stop > start else memoryview(b"")
        self.read_into(path, info.start + start * dtype.itemsize, view)
        return array


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Keep numpy's products on the calling thread.

    With its own pool, OpenBLAS cuts a product differently for another number of
    cores, and the bits of the sum change with it.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  # 20 ms that only merges need

    with threadpool_limits(1, user_api="blas"):
        yield


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # malloc.h, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks of megabytes for the next ones of their size.

    glibc gives each back to the kernel, which clears a new one for the next: that took
    half of a merge's system time. It holds for the process from then on.
    """
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if (set_option := getattr(library, "mallopt", None)) is not None:
        set_option(_MMAP_THRESHOLD, 64 << 20)
        set_option(_TRIM_THRESHOLD, 256 << 20)
