"""The change of one tensor by LoRA-family adapters, block by block.

    plain    W + s B A                          (Hu et al., 2021, arXiv 2106.09685)
    rsLoRA   the same with s = alpha / sqrt(r)   (Kalajdzievski, 2023, arXiv 2312.03732)
    DoRA     m (W + s B A) / |W + s B A|         (Liu et al., 2024, arXiv 2402.09353)

Checked against peft 0.21.2, tuners/lora/{layer,variants,dora}.py. All deltas of all
adapters are summed in one precision and rounded once by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.merge.deltas.factors import Factor
from adreg.registry.merge.plan import Contribution, Job, LowRank
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.header import TensorInfo


@dataclass(frozen=True, slots=True)
class Tile:
    """A block of a tensor's 2-D view (rows, columns); one row unless columns are whole."""

    row: int
    row_stop: int
    column: int
    column_stop: int

    @property
    def shape(self) -> tuple[int, int]:
        """Its rows and columns."""
        return self.row_stop - self.row, self.column_stop - self.column

    def start(self, columns: int) -> int:
        """The place of its first element in the flat tensor."""
        return self.row * columns + self.column


def view(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, columns) of the 2-D view: a vector is one column, a kernel is flattened."""
    rows = shape[0] if shape else 1
    columns = 1
    for length in shape[1:]:
        columns *= length
    return rows, columns


class Opened:
    """The adapters' files, ready to be read from by key."""

    def __init__(
        self, specs: Sequence[AdapterSpec], reader: TensorReader, dtype: np.dtype[Any]
    ) -> None:
        """Index the tensors; nothing is read."""
        self.reader = reader
        self.dtype = dtype
        self._specs = specs
        self._infos = [{t.key: t.info for t in spec.tensors} for spec in specs]

    def info(self, adapter: int, key: str) -> TensorInfo:
        """Return the header of an adapter's tensor."""
        return self._infos[adapter][key]

    def slice(self, adapter: int, key: str, start: int, stop: int) -> Array:
        """Read flat elements [start, stop) in the precision of the sums."""
        path = self._specs[adapter].weights.path
        return self.reader.read(path, self.info(adapter, key), start, stop).astype(self.dtype)

    def factor(self, adapter: int, key: str, outer: int, inner: int, *, transposed: bool) -> Factor:
        """Return a tensor as an (outer, inner) matrix."""
        spec = self._specs[adapter]
        info = self.info(adapter, key)
        return Factor(self.reader, spec.weights, info, outer, inner, transposed, self.dtype)


class _Product:
    """s L R of one term. R is held as (columns, r), so that both are sliced by rows."""

    def __init__(
        self, term: LowRank, adapter: int, rows: int, columns: int, opened: Opened
    ) -> None:
        self.scale = term.scale
        self.left = opened.factor(
            adapter, term.left, rows, term.rank, transposed=term.left_transposed
        )
        self.right = opened.factor(
            adapter, term.right, columns, term.rank, transposed=not term.right_transposed
        )

    def add_to(self, block: Array, tile: Tile, scale: float) -> None:
        left = self.left.rows(tile.row, tile.row_stop)  # (rows, r)
        right = self.right.rows(tile.column, tile.column_stop)  # (columns, r)
        block += (left * block.dtype.type(scale)) @ right.T


class _Part:
    """One adapter's contribution, with its factors."""

    def __init__(self, part: Contribution, rows: int, columns: int, opened: Opened) -> None:
        self.part = part
        self.opened = opened
        self.columns = columns
        self.products = [_Product(t, part.adapter, rows, columns, opened) for t in part.low_rank]
        self.dora = next((t for t in part.low_rank if t.magnitude), None)
        self.factor: Array | None = None  # m / norm, once the norms are known

    @property
    def plain(self) -> bool:
        """Whether its delta does not depend on W."""
        return self.part.full is None and self.dora is None

    def add_plain(self, block: Array, tile: Tile) -> None:
        weight = self.part.weight
        for product in self.products:
            product.add_to(block, tile, weight * product.scale)
        start = tile.start(self.columns)
        for key, scale in self.part.biases:
            stop = start + block.size
            bias = self.opened.slice(self.part.adapter, key, start, stop).reshape(block.shape)
            block += bias * block.dtype.type(weight * scale)

    def unscaled(self, base: Array, tile: Tile) -> Array:
        """Return W (or what replaces it) plus the products: DoRA's direction."""
        start = tile.start(self.columns)
        if self.part.full is None:
            result = base.copy()
        else:
            flat = self.opened.slice(self.part.adapter, self.part.full, start, start + base.size)
            result = flat.reshape(base.shape)
        for product in self.products:
            product.add_to(result, tile, product.scale)
        for key, scale in self.part.biases:
            bias = self.opened.slice(self.part.adapter, key, start, start + base.size)
            result += bias.reshape(base.shape) * base.dtype.type(scale)
        return result

    def whole(self, base: Array, tile: Tile) -> Array:
        """Return what the tensor would be with this adapter alone, at weight 1."""
        result = self.unscaled(base, tile)
        if self.dora is not None and self.factor is not None:
            if self.dora.norm_of == "rows":
                result *= self.factor[tile.row : tile.row_stop, None]
            else:
                result *= self.factor[None, tile.column : tile.column_stop]
        return result


class TensorChange:
    """All that changes one tensor: ``apply`` turns blocks of W into blocks of the result.

    When ``needs_norms``, ``add_norms`` must have seen every tile first, in order, and
    ``close_norms`` been called: DoRA scales by a norm over the whole row or column.
    """

    def __init__(self, job: Job, opened: Opened) -> None:
        """Read the factors that are small enough to hold."""
        self.rows, self.columns = view(job.shape)
        self._parts = [_Part(c, self.rows, self.columns, opened) for c in job.contributions]
        self._dora = [part for part in self._parts if part.dora is not None]
        self._squares = [
            np.zeros(self.rows if p.dora and p.dora.norm_of == "rows" else self.columns, np.float64)
            for p in self._dora
        ]
        self.needs_norms = bool(self._dora)

    @np.errstate(all="ignore")  # what is not finite shows in the result, and is refused there
    def squares(self, base: Array, tile: Tile) -> list[Array]:
        """Return the sums of squares of one tile, a vector for each DoRA part."""
        result = []
        for part in self._dora:
            direction = part.unscaled(base, tile)
            axis = 1 if part.dora is not None and part.dora.norm_of == "rows" else 0
            np.square(direction, out=direction)
            result.append(direction.sum(axis=axis, dtype=np.float64))
        return result

    def add_norms(self, tile: Tile, squares: list[Array]) -> None:
        """Add one tile's sums of squares; the order of calls decides the last bits."""
        for part, total, part_squares in zip(self._dora, self._squares, squares, strict=True):
            if part.dora is not None and part.dora.norm_of == "rows":
                total[tile.row : tile.row_stop] += part_squares
            else:
                total[tile.column : tile.column_stop] += part_squares

    @np.errstate(all="ignore")
    def close_norms(self) -> None:
        """Turn the sums of squares into the factors m / norm."""
        for part, total in zip(self._dora, self._squares, strict=True):
            if part.dora is None or part.dora.magnitude is None:
                continue
            magnitude = part.opened.slice(part.part.adapter, part.dora.magnitude, 0, len(total))
            part.factor = (magnitude / np.sqrt(total)).astype(magnitude.dtype)

    def apply(self, base: Array, tile: Tile) -> Array:
        """Return the block of the result; ``base`` (rows, columns) is W's block and is not kept."""
        if len(self._parts) == 1 and not self._parts[0].plain and self._parts[0].part.weight == 1:
            return self._parts[0].whole(base, tile)
        result = base.copy()
        for part in self._parts:
            if part.plain:
                part.add_plain(result, tile)
            else:
                delta = part.whole(base, tile)
                delta -= base
                delta *= delta.dtype.type(part.part.weight)
                result += delta
        return result
