"""Where the tensors of other kinds of adapter than LoRA go in a base."""

from __future__ import annotations

from collections.abc import Mapping

from adreg.registry.adapters.config import scale_of
from adreg.registry.adapters.products import delta_shape, is_native
from adreg.registry.adapters.spec import AdapterTensor
from adreg.registry.adapters.tuners import tuner_of
from adreg.registry.bases.placement import Fitting, Kind, Placement, shape_text
from adreg.registry.tensors import dtypes

Groups = Mapping[str, Mapping[str, AdapterTensor]]
"""By module and by own name; the module without a name holds what all share."""

_ADALORA_EPSILON = 1e-5
"""Added to the rank that divides alpha (peft 0.21.2, tuners/adalora/layer.py)."""


def place_others(state: Fitting, groups: Groups) -> None:
    """Place each module's tensors; what all modules share counts as used by the first."""
    shared = tuple(groups.get("", {}).values())
    modules = [module for module in groups if module]
    if shared and not modules:
        modules = _shared_only(state)
    for module in modules:
        group = groups.get(module, {})
        kind = _layer(state, module, next(iter([*group.values(), *shared])))
        if kind is None:
            continue
        native = not shared and not tuner_of(state.spec.config).through_peft
        if native and kind in {Kind.LINEAR, Kind.CONV1D} and is_native(state.spec.peft_type, group):
            _place_native(state, module, group, kind)
        else:
            used = tuple(group.values())
            first = module == modules[0]
            counted, also = (used + shared, ()) if first else (used, shared)
            _place_module(state, module, kind, counted, also)


def _shared_only(state: Fitting) -> list[str]:
    """Return the modules of a kind whose tensors are all shared (UniLoRA): those it targets."""
    targets = state.spec.config.get("target_modules")
    if not isinstance(targets, list):
        state.faults.append("its modules cannot be told: target_modules is no list of names")
        return []
    names = [t.name.removesuffix(".weight") for t in state.base.layout if len(t.shape) > 1]
    return [n for n in names if any(n == t or n.endswith(f".{t}") for t in targets)]


def _layer(state: Fitting, module: str, first: AdapterTensor) -> Kind | None:
    target, source = state.source(f"{module}.weight")
    if source is None:
        state.faults.append(state.absent(f"{module}.weight", first.key))
        return None
    info = state.base.layout[source]
    if info.dtype not in dtypes.FLOATS:
        state.faults.append(f"the base's {source!r} is {info.dtype}, which nothing is added to")
        return None
    if len(info.shape) > 2:
        return Kind.CONVOLUTION
    if len(info.shape) == 2 and target == state.embedding:
        return Kind.EMBEDDING
    return Kind.CONV1D if state.is_conv1d(module) else Kind.LINEAR


def _place_native(
    state: Fitting, module: str, group: Mapping[str, AdapterTensor], kind: Kind
) -> None:
    spec = state.spec
    target, source = state.source(f"{module}.weight")
    first = next(iter(group.values()))
    shape = state.base.layout[source or target].shape
    delta = delta_shape(spec.peft_type, group)
    wanted = shape if kind is Kind.LINEAR else shape[::-1]
    scales = spec.peft_type == "IA3"
    fits = delta is not None and (
        all(have in {1, want} for have, want in zip(delta, wanted, strict=False))
        if scales
        else delta == wanted
    )
    if delta is None or len(shape) != 2 or not fits:
        made = "whose shapes disagree" if delta is None else f"for {shape_text(delta)}"
        state.faults.append(
            f"{first.key!r} is of a group {made}, the base's {source!r} has {shape_text(shape)}"
        )
        return
    tensors = tuple(group.values())
    if not scales:
        scale = scale_of(spec.lora, module)
        if spec.peft_type == "ADALORA":
            # PEFT takes the rank for an alpha that is not above 0.
            alpha = spec.lora.alpha if spec.lora.alpha > 0 else spec.lora.rank
            scale = alpha / (spec.lora.rank + _ADALORA_EPSILON)
        state.placements.append(Placement(kind, target, source, tensors, scale))
        return
    state.placements.append(Placement(Kind.SCALING, target, source, tensors, layer=kind))
    bias, there = state.source(f"{module}.bias")
    if delta[0] != 1 and there is not None:
        state.placements.append(Placement(Kind.SCALING, bias, there, (), also=tensors))


def _place_module(
    state: Fitting,
    module: str,
    kind: Kind,
    tensors: tuple[AdapterTensor, ...],
    also: tuple[AdapterTensor, ...],
) -> None:
    holds = (state.source(f"{module}.weight")[1] or "", state.source(f"{module}.bias")[1])
    for parameter in ("weight", "bias"):
        target, source = state.source(f"{module}.{parameter}")
        if source is None:
            continue
        used, also = (tensors, also) if parameter == "weight" else ((), tensors + also)
        state.placements.append(
            Placement(
                Kind.MODULE,
                target,
                source,
                used,
                also=also,
                layer=kind,
                module=module,
                parameter=parameter,
                holds=holds,
            )
        )
