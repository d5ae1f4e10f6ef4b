"""How far the weights of two checkpoints are apart, in units in the last place.

Read in pieces: memory does not grow with the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.arrays import NUMPY, Array, TensorReader
from adreg.registry.tensors.checkpoint import Layout

_PIECE = 1 << 20
"""Elements that are looked at together."""


@dataclass(frozen=True, slots=True)
class WeightDistance:
    """How far tensors are from those of a reference, which is rounded to their dtype first.

    ``identical`` of ``elements`` have the same bits, ``near`` are at most one unit in the
    last place off. ``ulps`` is the worst distance in such units, counted in steps from one
    value of the dtype to the next, of which there are many around zero; ``tensor`` holds
    it. ``largest`` is the worst absolute difference.
    """

    elements: int
    identical: int
    near: int
    ulps: int
    largest: float
    tensor: str


def weight_distance(
    result: Layout, reference: Layout, names: Iterable[str], *, progress: Progress = SILENT
) -> WeightDistance:
    """Compare float tensors of the same shape that both checkpoints hold under these names."""
    elements, identical, near, ulps, largest, tensor = 0, 0, 0, -1, 0.0, ""
    with TensorReader() as reader:
        for name in names:
            out = NUMPY[result[name].dtype]
            for ours, theirs in _pieces(reader, name, result, reference):
                wanted = theirs.astype(out)
                apart = np.abs(_ordered(ours) - _ordered(wanted))
                elements += ours.size
                identical += int(np.count_nonzero(_bits(ours) == _bits(wanted)))
                near += int(np.count_nonzero(apart <= 1))
                difference = np.abs(ours.astype(np.float64) - wanted.astype(np.float64))
                largest = max(largest, float(difference.max(initial=0.0)))
                if (worst := int(apart.max(initial=0))) > ulps:
                    ulps, tensor = worst, name
                progress.advance(ours.nbytes)
    return WeightDistance(elements, identical, near, max(0, ulps), largest, tensor)


def rounding_bound(
    merged: Layout, result: Layout, names: Iterable[str], *, progress: Progress = SILENT
) -> float:
    """Return the most by which an element may be off after a delta was added and taken away.

    Each of the two sums is rounded to the nearest value of its dtype, so it is off by half
    a unit in the last place of what was written; the bound is the worst sum of the two, but
    for the float32 in which the deltas are summed.
    """
    bound = 0.0
    with TensorReader() as reader:
        for name in names:
            for ours, theirs in _pieces(reader, name, result, merged):
                halves = (_spacing(ours) + _spacing(theirs)) / 2
                bound = max(bound, float(halves.max(initial=0.0)))
                progress.advance(ours.nbytes)
    return bound


def _pieces(
    reader: TensorReader, name: str, one: Layout, other: Layout
) -> Iterator[tuple[Array, Array]]:
    (file, info), (other_file, other_info) = one.places[name], other.places[name]
    for start in range(0, info.count, _PIECE):
        stop = min(info.count, start + _PIECE)
        yield (
            reader.read(file.path, info, start, stop),
            reader.read(other_file.path, other_info, start, stop),
        )


def _bits(array: Array) -> Array:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _ordered(array: Array) -> Array:
    """Return integers in the order of the floats: neighbours differ by 1, both zeros are 0."""
    bits = array.view(np.dtype(f"i{array.dtype.itemsize}")).astype(np.int64)
    magnitude = bits & ((1 << (8 * array.dtype.itemsize - 1)) - 1)
    return np.where(bits < 0, -magnitude, magnitude)


def _spacing(array: Array) -> Array:
    """Return the unit in the last place of each element, as float64.

    It is 2**(e - 1 - m) for m stored bits of the mantissa and ``frexp``'s exponent e,
    and never below the smallest subnormal (IEEE 754, 3.3).
    """
    limits: Any = ml_dtypes.finfo(array.dtype)
    wide = array.astype(np.float64)
    _, exponent = np.frexp(wide)
    unit: Array = np.ldexp(1.0, exponent - 1 - int(limits.nmant))
    unit[wide == 0] = 0  # frexp gives zero the exponent 0
    return np.maximum(unit, float(limits.smallest_subnormal), out=unit)
