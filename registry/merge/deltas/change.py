"""The change of one tensor by all inputs, block by block; the caller rounds once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from adreg.registry.merge.deltas.decomposed import Factors, Withdrawal
from adreg.registry.merge.deltas.kronecker import KroneckerProduct
from adreg.registry.merge.deltas.lowrank import ElementwiseProduct, Product
from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.deltas.whole import (
    Addition,
    Normalisation,
    Replacement,
    RowReplacement,
    Scaled,
)
from adreg.registry.merge.scratch import scratch
from adreg.registry.merge.terms import (
    Contribution,
    Decomposed,
    Full,
    Hadamard,
    Kronecker,
    LowRank,
    Module,
    Normalised,
    Rows,
    Scaling,
    Term,
    Vector,
)
from adreg.registry.tensors.arrays import Array

Compute = Callable[[int, Module], Array]
"""What gives the whole (rows, columns) outcome of a module of an adapter."""

Part = Callable[[Decomposed], Factors]
"""What gives the part of W that was taken away."""


class Step(Protocol):
    """One term, ready to be carried out.

    ``additive``: its delta does not depend on what the block holds.
    """

    additive: bool

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        """Change the block in place; ``weight`` is 1 unless the step is additive."""


class _Computed:
    """A module's outcome that PEFT has computed, whole."""

    additive = False

    def __init__(self, outcome: Array) -> None:
        self._outcome = outcome

    def apply(self, block: Array, tile: Tile, weight: float) -> None:
        del weight
        block[...] = self._outcome[tile.row : tile.row_stop, tile.column : tile.column_stop]


def _step(  # noqa: PLR0911  # one line a kind of term
    adapter: int,
    term: LowRank | Hadamard | Kronecker | Vector | Full | Rows | Scaling | Normalised,
    rows: int,
    columns: int,
    opened: Opened,
) -> Step:
    match term:
        case LowRank():
            return Product(term, adapter, rows, columns, opened)
        case Hadamard():
            return ElementwiseProduct(term, adapter, rows, columns, opened)
        case Kronecker():
            return KroneckerProduct(term, adapter, opened)
        case Vector():
            return Addition(term, adapter, columns, opened)
        case Full():
            return Replacement(term, adapter, columns, opened)
        case Rows():
            return RowReplacement(term, adapter, opened)
        case Scaling():
            return Scaled(term, adapter, opened)
        case Normalised():
            return Normalisation(term, adapter, rows, columns, opened)


class _Part:
    """One input's contribution, ready to be carried out."""

    def __init__(self, part: Contribution, make: Callable[[int, Term], Step]) -> None:
        self.weight = part.weight
        self.adapter = part.adapter
        self.steps = [make(part.adapter, term) for term in part.terms]
        self.norm = next((s for s in self.steps if isinstance(s, Normalisation)), None)
        self.additive = all(s.additive for s in self.steps)

    def first(self, base: Array, tile: Tile) -> Array:
        """Return the weighted delta, which must be additive, alone."""
        result = scratch("delta", base.shape, base.dtype)
        step = self.steps[0] if len(self.steps) == 1 else None
        if isinstance(step, Product) and step.write(result, tile, self.weight):
            return result
        result[...] = 0
        self.add(result, tile)
        return result

    def add(self, block: Array, tile: Tile) -> None:
        """Add the weighted delta, which must be additive."""
        for step in self.steps:
            step.apply(block, tile, self.weight)

    def direction(self, base: Array, tile: Tile) -> Array:
        """Return what DoRA takes the norm of, in scratch memory."""
        result = scratch("whole", base.shape, base.dtype)
        result[...] = base
        for step in self.steps:
            if step is not self.norm:
                step.apply(result, tile, 1.0)
        return result

    def whole(self, base: Array, tile: Tile) -> Array:
        """Return what the tensor would be with this input alone, at weight 1, in scratch memory."""
        result = scratch("whole", base.shape, base.dtype)
        result[...] = base
        for step in self.steps:
            step.apply(result, tile, 1.0)
        return result

    def delta(self, base: Array, tile: Tile) -> Array:
        """Return the delta at weight 1."""
        if not self.additive:
            return self.whole(base, tile) - base
        result = np.zeros_like(base)
        for step in self.steps:
            step.apply(result, tile, 1.0)
        return result


class TensorChange:
    """All that changes one tensor: ``apply`` turns blocks of W into blocks of the result.

    When ``needs_norms``, ``add_norms`` must have seen every tile first, in order, and
    ``close_norms`` been called: DoRA scales by a norm over the whole row or column, and the
    tiles, at most ``width`` columns wide, do not hold it.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # the tensor, and where things are read from
        self,
        contributions: tuple[Contribution, ...],
        rows: int,
        columns: int,
        width: int,
        opened: Opened,
        compute: Compute,
        part: Part,
    ) -> None:
        """Read the factors that are small enough to hold."""

        def make(adapter: int, term: Term) -> Step:
            if isinstance(term, Module):
                return _Computed(compute(adapter, term).reshape(rows, columns))
            if isinstance(term, Decomposed):
                return Withdrawal(part(term), opened.dtype)
            return _step(adapter, term, rows, columns, opened)

        self._parts = [_Part(one, make) for one in contributions]
        self._dora = [(part, part.norm) for part in self._parts if part.norm is not None]
        self.needs_norms = any(not norm.is_within(width) for _, norm in self._dora)

    @np.errstate(all="ignore")  # what is not finite shows in the result, and is refused there
    def squares(self, base: Array, tile: Tile) -> list[Array]:
        """Return the sums of squares of one tile, a vector for each DoRA part."""
        return [norm.squares(part.direction(base, tile)) for part, norm in self._dora]

    def add_norms(self, tile: Tile, squares: list[Array]) -> None:
        """Add one tile's sums of squares; the order of calls decides the last bits."""
        for (_, norm), part_squares in zip(self._dora, squares, strict=True):
            norm.add(tile, part_squares)

    @np.errstate(all="ignore")
    def close_norms(self) -> None:
        """Turn the sums of squares into the factors m / norm."""
        for _, norm in self._dora:
            norm.close()

    def delta(self, base: Array, tile: Tile) -> Array:
        """Return the weighted sum of all deltas; ``base`` (rows, columns) is W's block.

        It may lie in scratch memory, as the outcome of ``only`` may.
        """
        total: Array | None = None
        for part in self._parts:
            if part.additive and total is None:
                total = part.first(base, tile)
            elif part.additive and total is not None:
                part.add(total, tile)
            else:
                delta = part.delta(base, tile)
                if part.weight != 1:
                    delta *= delta.dtype.type(part.weight)
                total = delta if total is None else total + delta
        return np.zeros_like(base) if total is None else total

    def only(self, base: Array, tile: Tile) -> Array | None:
        """Return the outcome when it is one input's own at weight 1, not a sum; else None.

        W plus the difference from W would not be the replaced value to the last bit.
        """
        if len(self._parts) == 1 and not self._parts[0].additive and self._parts[0].weight == 1:
            return self._parts[0].whole(base, tile)
        return None

    def apply(self, base: Array, tile: Tile) -> Array:
        """Return the block of the result."""
        only = self.only(base, tile)
        return base + self.delta(base, tile) if only is None else only

    def deltas(self, base: Array, tile: Tile, count: int) -> list[Array]:
        """Return the delta of each of ``count`` inputs at weight 1; zeros for the untouched."""
        result = [np.zeros_like(base) for _ in range(count)]
        for part in self._parts:
            result[part.adapter] = part.delta(base, tile)
        return result
