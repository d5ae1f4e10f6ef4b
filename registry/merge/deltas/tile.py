"""A block of a tensor, and the tensor's 2-D view that it is cut from."""

from __future__ import annotations

from dataclasses import dataclass


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
