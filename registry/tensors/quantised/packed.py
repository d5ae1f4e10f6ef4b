"""GPTQ and AWQ: w[o, i] = scales[g(i), o] * (q[i, o] - zeros[g(i), o]), stored as (in, out).

Frantar et al., 2022 (arXiv 2210.17323); Lin et al., 2023 (arXiv 2306.00978). GPTQ packs q
along the inputs and keeps zeros - 1 (AutoGPTQ 0.7, "gptq" format; "gptq_v2" keeps zeros);
AWQ packs along the outputs in the order 0 2 4 6 1 3 5 7 (AutoAWQ 0.2, "gemm").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.checkpoint import Layout
from adreg.registry.tensors.quantised.bits import unpack_columns
from adreg.registry.tensors.quantised.decoder import Found
from adreg.registry.tensors.quantised.grid import groups_within
from adreg.registry.tensors.quantised.stored import Stored

_UNINTERLEAVED = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Which nibble of an AWQ word holds each of its eight columns."""

_BITS = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Packed:
    """One GPTQ or AWQ weight, seen as (out, in); ``order`` is GPTQ's g_idx, if it has one.

    ``plus`` is added to the stored zeros, within their bits.
    """

    words: Stored
    zeros: Stored
    scales: Stored
    order: Stored | None
    bits: int
    group: int
    columns: int
    awq: bool
    plus: int

    @property
    def rows(self) -> int:
        """The outputs."""
        return self.scales.columns

    def window(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Decode a window; whole words are read."""
        values = self._codes(reader, rows, columns)
        if self.order is None:
            groups = np.arange(columns.start, columns.stop) // self.group
        else:
            groups = groups_within(reader, self.order, columns, self.scales.rows)
        part = slice(int(groups.min()), int(groups.max()) + 1)
        zeros = self._along_outputs(reader, self.zeros, part, rows)
        # Stored as zero - 1 in as many bits, 0 is all ones: the sum wraps back.
        zeros = (zeros + np.uint8(self.plus)) & np.uint8((1 << self.bits) - 1)
        scales = np.ascontiguousarray(self.scales.floats(reader, part, rows).T)
        which = groups - part.start
        result: Array = values.astype(np.float32)
        result -= np.ascontiguousarray(zeros.T).astype(np.float32).take(which, axis=1)
        result *= scales.take(which, axis=1)
        return result

    def _codes(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Return the codes (out, in) of a window."""
        if self.awq:
            return self._along_outputs(reader, self.words, columns, rows).T
        per_word = 32 // self.bits
        first, last = columns.start // per_word, -(-columns.stop // per_word)
        words = self.words.window(reader, slice(first, last), rows)
        values = unpack_columns(words.T, self.bits)
        return values[:, columns.start - first * per_word : columns.stop - first * per_word]

    def _along_outputs(
        self, reader: TensorReader, words: Stored, rows: slice, outputs: slice
    ) -> Array:
        """Return values that are packed along the outputs, (rows, outputs)."""
        per_word = 32 // self.bits
        first, last = outputs.start // per_word, -(-outputs.stop // per_word)
        values = unpack_columns(words.window(reader, rows, slice(first, last)), self.bits)
        if self.awq:
            values = values.reshape(len(values), -1, per_word)[:, :, _UNINTERLEAVED]
            values = values.reshape(len(values), -1)
        return values[:, outputs.start - first * per_word : outputs.stop - first * per_word]


def find(layout: Layout, *, zeros_kept: bool = False) -> list[Found]:
    """Return the weights of a layout that are GPTQ of 2, 4 or 8 bits, or AWQ of 4.

    ``zeros_kept`` tells that GPTQ's zeros are not stored minus one (``checkpoint_format``
    "gptq_v2"). What has other shapes than these layouts is left out.
    """
    found = []
    for tensor in layout:
        if tensor.name.endswith(".qweight") and tensor.dtype == "I32" and len(tensor.shape) == 2:
            one = _one(layout, tensor.name.removesuffix(".qweight"), zeros_kept=zeros_kept)
            if one is not None:
                found.append(one)
    return found


def _one(layout: Layout, module: str, *, zeros_kept: bool) -> Found | None:
    names = [f"{module}.{part}" for part in ("qweight", "qzeros", "scales")]
    if not all(name in layout and len(layout[name].shape) == 2 for name in names):
        return None
    words, zeros, scales = (Stored.of(layout, name) for name in names)
    outputs = scales.columns
    awq = words.columns * 8 == outputs and words.columns == zeros.columns
    bits = [4] if awq else [b for b in _BITS if outputs * b == zeros.columns * 32]
    if (
        zeros.info.dtype != "I32"
        or scales.info.dtype not in {"F16", "BF16", "F32"}
        or not scales.rows
        or zeros.rows != scales.rows
        or not bits
        or (not awq and words.columns != outputs)
    ):
        return None
    inputs = words.rows if awq else words.rows * 32 // bits[0]
    used, order = set(names), None
    if f"{module}.g_idx" in layout:
        order = Stored.of(layout, f"{module}.g_idx")
        used.add(order.info.name)
    known = order is None or (order.info.dtype == "I32" and order.info.shape == (inputs,))
    if not known or (order is None and inputs % scales.rows):
        return None
    matrix = Packed(
        words=words,
        zeros=zeros,
        scales=scales,
        order=order,
        bits=bits[0],
        group=inputs // scales.rows,
        columns=inputs,
        awq=awq,
        plus=0 if awq or zeros_kept else 1,
    )
    return Found(f"{module}.weight", (outputs, inputs), names[0], frozenset(used), matrix)
