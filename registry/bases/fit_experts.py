"""Where LoRA factors of fused expert parameters go: PEFT's ``target_parameters``.

Read from peft 0.21.2 (tuners/lora/layer.py, ParamWrapper; tuners/tuners_utils.py,
``_inject_parameters``): A is (E * r, in) with the experts one after the other, B is
(out, r * E) with the experts fastest, and the first parameter of a module is innermost.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

from adreg.registry.adapters.config import rank_of, scale_of
from adreg.registry.adapters.spec import AdapterSpec, AdapterTensor, Part
from adreg.registry.bases.memory import EXPERTS_IN_OUT, Pieces
from adreg.registry.bases.placement import Expert, Fitting, Kind, Placement
from adreg.registry.tensors import dtypes

Parts = Mapping[Part, AdapterTensor]

_SWAPPED_BEFORE = (0, 19)
"""PEFT before 0.19 took (E, in, out) for granted (unsloth-zoo#647, Automodel#3592)."""


def place_experts(state: Fitting, module: str, wraps: Mapping[int, Parts]) -> None:
    """Place the factors of one module; ``wraps`` holds them by depth, the innermost deepest."""
    chosen = _choose(state, module, wraps)
    first = next(iter(next(iter(wraps.values())).values()))
    if chosen is None:
        wanted = ", ".join(target_parameters(state.spec)) or "none"
        state.faults.append(
            f"{first.key!r} is of no parameter of {module!r}: target_parameters are {wanted},"
            f" the base has {', '.join(sorted(_parameters(state, module))) or 'none'}"
        )
        return
    for parts, (name, pieces, shape) in chosen:
        _place(state, name, pieces, shape, parts)


Found = tuple[str, Pieces, tuple[int, int, int]]
"""A parameter's name, its pieces on disk, and its shape (experts, rows, columns) in memory."""


def _choose(
    state: Fitting, module: str, wraps: Mapping[int, Parts]
) -> list[tuple[Parts, Found]] | None:
    """Say which parameter each wrapper is of: by the order of their names, if shapes agree."""
    parameters = _parameters(state, module)
    inside_out = [wraps[depth] for depth in sorted(wraps, reverse=True)]
    for names in permutations(sorted(parameters, key=_registered), len(inside_out)):
        found = [parameters[name] for name in names]
        if all(
            _delta(parts, one[2]) is not None for parts, one in zip(inside_out, found, strict=True)
        ):
            return list(zip(inside_out, found, strict=True))
    return None


def target_parameters(spec: AdapterSpec) -> tuple[str, ...]:
    """Return the ends of the names of the parameters that an adapter targets as such."""
    return tuple(str(target) for target in spec.config.get("target_parameters") or ())


def _registered(leaf: str) -> tuple[bool, str]:
    """Order parameters as transformers' experts register them: into the hidden size last."""
    return "down" in leaf or leaf.endswith(("2", "wo", "output_linear")), leaf


def _parameters(state: Fitting, module: str) -> dict[str, Found]:
    """Return the targeted parameters of a module that stack matrices, by their last names."""
    found: dict[str, Found] = {}
    beginning = state.naming.rewrite(f"{module}.x").removesuffix("x")
    for name, pieces in state.base.memory.items():
        leaf = name.removeprefix(beginning)
        if not name.startswith(beginning) or "." in leaf or pieces is None:
            continue
        if not any(name == t or name.endswith(f".{t}") for t in target_parameters(state.spec)):
            continue
        if (shape := _shape(state, pieces)) is not None:
            found[leaf] = (f"{module}.{leaf}", pieces, shape)
    return found


def _shape(state: Fitting, pieces: Pieces) -> tuple[int, int, int] | None:
    """Return (experts, rows, columns) of what the pieces make in memory; None if not a stack."""
    layout = state.base.layout
    experts = rows = columns = 0
    for piece in pieces:
        shape = layout[piece.name].shape
        if len(shape) != (3 if piece.index is None else 2):
            return None
        height, width = shape[-2:][::-1] if piece.transposed else shape[-2:]
        experts = max(experts, shape[0] if piece.index is None else piece.index + 1)
        rows, columns = max(rows, piece.rows[1] if piece.rows else height), width
    return experts, rows, columns


def _delta(parts: Parts, shape: tuple[int, int, int]) -> int | None:
    """Return the rank if the factors make a delta of this shape or its transpose, else None."""
    a, b = parts.get(Part.LORA_A), parts.get(Part.LORA_B)
    if a is None or b is None or len(parts) != 2:
        return None
    experts, rows, columns = shape
    inner, width = a.info.shape[0], a.info.shape[1]
    if b.info.shape[1] != inner or inner % experts:
        return None
    fits = (b.info.shape[0], width) in {(rows, columns), (columns, rows)}
    return inner // experts if fits else None


def _is_flipped(state: Fitting, parts: Parts, shape: tuple[int, int, int]) -> bool:
    """Whether B A is the transpose of a matrix in memory."""
    _, rows, columns = shape
    if rows != columns:
        return parts[Part.LORA_B].info.shape[0] == columns
    if state.base.model_type in EXPERTS_IN_OUT:
        return True
    numbers = (state.spec.peft_version or "").split(".")[:2]
    known = len(numbers) == 2 and all(number.isdigit() for number in numbers)
    return known and tuple(map(int, numbers)) < _SWAPPED_BEFORE


def _place(
    state: Fitting,
    name: str,
    pieces: Pieces,
    shape: tuple[int, int, int],
    parts: Parts,
) -> None:
    settings = state.spec.lora
    a, b = parts[Part.LORA_A], parts[Part.LORA_B]
    rank = a.info.shape[0] // shape[0]
    if rank != (wanted := rank_of(settings, name)):
        state.faults.append(
            f"{a.key!r} has rank {rank} for each of {shape[0]} experts of {name!r},"
            f" the configuration says {wanted}"
        )
        return
    for piece in pieces:
        if (dtype := state.base.layout[piece.name].dtype) not in dtypes.FLOATS:
            state.faults.append(f"the base's {piece.name!r} is {dtype}, which nothing is added to")
            return
    flipped = _is_flipped(state, parts, shape)
    used: tuple[AdapterTensor, ...] = (a, b)
    for piece in pieces:
        expert = Expert(
            index=piece.index,
            count=shape[0],
            rank=rank,
            flipped=flipped != piece.transposed,
            rows=piece.rows,
        )
        scale = scale_of(settings, name)
        also = () if used else (a, b)
        state.placements.append(
            Placement(Kind.EXPERTS, piece.name, piece.name, used, scale, also=also, expert=expert)
        )
        used = ()
