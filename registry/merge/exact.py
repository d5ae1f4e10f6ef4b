"""Some rows of a tensor computed again in float64, to tell the worst error of a merge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from adreg.registry.bases.base import Base
from adreg.registry.merge.deltas.change import Compute
from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.plan import Job
from adreg.registry.merge.tensor import LONGEST_ROW, Block, Tensor
from adreg.registry.merge.terms import Module, Normalised
from adreg.registry.tensors.arrays import NUMPY, TensorReader

_SAMPLES = 4
"""Rows of a tensor that are computed again in float64."""


def exact_tensor(
    job: Job, base: Base, reader: TensorReader, opened: Opened, compute: Compute
) -> Tensor | None:
    """Return the tensor ready to be computed again in float64, row by row.

    None where that would need the whole tensor again: DoRA's norms of columns, PEFT's own
    modules. Norms of rows are taken of those that are sampled. ``opened`` is in float64.
    """
    terms = [term for part in job.contributions for term in part.terms]
    whole = any(
        isinstance(term, Module) or (isinstance(term, Normalised) and term.norm_of == "columns")
        for term in terms
    )
    if not terms or whole or job.source is None:
        return None
    exact = Tensor(job, base, reader, np.dtype(np.float64))
    exact.open(opened, compute)
    if exact.change is not None and exact.change.needs_norms:
        for row in sampled_rows(job):
            one = Tile(row, row + 1, 0, job.matrix[1])
            exact.change.add_norms(one, exact.squares(one))
        exact.change.close_norms()
    return exact


def sampled_rows(job: Job) -> frozenset[int]:
    """Return some rows of a tensor, spread over it; none where a row is huge."""
    rows, columns = job.matrix
    if not rows or columns * NUMPY[job.dtype].itemsize > LONGEST_ROW:
        return frozenset()
    return frozenset((rows - 1) * n // (_SAMPLES - 1) for n in range(_SAMPLES))


@np.errstate(all="ignore")
def measured(block: Block, tile: Tile, exact: Tensor, rows: frozenset[int]) -> Block:
    """Return the block with the largest distance of these rows in it from their float64 sums.

    In units in the last place of the output, at the larger of W and the sum; the block as
    it is when it holds none of the rows.
    """
    inside = sorted(row for row in rows if tile.row <= row < tile.row_stop)
    if not inside:
        return block
    out = NUMPY[exact.job.dtype]
    written = np.frombuffer(block.data, out).reshape(tile.shape)
    worst = 0.0
    for row in inside:
        one = Tile(row, row + 1, tile.column, tile.column_stop)
        base = exact.load(one).astype(np.float64)
        wide = base if exact.change is None else exact.change.apply(base, one)
        unit = np.spacing(np.maximum(np.abs(wide), np.abs(base)).astype(out)).astype(np.float64)
        far = np.abs(written[row - tile.row].astype(np.float64) - wide[0]) / unit[0]
        worst = max(worst, float(np.max(far, initial=0.0)))
    return replace(block, worst_ulps=worst)
