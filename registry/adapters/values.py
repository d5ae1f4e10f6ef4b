"""Are all values of an adapter finite? Read in small pieces, so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import DTypeLike

from adreg.registry.adapters.spec import AdapterTensor
from adreg.registry.tensors.arrays import TensorReader

_PIECE = 1 << 20

_EXPONENTS: dict[str, tuple[DTypeLike, int]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}
"""The bits of the exponent; all of them set means infinite or not a number (IEEE 754)."""


@final
class PassingValues:
    """Looks at the values of an adapter while the bytes of its file pass by, in order."""

    def __init__(self, tensors: Iterable[AdapterTensor]) -> None:
        """Take the tensors of one file."""
        self._tensors = sorted(tensors, key=lambda tensor: tensor.info.start)
        self._next = self._at = 0
        self._part = b""  # the begin of an element that is cut by the end of a block
        self._bad = 0
        self._reasons: list[str] = []

    def see(self, block: bytes) -> None:
        """Look at the next bytes of the file."""
        begin, end = self._at, self._at + len(block)
        view = memoryview(block)
        while self._next < len(self._tensors):
            info = self._tensors[self._next].info
            if info.start >= end and info.end > info.start:
                break
            self._count(info.dtype, view[max(info.start - begin, 0) : max(info.end - begin, 0)])
            if info.end > end:
                break
            self._tell(self._tensors[self._next].key)
            self._next += 1
        self._at = end

    def reasons(self) -> list[str]:
        """Return a reason for each tensor with a value that is not finite."""
        return sorted(self._reasons)

    def _count(self, dtype: str, data: memoryview) -> None:
        if not (known := _EXPONENTS.get(dtype)):
            return
        unsigned = np.dtype(known[0])
        mask = unsigned.type(known[1])
        joined = memoryview(self._part + bytes(data)) if self._part else data
        whole = len(joined) - len(joined) % unsigned.itemsize
        bits = np.frombuffer(joined[:whole], unsigned)
        self._bad += int(np.count_nonzero((bits & mask) == mask))
        self._part = bytes(joined[whole:])

    def _tell(self, key: str) -> None:
        if self._bad:
            self._reasons.append(_reason(key, self._bad))
        self._bad, self._part = 0, b""


def check_values(
    path: Path, tensors: Iterable[AdapterTensor], advance: Callable[[int], None]
) -> list[str]:
    """Return a reason for each tensor with a value that is not finite. Raises TensorFileBroken."""
    reasons = []
    with TensorReader() as reader:
        for tensor in sorted(tensors, key=lambda tensor: tensor.info.start):
            if not (known := _EXPONENTS.get(tensor.info.dtype)):
                continue
            bad = _count_bad(reader, path, tensor, known, advance)
            if bad:
                reasons.append(_reason(tensor.key, bad))
    return sorted(reasons)


def _reason(key: str, bad: int) -> str:
    values = "value that is" if bad == 1 else "values that are"
    return f"the tensor {key!r} has {bad:,} {values} not finite"


def _count_bad(
    reader: TensorReader,
    path: Path,
    tensor: AdapterTensor,
    known: tuple[DTypeLike, int],
    advance: Callable[[int], None],
) -> int:
    unsigned = np.dtype(known[0])
    mask = unsigned.type(known[1])
    step = _PIECE // unsigned.itemsize
    bad = 0
    for start in range(0, tensor.info.count, step):
        stop = min(start + step, tensor.info.count)
        bits = reader.read(path, tensor.info, start, stop).view(unsigned)
        bits &= mask
        bad += int(np.count_nonzero(bits == mask))
        advance(bits.nbytes)
    return bad
