"""A method at work on one tensor: what the engine calls, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.tensors.arrays import Array


@dataclass(frozen=True, slots=True)
class Choice:
    """What a method decides element by element: masks (rows, columns) for each delta.

    ``kept`` is what a method keeps of a delta, ``agreeing`` what has the elected sign; a None
    stands for all of it.
    """

    kept: Sequence[Array | None]
    agreeing: Sequence[Array] | None = None

    def row(self, number: int) -> Choice:
        """Return the same of one row."""
        one = slice(number, number + 1)
        kept = [None if mask is None else mask[one] for mask in self.kept]
        agree = None if self.agreeing is None else [mask[one] for mask in self.agreeing]
        return Choice(kept, agree)


class Combination(Protocol):
    """Turns the blocks of k deltas into blocks of the merged delta.

    While ``passes_left``, every tile of the tensor is shown once: ``look`` may run in any
    thread and order, ``take`` is told the outcomes in the order of the tiles, and
    ``close_pass`` ends the pass. Then ``combine`` may run in any thread and order. The
    tiles must be the same in every pass, cover the tensor in flat order, and be runs of
    whole rows or pieces of one row; the same tile must bring the same bits each time.

    ``base`` and each delta are (rows, columns) of the tile, in the dtype that the
    combination was made for; none is changed or kept. Deltas have weight 1. What is not
    finite comes through as not finite, and is not warned of.

    ``measures``: numbers taken of the whole tensor go into the sum, not choices alone.
    """

    measures: bool

    @property
    def passes_left(self) -> bool:
        """Whether another look at all tiles is needed before ``combine``."""
        ...

    def look(self, base: Array, deltas: Sequence[Array], tile: Tile) -> Any:  # noqa: ANN401  # each method's own
        """Return what this pass must know of a tile; pure."""
        ...

    def take(self, tile: Tile, seen: Any) -> None:  # noqa: ANN401
        """Add what ``look`` returned; tiles come in order, from one thread."""
        ...

    def close_pass(self) -> None:
        """End a pass: all tiles were taken."""
        ...

    def choose(self, deltas: Sequence[Array], tile: Tile) -> Choice:
        """Return what ``combine`` decides of a tile; pure."""
        ...

    def combine(
        self, base: Array, deltas: Sequence[Array], tile: Tile, choice: Choice | None = None
    ) -> Array:
        """Return the merged delta of a tile (rows, columns), to be added to W; pure.

        With a ``choice`` nothing is decided: then the blocks may be in another dtype, and any
        part of a tile.
        """
        ...
