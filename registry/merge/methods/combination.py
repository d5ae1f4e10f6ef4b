"""A method at work on one tensor: what the engine calls, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.tensors.arrays import Array


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
    """

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

    def combine(self, base: Array, deltas: Sequence[Array], tile: Tile) -> Array:
        """Return the merged delta of a tile (rows, columns), to be added to W; pure."""
        ...
