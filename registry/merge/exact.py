"""Some rows of a tensor computed again in float64, to tell the worst error of a merge.

What it costs, beside those rows: DoRA's norms of columns are added up once more, in
float64, of the whole tensor; a module that PEFT's layer merges is merged once more, in
float64, up to a size; of a method, the blocks that hold sampled rows are decided again, and
where numbers that it takes of the whole tensor go into outputs of 32 bits or more, it looks
at the whole tensor again in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from adreg.registry.bases.base import Base
from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.through_peft import PeftModules
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.make import make_combination
from adreg.registry.merge.methods.method import Method
from adreg.registry.merge.plan import Job
from adreg.registry.merge.tensor import Block, Tensor
from adreg.registry.merge.terms import Module, Normalised
from adreg.registry.tensors.arrays import NUMPY, Array, TensorReader

_SAMPLES = 4
"""Rows of a tensor that are computed again in float64; of rows that are cut, their first piece."""

InOrder = Callable[[Iterable[Callable[[], Any]]], Iterator[Any]]
"""What runs tasks in threads and gives their results in order."""


@dataclass(frozen=True, slots=True)
class Again:
    """What rows are computed again from: the inputs, ``opened`` in float64, and the method."""

    base: Base
    reader: TensorReader
    opened: Opened
    modules: PeftModules
    method: Method

    def read(self, name: str) -> Array:
        """Return a whole tensor of the base in float64, in its own shape."""
        info = self.base.layout[name]
        whole = self.base.read(self.reader, name, 0, info.count)
        return whole.astype(np.float64).reshape(info.shape)


class Exact:
    """The blocks of one tensor, with the distance of some rows from their float64 sums.

    What a method decides element by element stands as the merge decided it: which are kept,
    and which sign is elected. Where float64 would decide otherwise, at a knife's edge, that
    is not counted as an error. Numbers that a method takes of the whole tensor, L1 norms and
    coefficients, are float64's own; for outputs of 16 bits, of which float32 is 2^-13 of a
    unit or less, the merge's.
    """

    def __init__(self, merged: Tensor, again: Again, in_order: InOrder) -> None:
        """Read the factors in float64, and look at the whole tensor where that is needed."""
        self._merged, job = merged, merged.job
        terms = [(part.adapter, term) for part in job.contributions for term in part.terms]
        modules = again.modules
        reasons = [modules.unrepeatable(a, term) for a, term in terms if isinstance(term, Module)]
        self._reason = next(filter(None, reasons), None)
        self._rows = frozenset[int]()
        if not terms or self._reason is not None:
            return
        self._rows = _sampled(job)
        self._wide = wide = Tensor(job, again.base, again.reader, np.dtype(np.float64))
        wide.parts = merged.parts
        wide.combination = merged.combination
        wide.open(again.opened, modules.wide(again.read).compute)
        if wide.change is not None and wide.change.needs_norms:
            every = any(isinstance(t, Normalised) and t.norm_of == "columns" for _, t in terms)
            tiles = [tile for tile in merged.tiles() if every or tile.row in self._rows]
            for tile, squares in _looks(wide.squares, tiles, in_order):
                wide.change.add_norms(tile, squares)
            wide.change.close_norms()
        fine = NUMPY[job.dtype].itemsize > 2
        if wide.combination is not None and wide.combination.measures and fine:
            own = make_combination(again.method, job.name, *job.matrix, job.weights, np.float64)
            wide.combination = own
            while own.passes_left:
                for tile, seen in _looks(wide.look, merged.tiles(), in_order):
                    own.take(tile, seen)
                own.close_pass()

    def block(self, tile: Tile) -> Block:
        """Return the tensor's block with what was measured, or why nothing was."""
        block = self._merged.block(tile)
        if self._reason is not None:
            return replace(block, unmeasured=self._reason)
        inside = sorted(row for row in self._rows if tile.row <= row < tile.row_stop)
        if not inside or tile.column:
            return block
        return replace(block, worst_ulps=self._worst(block, tile, inside))

    @np.errstate(all="ignore")
    def _worst(self, block: Block, tile: Tile, rows: Iterable[int]) -> float:
        """Return the largest distance of these rows from their float64 sums.

        In units in the last place of the output, at the larger of W and the sum.
        """
        out = NUMPY[self._wide.job.dtype]
        written = np.frombuffer(block.data, out).reshape(tile.shape)
        worst = 0.0
        for row, base, wide in self._sums(tile, rows):
            larger = np.maximum(np.abs(wide), np.abs(base)).astype(out)
            far = np.abs(written[row - tile.row].astype(np.float64) - wide[0])
            far /= np.spacing(larger).astype(np.float64)[0]
            worst = max(worst, float(np.max(far, initial=0.0)))
        return worst

    def _sums(self, tile: Tile, rows: Iterable[int]) -> Iterator[tuple[int, Array, Array]]:
        """Give each row's number, W and the sum, both (1, columns)."""
        change, method = self._wide.change, self._wide.combination
        count = len(self._wide.job.weights)
        choice, merged = None, self._merged
        if merged.combination is not None and merged.change is not None:
            deltas = merged.change.deltas(merged.load(tile), tile, count)
            choice = merged.combination.choose(deltas, tile)
        for row in rows:
            one = Tile(row, row + 1, tile.column, tile.column_stop)
            base = self._wide.load(one).astype(np.float64)
            if change is None:
                yield row, base, base
            elif method is None or choice is None:
                yield row, base, change.apply(base, one)
            else:
                deltas = change.deltas(base, one, count)
                sampled = choice.row(row - tile.row)
                yield row, base, base + method.combine(base, deltas, one, sampled)


def _looks(
    look: Callable[[Tile], Any], tiles: Iterable[Tile], in_order: InOrder
) -> Iterator[tuple[Tile, Any]]:
    """Look at tiles in threads; give each with what was seen, in order."""
    tiles = list(tiles)
    return zip(tiles, in_order(partial(look, tile) for tile in tiles), strict=True)


def _sampled(job: Job) -> frozenset[int]:
    """Return some rows of a tensor, spread over it."""
    rows, columns = job.matrix
    if not rows or not columns:
        return frozenset()
    return frozenset((rows - 1) * n // (_SAMPLES - 1) for n in range(_SAMPLES))
