"""From tensors on disk to parameters in memory, without building the model.

PEFT names modules as they stand in the memory of transformers 5; a checkpoint on disk
keeps older names, and stores apart what memory holds as one (the experts of a
mixture, the two halves of a gated projection).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adreg.registry.bases.renames import Architecture, Match, Step, architecture, steps
from adreg.registry.tensors.checkpoint import Layout


@dataclass(frozen=True, slots=True)
class Piece:
    """One base tensor on disk that is a parameter in memory, or a part of one.

    ``index`` is the expert's number when memory stacks several tensors along dimension 0;
    ``rows`` the rows [start, stop) of the memory matrix (of each expert's, for a stack) that
    the tensor holds, None for all; ``transposed`` says that it is stored (in, out) where
    memory has (out, in).
    """

    name: str
    index: int | None = None
    rows: tuple[int, int] | None = None
    transposed: bool = False


Pieces = tuple[Piece, ...]

EXPERTS_IN_OUT = frozenset({"aria", "aria_text", "gpt_oss", "openai_privacy_filter"})
"""Model types whose stacks of experts are (E, in, out) in memory, all others' (E, out, in).

Where transformers 5.23 sets ``is_transposed`` on the experts; PEFT 0.21 asks for that and not
for shapes (tuners/lora/layer.py, ParamWrapper).
"""


class Memory(Mapping[str, "Pieces | None"]):
    """Each parameter's name in memory, with the tensors on disk that it is made of.

    None stands for a parameter that pieces cannot express (transformers chunks, permutes
    or interleaves rows to make it). A tensor on disk is in the pieces of just one
    parameter, unless it is in none because of that.
    """

    def __init__(
        self,
        pieces: Mapping[str, Pieces | None],
        conversions: tuple[Step, ...],
        kind: Architecture | None,
    ) -> None:
        """Take what ``memory_pieces`` found."""
        self._pieces = pieces
        self._conversions = conversions
        self.kind = kind

    def __getitem__(self, name: str) -> Pieces | None:
        """Return the pieces of a parameter; raise KeyError for a name that is not in memory."""
        return self._pieces[name]

    def __iter__(self) -> Iterator[str]:
        """Give the names in memory."""
        return iter(self._pieces)

    def __len__(self) -> int:
        """Return the number of parameters in memory."""
        return len(self._pieces)

    def renamed(self, name: str) -> str:
        """Return the name in memory for an older name, as for a name on disk."""
        for step in self._conversions:
            if not step.operations and (match := step.match(name)):
                name = match.renamed(step.targets[0])
        return _prefixed(name, self.kind)


def memory_pieces(
    layout: Layout,
    model_type: str | None,
    config: Mapping[str, Any],
    architecture_name: str | None,
) -> Memory:
    """Map each parameter's name in memory to the tensors on disk that it is made of.

    Plain models map every name to itself. An architecture that transformers 5.23 does not
    have (code of its own) maps to the names on disk.
    """
    conversions = steps(architecture_name, model_type, config)
    kind = architecture(architecture_name)
    renamings = [step for step in conversions if _is_renaming(step)]
    converters = [step for step in conversions if not _is_renaming(step)]
    plain: dict[str, list[str]] = defaultdict(list)
    made: dict[str, _Made] = {}
    refused: set[str] = set()
    active: set[int] = set()
    for disk in sorted((tensor.name for tensor in layout), key=_natural):
        name = _rename(disk, renamings, active)
        step, match = _convert(name, converters)
        if step is None or match is None:
            plain[_prefixed(name, kind)].append(disk)
            continue
        targets = [_prefixed(match.renamed(target), kind) for target in step.targets]
        if len(targets) > 1:
            refused.update(targets)
        else:
            parts = made.setdefault(targets[0], _Made(step, defaultdict(list)))
            parts.sources[match.source].append((_number(match.text), disk))
    pieces: dict[str, Pieces | None] = {
        # Two tensors of one name: what transformers takes depends on the order of files.
        name: (Piece(disks[0]),) if len(disks) == 1 else None
        for name, disks in plain.items()
    }
    for name, parts in made.items():
        pieces[name] = None if name in pieces else _assembled(name, parts, layout, config)
    pieces |= dict.fromkeys(refused)
    return Memory(pieces, conversions, kind)


@dataclass(frozen=True, slots=True)
class _Made:
    """What one converter makes a parameter of: number and name on disk, by source."""

    step: Step
    sources: dict[int, list[tuple[int, str]]]


_GROUP = "GroupWeightRename"


def _is_renaming(step: Step) -> bool:
    return not step.operations or step.operations == (_GROUP,)


def _rename(name: str, renamings: list[Step], active: set[int]) -> str:
    for number, step in enumerate(renamings):
        match = step.match(name)
        if match is None:
            continue
        if not step.operations:
            name = match.renamed(step.targets[0])
            continue
        # Its first source shows that the names are the old ones; the others could be
        # new ones (transformers 5.23, core_model_loading.py, GroupWeightRename).
        if match.source == 0:
            active.add(number)
        if number in active:
            name = match.renamed(step.targets[match.source])
    return name


def _convert(name: str, converters: list[Step]) -> tuple[Step | None, Match | None]:
    for step in converters:
        if match := step.match(name):
            return step, match
    return None, None


def _prefixed(name: str, kind: Architecture | None) -> str:
    """Add the prefix of the bare model that a headed class holds, or take it away."""
    if kind is None or not kind.prefix:
        return name
    first, _, rest = name.partition(".")
    if kind.prefix in kind.firsts:
        return name if first in kind.firsts else f"{kind.prefix}.{name}"
    inside = rest.partition(".")[0] in kind.firsts
    return rest if first == kind.prefix and inside else name


_JOINED = {
    ("MergeModulelist 0",): None,
    ("MergeModulelist 0", "Concatenate 1"): 0,
    ("Concatenate 0",): 0,
    ("Concatenate 1",): 1,
}
"""Operations that pieces express, with the dimension of the tensors on disk that is joined."""


def _assembled(name: str, parts: _Made, layout: Layout, config: Mapping[str, Any]) -> Pieces | None:
    """Return the pieces that a converter's operations make of its sources, if they can be."""
    operations = parts.step.operations
    sources = [parts.sources[number] for number in sorted(parts.sources)]
    if len(sources) != parts.step.sources:
        return None
    if operations in _JOINED:
        dimension = _JOINED[operations]
        stacked = operations[0] == "MergeModulelist 0"
        if not _numbered(sources, stacked=stacked) or (dimension is None and len(sources) > 1):
            return None
        return _stack(sources, dimension, layout, stacked=stacked)
    if len(operations) == 1 and operations[0].startswith("Transpose") and len(sources[0]) == 1:
        return _turned(name, sources[0][0][1], operations[0], layout, config)
    return None


def _numbered(sources: list[list[tuple[int, str]]], *, stacked: bool) -> bool:
    """Whether each source has the same experts from 0 on without a gap, or just one tensor."""
    if not stacked:
        return all(len(source) == 1 for source in sources)
    return all(
        [number for number, _ in source] == list(range(len(sources[0]))) for source in sources
    )


def _stack(
    sources: list[list[tuple[int, str]]],
    dimension: int | None,
    layout: Layout,
    *,
    stacked: bool,
) -> Pieces | None:
    """Return the pieces of sources that lie one after the other along a dimension, or as one."""
    pieces: list[Piece] = []
    for place in range(len(sources[0])):
        start = 0
        for source in sources:
            number, disk = source[place]
            index = number if stacked else None
            if dimension is None:
                pieces.append(Piece(disk, index))
                continue
            shape = layout[disk].shape
            # Rows of a matrix, or of the matrices of a stack, and no columns of theirs.
            if dimension != max(0, len(shape) - 2):
                return None
            pieces.append(Piece(disk, index, (start, start + shape[dimension])))
            start += shape[dimension]
    return tuple(pieces)


def _turned(
    name: str, disk: str, operation: str, layout: Layout, config: Mapping[str, Any]
) -> Pieces | None:
    shape = layout[disk].shape
    _, first, second, *by_shape = operation.split()
    if (int(first), int(second)) != (len(shape) - 2, len(shape) - 1):
        return None
    if not by_shape:
        return (Piece(disk, transposed=True),)
    # Expert stacks: (E, 2 I, hidden) and (E, hidden, I) in memory; transformers turns a
    # tensor only when its shape is not that (core_model_loading.py, Transpose).
    inner = config.get("text_config", config)
    hidden = inner.get("hidden_size") if isinstance(inner, Mapping) else None
    if not isinstance(hidden, int):
        return None
    place = 2 if name.endswith("gate_up_proj") else 1 if name.endswith("down_proj") else None
    if place is None:
        return None
    return (Piece(disk, transposed=shape[place] != hidden),)


def _number(text: str) -> int:
    """Return the last number in what a converter's source matched: the expert's."""
    found = re.findall(r"(?<![A-Za-z0-9_])\d+(?=\.)", text)
    return int(found[-1]) if found else 0


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
