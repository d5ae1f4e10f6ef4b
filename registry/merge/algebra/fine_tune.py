"""A full fine-tune against its base: which tensors differ, and what a LoRA can hold of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from adreg.registry.bases.base import Base
from adreg.registry.bases.conv1d import Conv1ds, is_conv1d
from adreg.registry.bases.diskname import find_embedding, head_name
from adreg.registry.bases.memory import Piece, memory_pieces
from adreg.registry.tensors import dtypes
from adreg.registry.tensors.arrays import Array, TensorReader
from adreg.registry.tensors.header import TensorFile, TensorInfo

_EMBEDDINGS = frozenset(
    {
        "embed_tokens",
        "wte",
        "wpe",
        "word_embeddings",
        "position_embeddings",
        "token_type_embeddings",
        "embed_in",
        "tokens_embed",
        "shared",
        "tok_embeddings",
    }
)
"""Last names of torch's own Embedding in transformers 5.23. Others that look up rows compute
on the way (OPT's positions start at 2), which PEFT's Embedding layer does not."""

_ROUTERS = frozenset({"gate", "router"})
_FUSED = "transformers 5 keeps it fused with others, so no module of this name can be targeted"

_PIECE = 1 << 20

Place = tuple[TensorFile, TensorInfo]


class Kind(Enum):
    """What a weight with two dimensions is to PEFT."""

    LINEAR = "linear"
    """W (out, in) += B A"""
    CONV1D = "conv1d"
    """W (in, out) += (B A)^T"""
    EMBEDDING = "embedding"
    """W (vocabulary, dim) += (B A)^T"""


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor in the base and in the fine-tune; ``module`` is its name in memory.

    ``head`` is the module of a head that is tied to this embedding, None without one;
    ``fused`` tells that memory keeps it as one with others, and ``name`` is the one on disk.
    """

    name: str
    module: str
    parameter: str
    base: Place
    full: Place
    head: str | None = None
    fused: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, which both have."""
        return self.base[1].shape


@dataclass(frozen=True, slots=True)
class Lost:
    """A change that the adapter does not hold, with the reason and its Frobenius norm.

    ``norm`` is None where there is nothing to subtract.
    """

    name: str
    reason: str
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Fine-tune minus base of one tensor with two dimensions, read by blocks of rows."""

    pair: Pair
    reader: TensorReader

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pair.shape[0], self.pair.shape[1]

    def rows(self, start: int, stop: int) -> Array:
        """Return rows [start, stop) in float32."""
        columns = self.shape[1]
        full, base = (
            self.reader.read(file.path, info, start * columns, stop * columns).astype(np.float32)
            for file, info in (self.pair.full, self.pair.base)
        )
        full -= base
        return full.reshape(-1, columns)


def pair_up(base: Base, full: Base) -> tuple[list[Pair], list[Lost]]:
    """Pair the tensors of two checkpoints by name in memory; those without a partner are lost.

    Tensors that memory keeps as one with others are paired by their names on disk.
    """
    ours, theirs = _Named.of(base), _Named.of(full)
    _untie(ours, theirs)
    _untie(theirs, ours)
    tied = ours.base.tied and ours.head is not None and ours.head not in ours.whole
    pairs: list[Pair] = []
    lost: list[Lost] = []
    for mine, other, fused in (
        (ours.whole, theirs.whole, False),
        (ours.parts, theirs.parts, True),
    ):
        for name in dict.fromkeys([*mine, *other]):
            if name not in mine or name not in other:
                who = "base" if name in mine else "fine-tune"
                lost.append(Lost(name, f"only the {who} has it"))
                continue
            one, two = mine[name][1].shape, other[name][1].shape
            if one != two:
                text = f"it is {_text(one)} in the base and {_text(two)} in the fine-tune"
                lost.append(Lost(name, text))
                continue
            module, _, parameter = name.rpartition(".")
            follows = tied and not fused and name == ours.embedding
            head = ours.head.rpartition(".")[0] if follows and ours.head else None
            pairs.append(Pair(name, module, parameter, mine[name], other[name], head, fused))
    return pairs, lost


def kind_of(pair: Pair, base: Base) -> Kind | str:
    """Return what a weight is to PEFT's LoRA, or why it is nothing to it."""
    leaf = pair.module.rpartition(".")[2]
    codes = {pair.base[1].dtype, pair.full[1].dtype}
    reasons = {
        f"it is {' and '.join(sorted(codes))}": not codes <= dtypes.FLOATS,
        _FUSED: pair.fused or leaf in _ROUTERS,
        "it is a norm or a bias": len(pair.shape) == 1,
        "it is no weight with two dimensions": pair.parameter != "weight"
        or len(pair.shape) != 2
        or 0 in pair.shape,
        "it is an embedding that PEFT does not know": "embed" in leaf
        and leaf not in _EMBEDDINGS | {"embed_out"},
    }
    if reason := next((text for text, holds in reasons.items() if holds), None):
        return reason
    if leaf in _EMBEDDINGS:
        return Kind.EMBEDDING
    conv1ds = Conv1ds(base.architecture, base.model_type, base.config)
    of_type = is_conv1d(base.model_type, pair.module)
    return Kind.CONV1D if (pair.module in conv1ds if conv1ds.known else of_type) else Kind.LINEAR


def change(pair: Pair, reader: TensorReader) -> float:
    """Return the Frobenius norm of the difference, in float64; infinite where it is not a number.

    Types without a float value count as changed by infinity when any byte differs.
    """
    if not {pair.base[1].dtype, pair.full[1].dtype} <= dtypes.FLOATS:
        same = pair.base[1].dtype == pair.full[1].dtype and _same_bytes(pair, reader)
        return 0.0 if same else math.inf
    total = 0.0
    for start in range(0, pair.base[1].count, _PIECE):
        stop = min(start + _PIECE, pair.base[1].count)
        full, base = (
            reader.read(file.path, info, start, stop).astype(np.float64)
            for file, info in (pair.full, pair.base)
        )
        with np.errstate(all="ignore"):
            total += float(np.sum(np.square(full - base)))
    return math.sqrt(total) if math.isfinite(total) else math.inf


@dataclass(frozen=True, slots=True)
class _Named:
    """A checkpoint's tensors.

    ``whole`` are those that memory has as they are, by their names there; ``parts`` the
    others, by their names on disk. ``head`` and ``embedding`` are names in memory.
    """

    base: Base
    whole: dict[str, Place]
    parts: dict[str, Place]
    head: str | None
    embedding: str | None

    @classmethod
    def of(cls, base: Base) -> _Named:
        layout = base.layout
        memory = memory_pieces(layout, base.model_type, base.config, base.architecture)
        names = {
            pieces[0].name: name
            for name, pieces in memory.items()
            if pieces and pieces == (Piece(pieces[0].name),)
        }
        whole = {names[disk]: layout.places[disk] for disk in layout.places if disk in names}
        parts = {disk: place for disk, place in layout.places.items() if disk not in names}
        embedding = names.get(find_embedding(layout, memory) or "")
        return cls(base, whole, parts, head_name(base.architecture), embedding)


def _untie(tied: _Named, other: _Named) -> None:
    """Give a tied checkpoint the head that the other one has apart from its embedding."""
    head = tied.head
    if head is None or head in tied.whole or head not in other.whole:
        return
    if tied.base.tied and tied.embedding is not None:
        tied.whole[head] = tied.whole[tied.embedding]


def _same_bytes(pair: Pair, reader: TensorReader) -> bool:
    pieces = zip(_bytes(pair.base, reader), _bytes(pair.full, reader), strict=True)
    return all(one == other for one, other in pieces)


def _bytes(place: Place, reader: TensorReader) -> Iterator[bytes]:
    file, info = place
    for start in range(info.start, info.end, _PIECE):
        buffer = bytearray(min(_PIECE, info.end - start))
        reader.read_into(file.path, start, memoryview(buffer))
        yield bytes(buffer)


def _text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
