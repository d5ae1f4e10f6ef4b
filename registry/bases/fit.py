"""Where each tensor of an adapter goes in a base: the ground of verdicts and of plans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from adreg.registry.adapters.config import rank_of, rows_of, scale_of
from adreg.registry.adapters.spec import AdapterSpec, AdapterTensor, Part
from adreg.registry.adapters.tuners import decomposition
from adreg.registry.bases.base import Base
from adreg.registry.bases.conv1d import Conv1ds
from adreg.registry.bases.diskname import Naming, resolve
from adreg.registry.bases.fit_experts import place_experts, target_parameters
from adreg.registry.bases.fit_heads import is_head, is_relabelled
from adreg.registry.bases.fit_others import place_others
from adreg.registry.bases.fit_vocabulary import (
    check_vocabulary,
    follow_tie,
    is_resized,
    lacks_matrix,
)
from adreg.registry.bases.placement import Fit, Fitting, Kind, Placement, shape_text
from adreg.registry.bases.renames import architecture
from adreg.registry.bases.replicated import deepened
from adreg.registry.tensors import dtypes

_IN_PROJ = "in_proj_weight"
"""The parameter of an nn.MultiheadAttention for queries, keys and values: (3 dim, dim)."""


def fit(spec: AdapterSpec, base: Base) -> Fit:
    """Place every tensor of an adapter in a base; nothing is left out silently.

    Each tensor is in just one placement or named in a fault. Raises MergeRefused for layers
    that the adapter repeats and the base cannot.
    """
    base = deepened(base, (spec,))
    conv1ds = Conv1ds(base.architecture, base.model_type, base.config)
    state = Fitting(spec, base, resolve(_names(spec, base), base.memory, base.layout), conv1ds)
    if state.naming.rival is not None:
        return Fit((), (_two_readings(state, state.naming.rival),))
    groups: dict[str, dict[int, dict[Part, AdapterTensor]]] = defaultdict(lambda: defaultdict(dict))
    others: dict[str, dict[str, AdapterTensor]] = defaultdict(dict)
    # What is brought whole comes first: it is the W that the rest of the adapter is for.
    for tensor in sorted(spec.tensors, key=lambda tensor: tensor.part is not Part.FULL):
        if tensor.part is Part.FULL:
            _place_full(state, tensor)
        elif tensor.part is Part.ROWS:
            _place_rows(state, tensor)
        elif tensor.part is Part.TUNER:
            others[tensor.module][tensor.parameter] = tensor
        else:
            groups[tensor.module][tensor.depth][tensor.part] = tensor
    plain = {module: wraps[0] for module, wraps in groups.items() if wraps.keys() == {0}}
    state.votes = _votes(state, plain)
    for module, wraps in groups.items():
        if module in plain and (not target_parameters(spec) or state.source(f"{module}.weight")[1]):
            _place_lora(state, module, wraps[0])
        elif (taken := decomposition(spec.config)) is not None:
            state.faults.append(_not_taken(taken, module))
        else:
            place_experts(state, module, wraps)
    place_others(state, others)
    follow_tie(state)
    check_vocabulary(state)
    return Fit(tuple(state.placements), tuple(state.faults))


def _two_readings(state: Fitting, rival: Naming) -> str:
    """Return the fault of names that fit two parts of the base equally well."""
    for name in sorted(_names(state.spec, state.base)):
        one, two = state.naming(name), rival(name)
        if one != two and one and two:
            either = f"{one[0].name!r} or {two[0].name!r}"
            return f"{name!r} can be {either} of the base: what stands before it is missing"
    return "its names fit two parts of the base equally well"


def _names(spec: AdapterSpec, base: Base) -> set[str]:
    """Return the parameters that an adapter is for, as it names them."""
    names = set()
    for tensor in spec.tensors:
        if tensor.part is Part.FULL:
            names.add(f"{tensor.module}.{tensor.parameter}")
        elif tensor.module:
            names.add(f"{tensor.module}.weight")
    if any(name.endswith(f".{_IN_PROJ}") for name in base.memory):
        names |= {f"{n.removesuffix('.weight')}.{_IN_PROJ}" for n in names if n.endswith(".weight")}
    modules = {t.module for t in spec.tensors if t.part in {Part.LORA_A, Part.LORA_B}}
    for target in target_parameters(spec):
        parent, _, leaf = target.rpartition(".")
        wrapped = {m for m in modules if not parent or m == parent or m.endswith(f".{parent}")}
        names -= {f"{module}.weight" for module in wrapped}
        names |= {f"{module}.{leaf}" for module in wrapped}
    return names


def _place_full(state: Fitting, tensor: AdapterTensor) -> None:
    name = f"{tensor.module}.{tensor.parameter}"
    target, source = state.source(name)
    if source is None:
        # A new head comes with modules_to_save; anything else that the base lacks is
        # a sign of the wrong base. Configs omit the list at times, names of heads tell.
        if not is_head(state.spec, tensor.module) or _is_inside(state, name):
            state.faults.append(state.absent(name, tensor.key))
            return
        state.placements.append(Placement(Kind.FULL, target, None, (tensor,), 1.0))
        return
    shape, dtype = state.base.layout[source].shape, state.base.layout[source].dtype
    if dtype not in dtypes.FLOATS:
        state.faults.append(f"{tensor.key!r} cannot replace the base's {source!r}: it is {dtype}")
        return
    if shape != tensor.info.shape and is_relabelled(state.spec, shape, tensor):
        state.placements.append(Placement(Kind.FULL, target, None, (tensor,)))
        return
    if shape != tensor.info.shape and is_resized(state, target, shape, tensor.info.shape):
        state.resized[target] = tensor.info.shape
        state.placements.append(Placement(Kind.FULL, target, None, (tensor,)))
        return
    if shape != tensor.info.shape:
        state.faults.append(
            f"{tensor.key!r} has the shape {shape_text(tensor.info.shape)},"
            f" the base's {source!r} has {shape_text(shape)}"
        )
        return
    state.placements.append(Placement(Kind.FULL, target, source, (tensor,), 1.0))


def _is_inside(state: Fitting, name: str) -> bool:
    """Whether a new tensor would be in the base's own layers, of which all are known."""
    known, written = architecture(state.base.architecture), state.naming.rewrite(name)
    inside = known is not None and known.prefix and written.startswith(f"{known.prefix}.")
    return bool(inside) and ".pooler." not in written  # a head's, in BERT's class


def _place_rows(state: Fitting, tensor: AdapterTensor) -> None:
    name = f"{tensor.module}.weight"
    target, source = state.source(name)
    numbers = rows_of(state.spec.rows, tensor.module) or ()
    if source is None:
        state.faults.append(state.absent(name, tensor.key))
        return
    info, shape = state.base.layout[source], state.shape(target, source)
    if info.dtype not in dtypes.FLOATS:
        state.faults.append(f"{tensor.key!r} cannot replace rows of {source!r}: it is {info.dtype}")
    elif len(shape) != 2 or shape[1] != tensor.info.shape[1]:
        state.faults.append(
            f"{tensor.key!r} has rows of {tensor.info.shape[1]},"
            f" the base's {source!r} has {shape_text(shape)}"
        )
    elif max(numbers, default=0) >= shape[0]:
        state.faults.append(
            f"{tensor.key!r} is for the row of token {max(numbers)}, the base's {source!r} has"
            f" {shape[0]} rows; only an adapter that brings the whole matrix can make it larger"
        )
    else:
        source = None if target in state.resized else source
        state.placements.append(Placement(Kind.ROWS, target, source, (tensor,), numbers=numbers))


def _place_lora(state: Fitting, module: str, parts: Mapping[Part, AdapterTensor]) -> None:
    first = next(iter(parts.values()))
    target, source = state.source(f"{module}.weight")
    if source is None:
        # An nn.MultiheadAttention itself: queries, keys and values in one parameter, which its
        # factors are for (peft 0.21.2, tuners/lora/layer.py); its out_proj is a module.
        target, source = state.source(f"{module}.{_IN_PROJ}")
    if source is None:
        state.faults.append(state.absent(f"{module}.weight", first.key))
        return
    info = state.base.layout[source]
    if info.dtype not in dtypes.FLOATS:
        state.faults.append(f"the base's {source!r} is {info.dtype}, which nothing is added to")
        return
    shape = state.shape(target, source)
    kind = _kind(state, module, parts, shape)
    if kind is None:
        a, b = _factors(parts)
        tokens = a.info.shape[1] if Part.EMBEDDING_A in parts else b.info.shape[0]
        state.faults.append(
            lacks_matrix(state, target, first, tokens)
            or f"{first.key!r} makes a delta of {shape_text(_delta_shape(a, b))},"
            f" the base's {source!r} has {shape_text(shape)}"
        )
        return
    rank, wanted = _factors(parts)[0].info.shape[0], rank_of(state.spec.lora, first.owner)
    if rank != wanted:
        said = f"{module!r} has rank {rank} in its tensors and {wanted} in the configuration"
        state.faults.append(said)
        return
    source = None if target in state.resized else source
    scale = scale_of(state.spec.lora, first.owner)
    if first.owner != module:
        # PEFT trains and answers with twice the delta of out_proj: MultiheadAttention.merge,
        # which its forward calls, adds it, and calls out_proj.merge, which adds it again
        # (peft 0.21.2, tuners/lora/layer.py).
        scale *= 2
    bias = parts.get(Part.LORA_BIAS)
    weight = tuple(tensor for part, tensor in parts.items() if part is not Part.LORA_BIAS)
    taken = None if kind is Kind.EMBEDDING else decomposition(state.spec.config)
    if taken is not None and (first.owner != module or kind is Kind.CONVOLUTION):
        state.faults.append(_not_taken(taken, module))
        return
    if taken is not None and state.base.tied and source == state.embedding:
        state.faults.append(
            f"{module!r} is tied to the embedding, from which PEFT takes {taken}'s part too"
        )
        return
    state.placements.append(Placement(kind, target, source, weight, scale, taken=taken))
    if bias is not None:
        _place_bias(state, module, bias, scale)


def _not_taken(taken: str, module: str) -> str:
    # PEFT 0.21.2 fails to load these: tuners/lora/layer.py reads ``weight`` of a matrix.
    return f"{module!r} is no linear layer, and {taken} takes a part of linear layers' W away"


def _place_bias(state: Fitting, module: str, bias: AdapterTensor, scale: float) -> None:
    # PEFT 0.21 refuses lora_bias where the base layer has no bias (tuners/lora/layer.py).
    target, source = state.source(f"{module}.bias")
    if source is None or state.base.layout[source].shape != bias.info.shape:
        state.faults.append(f"the base has no fitting '{module}.bias' for {bias.key!r}")
        return
    state.placements.append(Placement(Kind.BIAS, target, source, (bias,), scale))


def _factors(parts: Mapping[Part, AdapterTensor]) -> tuple[AdapterTensor, AdapterTensor]:
    if Part.EMBEDDING_A in parts:
        return parts[Part.EMBEDDING_A], parts[Part.EMBEDDING_B]
    return parts[Part.LORA_A], parts[Part.LORA_B]


def _delta_shape(a: AdapterTensor, b: AdapterTensor) -> tuple[int, ...]:
    """Return (out, in, k...) of B A."""
    return (b.info.shape[0], *a.info.shape[1:])


def _kind(
    state: Fitting,
    module: str,
    parts: Mapping[Part, AdapterTensor],
    shape: tuple[int, ...],
) -> Kind | None:
    a, b = _factors(parts)
    delta = _delta_shape(a, b)
    if Part.EMBEDDING_A in parts:
        return Kind.EMBEDDING if shape == delta[::-1] else None
    if len(shape) > 2:
        # With groups, B is (out, r/groups, 1...): PEFT 0.21 refuses to merge it too.
        plain = b.info.shape[1] == a.info.shape[0] and set(b.info.shape[2:]) == {1}
        return Kind.CONVOLUTION if shape == delta and plain else None
    if len(delta) != 2:
        return None
    if state.is_conv1d(module):
        return Kind.CONV1D if shape == delta[::-1] else None
    return Kind.LINEAR if shape == delta else None


def _votes(state: Fitting, groups: Mapping[str, Mapping[Part, AdapterTensor]]) -> dict[str, bool]:
    """Return by the modules' last names whether those that are not square are stored (in, out).

    For models that transformers does not have: of the others it is known. The
    configuration's fan_in_fan_out cannot tell: it stands true on nn.Linear bases and
    false on Conv1D ones in real adapters, and PEFT corrects both by layer type.
    """
    if state.conv1ds.known:
        return {}
    votes: dict[str, set[bool]] = defaultdict(set)
    for module, parts in groups.items():
        _, source = state.source(f"{module}.weight")
        if source is None or Part.LORA_A not in parts:
            continue
        shape, delta = state.base.layout[source].shape, _delta_shape(*_factors(parts))
        if len(shape) == 2 and shape[0] != shape[1]:
            votes[module.rpartition(".")[2]].add(shape == delta[::-1])
    return {leaf: found == {True} for leaf, found in votes.items()}
