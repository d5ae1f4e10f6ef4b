"""MXFP4 experts as gpt-oss keeps them: ``X_blocks`` and ``X_scales`` for a fused ``X``.

The values are E2M1 with one E8M0 scale for 32 of them (Open Compute Project,
Microscaling Formats v1.0). The turned axes are those of transformers 5.23,
integrations/mxfp4.py: X is (experts, in, out), stored as (experts, out, in / 32, 16).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adreg.registry.errors import TensorFileBroken
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.checkpoint import Layout
from adreg.registry.tensors.quantised.decoder import Found
from adreg.registry.tensors.quantised.stored import Stored

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([E2M1, -E2M1])
"""The value of each 4-bit code."""

_PAIRS = np.stack([E2M1[np.arange(256) & 15], E2M1[np.arange(256) >> 4]], axis=1)
"""The two values of a byte, the first in the low nibble."""

_GROUP = 32
_BLOCKS, _SCALES = "_blocks", "_scales"


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """w = E2M1[code] * 2^(scale - 127), the first of two in the low nibble."""

    blocks: Stored  # (experts * out, in / 2) bytes
    scales: Stored  # (experts * out, in / 32)

    @property
    def rows(self) -> int:
        """Experts times outputs."""
        return self.scales.rows

    @property
    def columns(self) -> int:
        """Inputs."""
        return self.scales.columns * _GROUP

    def window(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Decode a window; whole groups of 32 columns are read."""
        first, last = columns.start // _GROUP, -(-columns.stop // _GROUP)
        half = _GROUP // 2
        packed = self.blocks.window(reader, rows, slice(first * half, last * half))
        exponents = self.scales.window(reader, rows, slice(first, last)).astype(np.int32)
        values = _PAIRS[packed].reshape(len(packed), last - first, _GROUP)
        values *= np.ldexp(np.float32(1), exponents - 127)[:, :, None]
        decoded = values.reshape(len(packed), -1)
        return decoded[:, columns.start - first * _GROUP : columns.stop - first * _GROUP]


def find(layout: Layout) -> list[Found]:
    """Return the experts of a layout that are MXFP4; raise TensorFileBroken for half ones."""
    found = []
    for tensor in layout:
        if not tensor.name.endswith(_BLOCKS) or tensor.dtype != "U8":
            continue
        name = tensor.name.removesuffix(_BLOCKS)
        scales = name + _SCALES
        path = layout.places[tensor.name][0].path
        if scales not in layout:
            raise TensorFileBroken(path, f"{scales!r} is missing, which belongs to {tensor.name!r}")
        info, shape = layout[scales], tensor.shape
        if len(shape) != 4 or shape[-1] != 16 or info.shape != shape[:-1] or info.dtype != "U8":
            raise TensorFileBroken(path, f"{tensor.name!r} and {scales!r} do not fit each other")
        experts, out, groups, _ = shape
        matrix = Mxfp4(
            Stored.of(layout, tensor.name, columns=groups * 16), Stored.of(layout, scales)
        )
        logical = (experts, groups * _GROUP, out)
        used = frozenset({tensor.name, scales})
        found.append(
            Found(name, logical, tensor.name, used, matrix, transposed=True, stack=experts)
        )
    return found
