"""Hashing and writing back behind the writer of a large file, so that it need not wait.

The kernel keeps written pages until it must give them up, and handing out memory for
them is what limits a merge: pages that are written back and dropped at once leave its
time short and steady (benchmarks/README.md).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, final

_WINDOW = 8 << 20
"""Bytes that are written back together."""

_PENDING = 8
"""Blocks that may wait to be hashed."""

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # linux/fs.h, SYNC_FILE_RANGE_*


def _load() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    call: Any = getattr(library, "sync_file_range", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call  # type: ignore[no-any-return]  # a foreign function


_SYNC = _load()


@final
class Behind:
    """A thread that follows the writer of one file: hashes its blocks, writes its pages back."""

    def __init__(self, descriptor: int, update: Callable[[memoryview], object]) -> None:
        """Start nothing yet; ``update`` takes the blocks in order."""
        self._descriptor, self._update = descriptor, update
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="adreg-behind")
        self._waiting: deque[Future[None]] = deque()
        self._written = self._started = self._dropped = 0

    def wrote(self, block: memoryview) -> None:
        """Tell of a block that was written; it must not change until ``finish``."""
        self._waiting.append(self._pool.submit(self._follow, block))
        while len(self._waiting) > _PENDING:
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all is hashed."""
        while self._waiting:
            self._waiting.popleft().result()
        self._pool.shutdown()

    def abandon(self) -> None:
        """Stop without a result."""
        self._pool.shutdown(cancel_futures=True)

    def _follow(self, block: memoryview) -> None:
        self._update(block)
        self._written += len(block)
        if _SYNC is None or self._written - self._started < _WINDOW:
            return
        # What fails here is written back by fsync all the same, which tells of errors.
        _SYNC(self._descriptor, self._started, self._written - self._started, _WRITE)
        if self._started > self._dropped:
            size = self._started - self._dropped
            _SYNC(self._descriptor, self._dropped, size, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            os.posix_fadvise(self._descriptor, self._dropped, size, os.POSIX_FADV_DONTNEED)
        self._dropped, self._started = self._started, self._written
