"""Are all values of an adapter finite? Read in small pieces, so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

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
                values = "value that is" if bad == 1 else "values that are"
                reasons.append(f"the tensor {tensor.key!r} has {bad:,} {values} not finite")
    return sorted(reasons)


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
