"""Where a group of adapter tensors goes in a base, and the state of finding it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from adreg.registry.adapters.spec import AdapterSpec, AdapterTensor, Part
from adreg.registry.adapters.tuners import Decomposition
from adreg.registry.bases.base import Base
from adreg.registry.bases.conv1d import Conv1ds, is_conv1d
from adreg.registry.bases.diskname import Naming, find_embedding, head_name
from adreg.registry.bases.memory import Piece


class Kind(Enum):
    """How a placed group of adapter tensors changes its target."""

    LINEAR = "linear"
    """W (out, in) += delta"""
    CONV1D = "conv1d"
    """W (in, out) += delta^T"""
    EMBEDDING = "embedding"
    """W (vocabulary, dim) += delta^T"""
    CONVOLUTION = "convolution"
    """W (out, in, k...) += delta, on the (out, in * k...) view"""
    BIAS = "bias"
    """b += s * B's bias"""
    FULL = "full"
    """the tensor itself takes the place of the base's"""
    ROWS = "rows"
    """the tensor's rows take the place of some of the base's"""
    SCALING = "scaling"
    """W or b is multiplied by the vector, along the side that it has"""
    EXPERTS = "experts"
    """each expert's matrix += s * B A of its own share of the factors"""
    MODULE = "module"
    """PEFT's own layer turns W and b into what they become"""


@dataclass(frozen=True, slots=True)
class Expert:
    """What of a stack of ``count`` experts' matrices a target holds.

    ``index`` is the one expert that it is of, None when it holds a matrix of each;
    ``rows`` are the rows [start, stop) of the matrix in memory that it holds, None for
    all. ``flipped`` says that it holds the transpose of what B A makes.
    """

    index: int | None
    count: int
    rank: int
    flipped: bool
    rows: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Placement:
    """A group of adapter tensors and the one base tensor that it changes.

    ``target`` is a name on disk. ``source`` is the base tensor that W is read from: the
    target itself; the input embedding, when the target is a tied head that the
    checkpoint does not hold; None, when the base has no such tensor, or one of another
    vocabulary, and FULL brings all of it.
    ``scale`` is alpha/r or alpha/sqrt(r); 1 where there is none. ``also`` are tensors
    that it needs and that another placement counts as used. ``numbers`` are the rows
    that ROWS replaces. ``taken`` is how a part of W was taken away when the adapter was
    trained. ``layer`` is the kind of layer that a MODULE is, ``module`` its name, and
    ``holds`` are the base tensors that its weight and its bias are.
    """

    kind: Kind
    target: str
    source: str | None
    tensors: tuple[AdapterTensor, ...]
    scale: float = 1.0
    also: tuple[AdapterTensor, ...] = ()
    expert: Expert | None = None
    numbers: tuple[int, ...] = ()
    layer: Kind | None = None
    module: str = ""
    parameter: str = "weight"
    holds: tuple[str, str | None] = ("", None)
    taken: Decomposition | None = None

    def part(self, *parts: Part) -> AdapterTensor | None:
        """Return its tensor of one of these parts, if it has one."""
        return next((t for t in (*self.tensors, *self.also) if t.part in parts), None)

    def own(self) -> Mapping[str, AdapterTensor]:
        """Return its tensors of another kind of adapter than LoRA by their own names."""
        return {t.parameter: t for t in (*self.tensors, *self.also) if t.part is Part.TUNER}


@dataclass(frozen=True, slots=True)
class Fit:
    """All placements of an adapter in a base, and what does not fit, tensor by tensor."""

    placements: tuple[Placement, ...]
    faults: tuple[str, ...]


@dataclass
class Fitting:
    """A fit in the making."""

    spec: AdapterSpec
    base: Base
    naming: Naming
    conv1ds: Conv1ds
    votes: dict[str, bool] = field(default_factory=dict)
    """Whether modules of a last name are Conv1D, where shapes alone tell."""
    vocabulary: dict[str, int] | None = None
    """The dimensions of the base's tensors that count tokens, once they are asked for."""
    resized: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The shapes of what the adapter brings whole with another vocabulary, by target."""
    placements: list[Placement] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def source(self, name: str) -> tuple[str, str | None]:
        """Return the name on disk and the tensor to read, None when the base has none.

        What memory makes of several tensors, or of a part of one, has none: see ``absent``.
        """
        pieces = self.naming(name)
        if pieces is not None and len(pieces) == 1 and pieces[0] == Piece(pieces[0].name):
            return pieces[0].name, pieces[0].name
        base, known = self.base, self.naming.rewrite(name)
        if base.tied and known == head_name(base.architecture):
            return known, self.embedding
        return known, None

    def is_conv1d(self, module: str) -> bool:
        """Whether a module keeps its weight as (in, out)."""
        if self.conv1ds.known:
            name = self.naming.rewrite(f"{module}.weight")
            return name.removesuffix(".weight") in self.conv1ds
        leaf = module.rpartition(".")[2]
        return self.votes.get(leaf, is_conv1d(self.base.model_type, module))

    @cached_property
    def embedding(self) -> str | None:
        """The base's input embedding."""
        return find_embedding(self.base.layout, self.base.memory)

    def shape(self, target: str, source: str) -> tuple[int, ...]:
        """Return the shape of what a delta goes on: the adapter's own W, where it brings one."""
        return self.resized.get(target, self.base.layout[source].shape)

    def absent(self, name: str, key: str) -> str:
        """Return the fault that the base has no one tensor of this name for an adapter's."""
        known = self.naming.rewrite(name)
        if known not in self.base.memory:
            return f"the base has no tensor {name!r} for {key!r}"
        pieces = self.base.memory[known]
        if pieces is None:
            return f"{name!r} for {key!r} is cut out of the base's tensors in a way not understood"
        names = ", ".join(repr(piece.name) for piece in pieces[:2])
        return f"{name!r} for {key!r} is {len(pieces)} tensors on disk, {names} among them"


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as messages show it."""
    return "(" + ", ".join(map(str, shape)) + ")"
