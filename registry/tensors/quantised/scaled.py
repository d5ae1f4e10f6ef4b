"""Which tensors of a checkpoint are codes with a grid of scales, by their names.

``X.weight`` of I8 with ``X.SCB``: LLM.int8. ``N`` of an 8-bit type with ``N_scale_inv``:
FP8 of DeepSeek-V3 and transformers. ``N`` with ``N_scale``: compressed-tensors, fbgemm,
ModelOpt. ``X.weight_packed`` with ``X.weight_scale``: compressed-tensors, packed.
"""

from __future__ import annotations

from collections.abc import Callable

from adreg.registry.errors import TensorFileBroken
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.checkpoint import Layout
from adreg.registry.tensors.quantised.decoder import Found
from adreg.registry.tensors.quantised.grid import (
    Blocks,
    Codes,
    Grid,
    PackedColumns,
    PackedRows,
    blocks_of,
)
from adreg.registry.tensors.quantised.stored import FLOATS8, Stored

_PACKED = "_packed"
_BITS = (4, 8, 2)
_SCALES = frozenset({"F32", "F16", "BF16", "F8_E8M0", "U8"})
_ROW_MAJOR = 0
"""LLM.int8's ``weight_format``; bitsandbytes 0.50.2 reads no other."""

_INT8_FACTOR = 7.874015718698502e-3
"""1 / 127, by which bitsandbytes 0.50.2 multiplies (int8_vectorwise_dequant)."""


def find(
    layout: Layout,
    reader: TensorReader,
    declared: tuple[int, int] | None = None,
    transposed: Callable[[str], bool] = lambda _: False,
) -> list[Found]:
    """Return the weights of a layout that have a grid of scales.

    ``declared`` is the size of a block, where the configuration names one; ``transposed``
    tells of a name that bitsandbytes was given turned round (see ``fourbit``). What has other
    shapes than these layouts is left out. Raises TensorFileBroken for states that lie.
    """
    found = []
    for tensor in layout:
        name = tensor.name
        one: Found | None = None
        if name.endswith(".weight_packed") and tensor.dtype == "I32":
            one = _packed(layout, reader, name)
        elif tensor.dtype == "I8" and name.removesuffix("weight") + "SCB" in layout:
            one = _int8(layout, reader, name, turned=transposed(name))
        elif tensor.dtype == "I8" or tensor.dtype in FLOATS8:
            one = _plain(layout, name, declared)
        if one is not None:
            found.append(one)
    return found


def _int8(layout: Layout, reader: TensorReader, name: str, *, turned: bool) -> Found | None:
    """W = q * SCB / 127, one SCB a row (Dettmers et al., 2022, arXiv 2208.07339)."""
    prefix = name.removesuffix("weight")
    codes, scales = Stored.of(layout, name), Stored.of(layout, prefix + "SCB")
    used = {name, prefix + "SCB"}
    if prefix + "weight_format" in layout:
        form = Stored.of(layout, prefix + "weight_format")
        used.add(form.info.name)
        if form.info.count != 1 or int(form.flat(reader, 0, 1)[0]) != _ROW_MAJOR:
            return None
    shape = codes.info.shape
    if len(shape) != 2 or scales.info.count != shape[0] or scales.info.dtype != "F32":
        raise TensorFileBroken(scales.path, f"{prefix}SCB does not fit {name!r}")
    rows = shape[0]
    blocks = Blocks(1, rows, rows, 1, 1, shape[1])
    grid = Grid(
        rows, shape[1], codes, _column(layout, scales.info.name), blocks, factor=_INT8_FACTOR
    )
    logical = (shape[1], rows) if turned else shape
    return Found(name, logical, name, frozenset(used), grid, turned)


def _plain(layout: Layout, name: str, declared: tuple[int, int] | None) -> Found | None:
    """W = (q - z) * s, with q of 8 bits as it is (compressed-tensors 0.20, transformers 5.23)."""
    codes = Stored.of(layout, name)
    # I8 with a scale_inv is two E2M1 in a byte (transformers 5.23, Fp8Dequantize).
    ends = ("_scale",) if codes.info.dtype == "I8" else ("_scale_inv", "_scale")
    scale = next((name + end for end in ends if name + end in layout), None)
    if scale is None or layout[scale].dtype not in _SCALES:
        return None
    blocks = blocks_of(codes.info.shape, layout[scale].shape, declared)
    if blocks is None:
        return None
    used = {name, scale}
    zeros: Codes | None = None
    zero = f"{name}_zero_point"
    if zero in layout:
        if layout[zero].dtype != "I8" or layout[zero].shape != layout[scale].shape:
            return None
        used.add(zero)
        zeros = Stored.of(layout, zero, columns=blocks.columns)
    scales = Stored.of(layout, scale, columns=blocks.columns)
    grid = Grid(codes.rows, codes.columns, codes, scales, blocks, zeros)
    return Found(name, codes.info.shape, name, frozenset(used), grid)


def _packed(layout: Layout, reader: TensorReader, name: str) -> Found | None:
    """Integers packed along the inputs, zero points along the outputs.

    compressed-tensors 0.20, compressors/pack_quantized.
    """
    weight = name.removesuffix(_PACKED)
    scale, size = f"{weight}_scale", f"{weight}_shape"
    if scale not in layout or size not in layout or layout[scale].dtype not in _SCALES:
        return None
    words = Stored.of(layout, name)
    shape = _shape(Stored.of(layout, size), reader)
    bits = [b for b in _BITS if words.info.shape == (shape[0], -(-shape[1] * b // 32))]
    blocks = blocks_of(shape, layout[scale].shape)
    if len(bits) != 1 or blocks is None:
        return None
    used = {name, scale, size}
    zeros, zero = None, f"{weight}_zero_point"
    if zero in layout:
        packed = (-(-blocks.rows * bits[0] // 32), blocks.columns)
        if layout[zero].dtype != "I32" or layout[zero].shape != packed:
            return None
        used.add(zero)
        zeros = PackedRows(Stored.of(layout, zero), bits[0])
    groups, order = None, f"{weight}_g_idx"
    if order in layout:
        if layout[order].shape != (shape[1],) or layout[order].dtype not in {"I32", "I64"}:
            return None
        used.add(order)
        groups = Stored.of(layout, order)
    scales = Stored.of(layout, scale, columns=blocks.columns)
    codes = PackedColumns(words, bits[0])
    grid = Grid(shape[0], shape[1], codes, scales, blocks, zeros, groups)
    return Found(weight, shape, name, frozenset(used), grid)


def _shape(stored: Stored, reader: TensorReader) -> tuple[int, int]:
    if stored.info.shape == (2,) and stored.info.dtype in {"I64", "I32"}:
        rows, columns = (int(length) for length in stored.flat(reader, 0, 2))
        if rows > 0 and columns > 0:
            return rows, columns
    raise TensorFileBroken(stored.path, f"{stored.info.name!r} is not the shape of a matrix")


def _column(layout: Layout, name: str) -> Stored:
    return Stored.of(layout, name, columns=1)
