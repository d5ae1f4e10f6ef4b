"""bitsandbytes 4-bit: NF4 and FP4, with plain or doubly quantised block maxima.

Dettmers et al., 2023 (QLoRA, arXiv 2305.14314); layout and arithmetic of bitsandbytes
0.50.2, QuantState.as_dict(packed=True) and the CPU dequantisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adreg.registry.errors import TensorFileBroken
from adreg.registry.jsonio import parse_object
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.checkpoint import Layout
from adreg.registry.tensors.quantised.decoder import Found
from adreg.registry.tensors.quantised.stored import Stored

_STATE = ".quant_state.bitsandbytes__"
_MAX_STATE = 1 << 16
_MAX_OFFSET = 1e30  # an integer of JSON may be too large for a float
_MAX_BLOCK = 4096
"""The largest block that bitsandbytes 0.50.2 takes; a state may name any number."""


@dataclass(frozen=True, slots=True)
class FourBit:
    """w[i] = map[code i] * absmax[i // blocksize], flat, the first of two in the high nibble.

    Doubly quantised, absmax[j] = nested_map[code j] * nested_absmax[j // nested_blocksize]
    + offset. All in float32.
    """

    rows: int
    columns: int
    codes: Stored
    absmax: Stored
    levels: Stored
    blocksize: int
    nested_absmax: Stored | None
    nested_levels: Stored | None
    nested_blocksize: int
    offset: float

    def window(self, reader: TensorReader, rows: slice, columns: slice) -> Array:
        """Decode a window; whole rows are read."""
        start, stop = rows.start * self.columns, rows.stop * self.columns
        packed = self.codes.bytes(reader, start // 2, -(-stop // 2))
        nibbles = np.empty((len(packed), 2), np.uint8)
        nibbles[:, 0], nibbles[:, 1] = packed >> 4, packed & 15
        levels = self.levels.flat(reader, 0, 16).astype(np.float32)
        values = levels[nibbles.reshape(-1)[start % 2 : start % 2 + stop - start]]
        first, last = start // self.blocksize, -(-stop // self.blocksize)
        maxima = self._maxima(reader, first, last)
        offset = start - first * self.blocksize
        values *= np.repeat(maxima, self.blocksize)[offset : offset + stop - start]
        return values.reshape(-1, self.columns)[:, columns]

    def _maxima(self, reader: TensorReader, first: int, last: int) -> Array:
        stored = self.absmax.flat(reader, first, last)
        if self.nested_absmax is None or self.nested_levels is None:
            return stored.astype(np.float32)
        levels = self.nested_levels.flat(reader, 0, 256).astype(np.float32)
        begin, end = first // self.nested_blocksize, -(-last // self.nested_blocksize)
        outer = self.nested_absmax.flat(reader, begin, end).astype(np.float32)
        which = np.arange(first, last) // self.nested_blocksize - begin
        return levels[stored] * outer[which] + np.float32(self.offset)


def find(
    layout: Layout, reader: TensorReader, transposed: Callable[[str], bool] = lambda _: False
) -> list[Found]:
    """Return the weights of a layout that bitsandbytes keeps in 4 bits.

    ``transposed`` tells of a logical name that transformers turned the matrix round
    before it was quantised (Conv1D; transformers 5.23, Bnb4bitQuantize). Raises
    TensorFileBroken when a state is missing or does not fit its weight.
    """
    found = []
    for tensor in layout:
        name, state, _ = tensor.name.partition(_STATE)
        if not state:
            continue
        fields = _fields(Stored.of(layout, tensor.name), reader)
        found.append(_one(layout, name, tensor.name, fields, turned=transposed(name)))
    return found


def _fields(state: Stored, reader: TensorReader) -> dict[str, object]:
    if state.info.dtype != "U8" or state.info.count > _MAX_STATE:
        raise TensorFileBroken(state.path, f"{state.info.name!r} is no quantisation state")
    try:
        return parse_object(state.bytes(reader, 0, state.info.count).tobytes())
    except ValueError as error:
        raise TensorFileBroken(state.path, f"{state.info.name!r} is not JSON: {error}") from error


def _one(
    layout: Layout, name: str, state: str, fields: dict[str, object], *, turned: bool
) -> Found:
    path = layout.places[state][0].path
    parts = {"": name, "absmax": f"{name}.absmax", "quant_map": f"{name}.quant_map"}
    nested = f"{name}.nested_absmax" in layout
    if nested:
        parts |= {key: f"{name}.{key}" for key in ("nested_absmax", "nested_quant_map")}
    if missing := sorted(part for part in parts.values() if part not in layout):
        raise TensorFileBroken(path, f"{missing[0]!r} is missing, which belongs to {state!r}")
    tensors = {key: Stored.of(layout, part) for key, part in parts.items()}
    said = _said(fields, nested=nested)
    if said is None:
        raise TensorFileBroken(path, f"{state!r} does not say what bitsandbytes needs")
    shape, blocksize, nested_blocksize, offset = said
    count = math.prod(shape)
    blocks = -(-count // blocksize)
    expected = {"": -(-count // 2), "absmax": blocks * (1 if nested else 4), "quant_map": 16 * 4}
    if nested:
        expected |= {
            "nested_absmax": -(-blocks // nested_blocksize) * 4,
            "nested_quant_map": 256 * 4,
        }
    for key, tensor in tensors.items():
        dtype = "U8" if key == "absmax" and nested else "F32"
        # The codes may hide in another dtype (bnb_4bit_quant_storage): only bytes count.
        if tensor.info.nbytes != expected[key] or (key and tensor.info.dtype != dtype):
            raise TensorFileBroken(
                tensor.path, f"{tensor.info.name!r} does not fit the shape {shape} in {state!r}"
            )
    columns = shape[-1]
    matrix = FourBit(
        rows=count // columns,
        columns=columns,
        codes=tensors[""],
        absmax=tensors["absmax"],
        levels=tensors["quant_map"],
        blocksize=blocksize,
        nested_absmax=tensors.get("nested_absmax"),
        nested_levels=tensors.get("nested_quant_map"),
        nested_blocksize=nested_blocksize,
        offset=offset,
    )
    turned = turned and len(shape) == 2
    logical = tuple(reversed(shape)) if turned else shape
    used = frozenset({*parts.values(), state})
    return Found(name, logical, name, used, matrix, turned)


def _said(
    fields: dict[str, object], *, nested: bool
) -> tuple[tuple[int, ...], int, int, float] | None:
    """Return shape, block size, nested block size and offset, None if one is not as it must be."""
    shape, offset = fields.get("shape"), fields.get("nested_offset", 0.0)
    sizes = [fields.get("blocksize"), fields.get("nested_blocksize") if nested else 1]
    lengths = shape if isinstance(shape, list) else []
    if not lengths or not isinstance(offset, (int, float)) or abs(offset) > _MAX_OFFSET:
        return None
    checked = [n for n in [*lengths, *sizes] if isinstance(n, int) and n > 0]
    if len(checked) != len(lengths) + 2 or checked[-2] > _MAX_BLOCK:
        return None
    return tuple(checked[:-2]), checked[-2], checked[-1], float(offset)
