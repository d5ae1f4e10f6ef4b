"""Where each tensor of an adapter goes in a base: the ground of verdicts and of plans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from adreg.registry.adapters.config import scale_of
from adreg.registry.adapters.spec import AdapterSpec, AdapterTensor, Part
from adreg.registry.bases.base import Base
from adreg.registry.bases.diskname import Rewriting, find_embedding, find_rewriting, head_name
from adreg.registry.tensors import dtypes

_CONV1D_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
_CONV1D_LEAVES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})
"""Modules that are transformers' Conv1D, whose weight is (in, out): transformers 5.23."""


class Kind(Enum):
    """How a placed group of adapter tensors changes its target."""

    LINEAR = "linear"
    """W (out, in) += s * B A"""
    CONV1D = "conv1d"
    """W (in, out) += s * (B A)^T"""
    EMBEDDING = "embedding"
    """W (vocabulary, dim) += s * (B A)^T"""
    CONVOLUTION = "convolution"
    """W (out, in, k...) += s * B A, on the (out, in * k...) view"""
    BIAS = "bias"
    """b += s * B's bias"""
    FULL = "full"
    """the tensor itself takes the place of the base's"""


@dataclass(frozen=True, slots=True)
class Placement:
    """A group of adapter tensors and the one base tensor that it changes.

    ``target`` is a name on disk. ``source`` is the base tensor that W is read from: the
    target itself; the input embedding, when the target is a tied head that the
    checkpoint does not hold; None, when the base has no such tensor and FULL adds it.
    ``scale`` is alpha/r or alpha/sqrt(r); 1 for FULL.
    """

    kind: Kind
    target: str
    source: str | None
    tensors: tuple[AdapterTensor, ...]
    scale: float

    def part(self, *parts: Part) -> AdapterTensor | None:
        """Return its tensor of one of these parts, if it has one."""
        return next((tensor for tensor in self.tensors if tensor.part in parts), None)


@dataclass(frozen=True, slots=True)
class Fit:
    """All placements of an adapter in a base, and what does not fit, tensor by tensor."""

    placements: tuple[Placement, ...]
    faults: tuple[str, ...]


@dataclass
class _Fitting:
    """A fit in the making."""

    spec: AdapterSpec
    base: Base
    rewriting: Rewriting
    conv1d_by_shape: bool = False
    placements: list[Placement] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def fit(spec: AdapterSpec, base: Base) -> Fit:
    """Place every tensor of an adapter in a base; nothing is left out silently.

    Each tensor is in just one placement or named in a fault.
    """
    names = {f"{t.module}.{t.parameter}" for t in spec.tensors}
    state = _Fitting(spec, base, find_rewriting(names, base.layout))
    groups: dict[str, dict[Part, AdapterTensor]] = defaultdict(dict)
    for tensor in spec.tensors:
        if tensor.part is Part.FULL:
            _place_full(state, tensor)
        else:
            groups[tensor.module][tensor.part] = tensor
    state.conv1d_by_shape = _conv1d_by_shape(state, groups)
    for module, parts in groups.items():
        _place_lora(state, module, parts)
    return Fit(tuple(state.placements), tuple(state.faults))


def _source(state: _Fitting, name: str) -> tuple[str, str | None]:
    """Return the name on disk and the tensor to read, None when the base has none."""
    layout = state.base.layout
    target = name if name in layout else state.rewriting(name)
    if target in layout:
        return target, target
    if state.base.tied and name == head_name(state.base.architecture):
        return name, find_embedding(layout)
    return name, None


def _place_full(state: _Fitting, tensor: AdapterTensor) -> None:
    name = f"{tensor.module}.{tensor.parameter}"
    target, source = _source(state, name)
    if source is None:
        # A new head comes with modules_to_save; anything else that the base lacks is
        # a sign of the wrong base. Configs omit the list at times, task types do not.
        leaf = tensor.module.rpartition(".")[2]
        saved = {kept.rpartition(".")[2] for kept in state.spec.modules_to_save}
        if not (saved & set(tensor.module.split(".")) or leaf in {"score", "classifier"}):
            state.faults.append(f"the base has no tensor {name!r} for {tensor.key!r}")
            return
        state.placements.append(Placement(Kind.FULL, target, None, (tensor,), 1.0))
        return
    shape, dtype = state.base.layout[source].shape, state.base.layout[source].dtype
    if dtype not in dtypes.FLOATS:
        state.faults.append(f"{tensor.key!r} cannot replace the base's {source!r}: it is {dtype}")
        return
    if shape != tensor.info.shape:
        state.faults.append(
            f"{tensor.key!r} has the shape {_text(tensor.info.shape)},"
            f" the base's {source!r} has {_text(shape)}"
        )
        return
    state.placements.append(Placement(Kind.FULL, target, source, (tensor,), 1.0))


def _place_lora(state: _Fitting, module: str, parts: Mapping[Part, AdapterTensor]) -> None:
    first = next(iter(parts.values()))
    target, source = _source(state, f"{module}.weight")
    if source is None:
        state.faults.append(f"the base has no tensor '{module}.weight' for {first.key!r}")
        return
    info = state.base.layout[source]
    if info.dtype not in dtypes.FLOATS:
        state.faults.append(f"the base's {source!r} is {info.dtype}, which nothing is added to")
        return
    kind = _kind(state, module, parts, info.shape)
    if kind is None:
        a, b = _factors(parts)
        state.faults.append(
            f"{first.key!r} makes a delta of {_text(_delta_shape(a, b))},"
            f" the base's {source!r} has {_text(info.shape)}"
        )
        return
    scale = scale_of(state.spec.lora, module)
    bias = parts.get(Part.LORA_BIAS)
    weight = tuple(tensor for part, tensor in parts.items() if part is not Part.LORA_BIAS)
    state.placements.append(Placement(kind, target, source, weight, scale))
    if bias is not None:
        _place_bias(state, module, bias, scale)


def _place_bias(state: _Fitting, module: str, bias: AdapterTensor, scale: float) -> None:
    # PEFT 0.21 refuses lora_bias where the base layer has no bias (tuners/lora/layer.py).
    target, source = _source(state, f"{module}.bias")
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
    state: _Fitting,
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
    square = delta[0] == delta[1]
    leaf = module.rpartition(".")[2]
    conv1d = state.conv1d_by_shape or (
        state.base.model_type in _CONV1D_TYPES and leaf in _CONV1D_LEAVES
    )
    if shape == delta and not (square and conv1d):
        return Kind.LINEAR
    return Kind.CONV1D if shape == delta[::-1] else None


def _conv1d_by_shape(state: _Fitting, groups: Mapping[str, Mapping[Part, AdapterTensor]]) -> bool:
    """Whether the modules that are not square show that this base stores (in, out).

    The configuration's fan_in_fan_out cannot tell: it stands true on nn.Linear bases
    and false on Conv1D ones in real adapters, and PEFT corrects both by layer type.
    """
    votes = set()
    for module, parts in groups.items():
        _, source = _source(state, f"{module}.weight")
        if source is None or Part.LORA_A not in parts:
            continue
        shape, delta = state.base.layout[source].shape, _delta_shape(*_factors(parts))
        if len(shape) == 2 and shape[0] != shape[1]:
            votes.add(shape == delta[::-1])
    return votes == {True}


def _text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
