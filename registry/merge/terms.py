"""What can happen to one tensor, as pure data: the steps from W to what an adapter makes of it.

All act on the 2-D view of the tensor (rows, columns). Keys name adapter tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adreg.registry.adapters.tuners import Decomposition
from adreg.registry.bases.placement import Kind

Side = Literal["rows", "columns"]


@dataclass(frozen=True, slots=True)
class FactorView:
    """A stored tensor, or a part of it, read as an (outer, inner) matrix.

    ``transposed`` says that the file holds (inner, outer). Of the stored inner side
    every ``inner_step``-th from ``inner_start`` is taken, of the outer side all from
    ``outer_start``: so experts' factors lie in one tensor.
    """

    key: str
    transposed: bool
    inner_start: int = 0
    inner_step: int = 1
    outer_start: int = 0


@dataclass(frozen=True, slots=True)
class LowRank:
    """Add s * L diag(d) R^T with L (rows, r), R (columns, r) and ``middle`` d (r,), else ones.

    With ``rows`` it is added to these rows [start, stop) alone, and L has as many.
    """

    left: FactorView
    right: FactorView
    rank: int
    scale: float
    middle: str | None = None
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Decomposed:
    """Take away the part of W that PiSSA or OLoRA of a rank took: see ``deltas.decomposed``.

    Computed from W as the base has it, whatever other terms do. ``scale`` is OLoRA's s.
    """

    kind: Decomposition
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Hadamard:
    """Add s times the elementwise product of two low-rank products."""

    first: LowRank
    second: LowRank
    scale: float


@dataclass(frozen=True, slots=True)
class Kronecker:
    """Add s * kron(P, Q), or its transpose; each is one tensor, or the product of two."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    scale: float
    transposed: bool


@dataclass(frozen=True, slots=True)
class Vector:
    """Add s times a tensor of the target's own shape."""

    key: str
    scale: float


@dataclass(frozen=True, slots=True)
class Full:
    """Take a tensor of the target's own shape in place of W."""

    key: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Take the rows of a tensor in place of the numbered rows of W."""

    key: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Multiply each row ("rows") or column ("columns") by its element of a vector."""

    key: str
    of: Side


@dataclass(frozen=True, slots=True)
class Normalised:
    """DoRA: scale what came before so that each row's or column's norm is the magnitude.

    Liu et al., 2024, arXiv 2402.09353; peft 0.21.2, tuners/lora/variants.py.
    """

    magnitude: str
    norm_of: Side


@dataclass(frozen=True, slots=True)
class Module:
    """What PEFT's own layer of a module makes of W, or of its bias."""

    module: str
    parameter: str
    layer: Kind
    weight: str
    bias: str | None
    """The base's tensors that the layer holds, by their names on disk."""
    given: str | None = None
    """The adapter's own tensor that stands in for W, or for the bias, before PEFT merges."""


Term = (
    LowRank
    | Decomposed
    | Hadamard
    | Kronecker
    | Vector
    | Full
    | Rows
    | Scaling
    | Normalised
    | Module
)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one adapter does to one tensor: its delta is taken ``weight`` times.

    The delta is y - W, with y what the terms make of W, one after the other.
    """

    adapter: int
    weight: float
    terms: tuple[Term, ...]

    @property
    def replaces(self) -> bool:
        """Whether nothing of W is left."""
        return len(self.terms) == 1 and isinstance(self.terms[0], Full)

    @property
    def only_rows(self) -> bool:
        """Whether single rows are replaced and nothing else is done."""
        return all(isinstance(term, Rows) for term in self.terms)
