"""One tensor of a merge: how its blocks are cut, computed, rounded and counted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from adreg.registry.bases.base import Base
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.deltas.change import Compute, TensorChange
from adreg.registry.merge.deltas.decomposed import Decompositions
from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.combination import Combination
from adreg.registry.merge.plan import Job
from adreg.registry.merge.report import TensorReport
from adreg.registry.merge.scratch import scratch
from adreg.registry.tensors.arrays import LARGEST, NUMPY, Array, TensorReader

_BLOCK = 512 << 10
"""Bytes of W in one block: its float32 copy and the product then stay in a core's cache.
Part of the result's bits, so it is no setting (a product is cut by it)."""

LONGEST_ROW = 8 * _BLOCK
"""Bytes of a row beyond which a row is cut too."""


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes to write, and what was counted while they were made."""

    data: memoryview
    changed: int = 0
    lost: int = 0
    delta_squares: float = 0.0
    base_squares: float = 0.0
    worst_ulps: float | None = None
    unmeasured: str | None = None


_BOOL = np.dtype(np.bool_)


class Tally:
    """What the blocks of one tensor add up to."""

    def __init__(self, job: Job) -> None:
        """Start from nothing."""
        self.job = job
        self.changed = self.lost = 0
        self.delta_squares = self.base_squares = 0.0
        self.worst_ulps: float | None = None
        self.unmeasured: str | None = None

    def add(self, block: Block) -> None:
        """Count one block; the order of calls decides the norms' last bits."""
        self.changed += block.changed
        self.lost += block.lost
        self.delta_squares += block.delta_squares
        self.base_squares += block.base_squares
        if block.worst_ulps is not None:
            self.worst_ulps = max(block.worst_ulps, self.worst_ulps or 0.0)
        self.unmeasured = self.unmeasured or block.unmeasured

    def report(self) -> TensorReport:
        """Return the counts."""
        job = self.job
        return TensorReport(
            name=job.name,
            action=job.action,
            elements=job.entry.nbytes // NUMPY[job.dtype].itemsize,
            changed=self.changed,
            lost=self.lost,
            delta_norm=math.sqrt(self.delta_squares),
            base_norm=math.sqrt(self.base_squares),
            worst_ulps=self.worst_ulps,
            unmeasured=self.unmeasured,
        )


class Tensor:
    """A tensor that is not copied as it is."""

    def __init__(self, job: Job, base: Base, reader: TensorReader, dtype: np.dtype[Any]) -> None:
        """Read nothing yet; ``dtype`` is that of the sums, but for W in float64: then float64."""
        source = None if job.source is None else base.layout[job.source]
        is_wide = source is not None and source.dtype == "F64"
        self.dtype = np.dtype(np.float64) if is_wide else dtype
        self.job, self._base, self._reader = job, base, reader
        self.change: TensorChange | None = None
        self.combination: Combination | None = None
        self.parts = Decompositions(job.name, self.load, *job.matrix)

    def open(self, opened: Opened, compute: Compute) -> None:
        """Read the factors that are small enough to hold."""
        rows, columns = self.job.matrix
        width = min(columns, self._width())
        self.change = TensorChange(
            self.job.contributions, rows, columns, width, opened, compute, self.parts.part
        )

    def _width(self) -> int:
        """Return the columns of the widest tile."""
        columns, size = self.job.matrix[1], NUMPY[self.job.dtype].itemsize
        return columns if columns * size <= LONGEST_ROW else _BLOCK // size

    def tiles(self) -> Iterator[Tile]:
        """Cut the tensor in blocks: whole rows, or pieces of one row where rows are huge."""
        rows, columns = self.job.matrix
        if rows * columns == 0:
            return
        size = NUMPY[self.job.dtype].itemsize
        if (step := self._width()) < columns:
            for row in range(rows):
                for column in range(0, columns, step):
                    yield Tile(row, row + 1, column, min(columns, column + step))
            return
        step = max(1, _BLOCK // (columns * size))
        for row in range(0, rows, step):
            yield Tile(row, min(rows, row + step), 0, columns)

    def load(self, tile: Tile) -> Array:
        """Read W's block (rows, columns) in the precision of the sums; zeros without a W."""
        raw = self._raw(tile)
        return np.zeros(tile.shape, self.dtype) if raw is None else self._wide(raw)

    def _raw(self, tile: Tile) -> Array | None:
        """Read W's block as it is stored, into scratch memory; None without a W."""
        source = self.job.source
        if source is None:
            return None
        rows, columns = tile.shape
        start = tile.start(self.job.matrix[1])
        stop = start + rows * columns
        if source in self._base.decoders:
            raw = self._base.read(self._reader, source, start, stop)
        else:
            file, info = self._base.layout.places[source]
            into = scratch("raw", (stop - start,), NUMPY[info.dtype])
            raw = self._reader.read(file.path, info, start, stop, into)
        return raw.reshape(rows, columns)

    def _wide(self, raw: Array) -> Array:
        # By way of float32, a float64 that is cast would be rounded twice.
        if raw.dtype == np.float64:
            return raw
        wide = scratch("base", raw.shape, self.dtype)
        np.copyto(wide, raw)
        return wide

    def squares(self, tile: Tile) -> list[Array]:
        """Return DoRA's sums of squares of a tile."""
        if self.change is None:
            raise TypeError(f"{self.job.name} is not changed")
        return self.change.squares(self.load(tile), tile)

    @np.errstate(all="ignore")
    def look(self, tile: Tile) -> Any:  # noqa: ANN401  # what the method keeps of a tile
        """Let the method see a tile before it combines."""
        if self.change is None or self.combination is None:
            raise TypeError(f"{self.job.name} is not combined by a method")
        base = self.load(tile)
        deltas = self.change.deltas(base, tile, len(self.job.weights))
        return self.combination.look(base, deltas, tile)

    @np.errstate(all="ignore")  # what is not finite is refused by name, not warned of
    def block(self, tile: Tile) -> Block:
        """Compute and round one block."""
        raw = self._raw(tile)
        base = np.zeros(tile.shape, self.dtype) if raw is None else self._wide(raw)
        out = NUMPY[self.job.dtype]
        result, delta = self._changed(base, tile)
        squares = (0.0, 0.0) if delta is None else (_squares(delta), _squares(base))
        # Small sums of squares bound every element: below 2e38, which all but F16 hold.
        bounded = delta is not None and all(one < 1e76 for one in squares)
        if not bounded or self.job.dtype == "F16":
            self._check_finite(base, result)
        rounded = np.empty(tile.shape, out)
        np.copyto(rounded, result, casting="unsafe")
        data = rounded.view(np.uint8).data.cast("B")
        if delta is None or raw is None:
            return Block(data)
        before = raw if raw.dtype == out else base.astype(out)
        same = scratch("same", tile.shape, _BOOL)
        np.equal(_bits(rounded), _bits(before), out=same)
        count = int(np.count_nonzero(same))
        lost = 0
        if count:
            same &= np.not_equal(delta, 0, out=scratch("moved", tile.shape, _BOOL))
            lost = int(np.count_nonzero(same))
        return Block(
            data,
            changed=same.size - count,
            lost=lost,
            delta_squares=squares[0],
            base_squares=squares[1],
        )

    def _changed(self, base: Array, tile: Tile) -> tuple[Array, Array | None]:
        """Return the block's outcome and its delta before rounding, None when nothing changes."""
        if self.change is None:
            return base, None
        if self.combination is not None:
            deltas = self.change.deltas(base, tile, len(self.job.weights))
            delta = self.combination.combine(base, deltas, tile)
        elif (only := self.change.only(base, tile)) is not None:
            return only, np.subtract(only, base, out=scratch("delta", base.shape, base.dtype))
        else:
            delta = self.change.delta(base, tile)
        return np.add(base, delta, out=scratch("result", base.shape, base.dtype)), delta

    def _check_finite(self, base: Array, block: Array) -> None:
        job = self.job
        # The sums may be narrower than the output: then infinities come from them.
        largest = min(LARGEST[job.dtype], float(np.finfo(block.dtype).max))
        # A NaN fails both comparisons, so this finds it too.
        if block.max() <= largest and block.min() >= -largest:
            return
        # A base may hold infinities of its own (masks); only what inputs touch must be finite.
        if not job.contributions and not np.isfinite(base[~(np.abs(block) <= largest)]).any():
            return
        raise MergeRefused(
            (f"{job.name!r} would hold values that are not finite in {job.dtype}",),
            "The base or an adapter is broken, or a weight is too large;"
            " --dtype bfloat16 has more range than float16.",
        )


def _squares(array: Array) -> float:
    flat = array.ravel()
    return float(np.dot(flat, flat))


def _bits(array: Array) -> Array:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))
