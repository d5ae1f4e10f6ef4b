"""Adapters as what can be added up: their factors by module, and what is carried along whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from adreg.registry.adapters.config import scale_of
from adreg.registry.adapters.keys import PREFIX
from adreg.registry.adapters.spec import AdapterSpec, AdapterTensor, Part
from adreg.registry.digest import PIECE
from adreg.registry.errors import AdapterNotMade
from adreg.registry.merge.algebra.adapter_writer import EMBEDDING, LINEAR, AdapterWriter, Lora
from adreg.registry.merge.algebra.low_rank import Factors
from adreg.registry.tensors.arrays import Array, TensorReader

Weighted = Sequence[tuple[AdapterSpec, float]]

_MERGE = "Fold the adapters into a base instead: adreg merge."

_SETTINGS = {
    "use_dora": "its delta depends on the base's weights (DoRA)",
    "use_bdlora": "its factors are block-diagonal (BD-LoRA)",
    "kasa_config": "it truncates the base's weights (KaSA)",
    "velora_config": "it is VeLoRA",
    "monteclora_config": "it is MonteCLoRA",
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it is of fused expert parameters",
    "trainable_token_indices": "it replaces single rows of an embedding",
}
"""Settings that ``read_adapter`` takes and that make an adapter other than a sum of s B A."""

_EMPTY: tuple[object, ...] = (None, False, [], {})
_MUTATES = ("pissa", "olora")
"""Initialisations that change the base when they are loaded (PEFT 0.21.2, lora/layer.py), of
those that ``read_adapter`` takes."""

_WRAPPED = ".base_layer."

_UNDERSTOOD = frozenset(
    {Part.LORA_A, Part.LORA_B, Part.LORA_BIAS, Part.EMBEDDING_A, Part.EMBEDDING_B, Part.FULL}
)


@dataclass(frozen=True, slots=True)
class Term:
    """What one adapter does to one module: s B A, taken ``weight`` times."""

    spec: AdapterSpec
    parts: Lora
    a: AdapterTensor
    b: AdapterTensor
    bias: AdapterTensor | None
    scale: float
    weight: float

    @property
    def rank(self) -> int:
        """The rank of the factors."""
        return self.a.info.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in, k...) of B A."""
        return (self.b.info.shape[0], *self.a.info.shape[1:])

    def factors(self, reader: TensorReader, dtype: np.dtype[Any]) -> Factors:
        """Read B (out, r) and A (r, in * k...), without scale and weight."""
        path = self.spec.weights.path
        a = reader.read(path, self.a.info).astype(dtype).reshape(self.rank, -1)
        b = reader.read(path, self.b.info).astype(dtype).reshape(-1, self.rank)
        return Factors(b, a)


@dataclass(frozen=True, slots=True)
class Module:
    """All that the adapters do to one module; every term has the same ``parts`` and shape."""

    name: str
    terms: tuple[Term, ...]

    @property
    def parts(self) -> Lora:
        """Which two parameters the factors are."""
        return self.terms[0].parts

    def shaped(self, factors: Factors) -> tuple[Array, Array]:
        """Return A and B in the shapes that PEFT has for this kind of layer."""
        out, *inner = self.terms[0].shape
        ones = [1] * (len(inner) - 1)
        return (
            factors.a.reshape(factors.rank, *inner),
            factors.b.reshape(out, factors.rank, *ones),
        )


@dataclass(frozen=True, slots=True)
class Whole:
    """A parameter that is carried along as it is, from the first adapter that has it."""

    key: str
    module: str
    spec: AdapterSpec
    tensor: AdapterTensor


@dataclass
class Inputs:
    """What a combination is made of. ``dtype`` is the type all factors share, else F32."""

    modules: tuple[Module, ...]
    wholes: tuple[Whole, ...]
    dtype: str
    remarks: list[str] = field(default_factory=list)


def read_inputs(adapters: Weighted, names: Sequence[str]) -> Inputs:
    """Sort the adapters' tensors by module; raise AdapterNotMade with all that does not add up.

    ``names`` is what the adapters are called in reasons.
    """
    _check_kinds(adapters, names)
    terms: dict[str, list[tuple[str, Term]]] = defaultdict(list)
    for (spec, weight), name in zip(adapters, names, strict=True):
        for module, term in _terms(spec, weight).items():
            terms[module].append((name, term))
    reasons = [reason for module, those in terms.items() for reason in _mismatch(module, those)]
    wholes, more = _wholes(adapters, names, terms)
    reasons += more
    if reasons:
        raise AdapterNotMade(tuple(reasons), _MERGE)
    modules = tuple(Module(name, tuple(t for _, t in those)) for name, those in terms.items())
    dtypes = {info.dtype for m in modules for t in m.terms for info in (t.a.info, t.b.info)}
    hints = sorted({spec.base_hint for spec, _ in adapters if spec.base_hint})
    inputs = Inputs(modules, wholes, dtypes.pop() if len(dtypes) == 1 else "F32")
    if len(hints) > 1:
        inputs.remarks.append(f"the adapters name different bases: {', '.join(hints)}")
    return inputs


def copy_whole(whole: Whole, reader: TensorReader, writer: AdapterWriter) -> None:
    """Write a parameter through, byte for byte."""
    info = whole.tensor.info
    writer.begin(whole.key, info.dtype, info.shape)
    for start in range(0, info.count, PIECE):
        stop = min(start + PIECE, info.count)
        writer.append(reader.read(whole.spec.weights.path, info, start, stop))


def _check_kinds(adapters: Weighted, names: Sequence[str]) -> None:
    reasons = []
    for (spec, weight), name in zip(adapters, names, strict=True):
        if spec.peft_type != "LORA":
            reasons.append(f"{name} is {spec.peft_type}, and only LoRA adapters add up to one")
            continue
        reasons += [
            f"{name}: {reason}"
            for setting, reason in _SETTINGS.items()
            if spec.config.get(setting) not in _EMPTY
        ]
        start = spec.config.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_MUTATES):
            reasons.append(f"{name} changes the base's weights when it is loaded ({start})")
        odd = [t.key for t in spec.tensors if t.part not in _UNDERSTOOD or t.depth]
        if odd and not reasons:
            reasons.append(f"{name} has the tensor {odd[0]!r}, which is no plain LoRA")
        if weight == 0:
            reasons.append(f"{name} has the weight 0")
    if reasons:
        raise AdapterNotMade(tuple(reasons), _MERGE)


def _terms(spec: AdapterSpec, weight: float) -> dict[str, Term]:
    groups: dict[str, dict[Part, AdapterTensor]] = defaultdict(dict)
    for tensor in spec.tensors:
        if tensor.part is not Part.FULL:
            groups[tensor.module][tensor.part] = tensor
    result = {}
    for module, group in groups.items():
        parts = EMBEDDING if Part.EMBEDDING_A in group else LINEAR
        scale = scale_of(spec.lora, module)
        bias = group.get(Part.LORA_BIAS)
        result[module] = Term(spec, parts, group[parts[0]], group[parts[1]], bias, scale, weight)
    return result


def _mismatch(module: str, terms: Sequence[tuple[str, Term]]) -> list[str]:
    reasons = []
    name, first = terms[0]
    for other, term in terms:
        if (term.parts, term.shape) != (first.parts, first.shape):
            shapes = f"{_text(first.shape)} in {name} and {_text(term.shape)} in {other}"
            reasons.append(f"the delta of {module!r} is {shapes}")
        if term.b.info.shape[1] != term.rank:
            reasons.append(f"{other}: {module!r} is a grouped convolution")
    return reasons


def _wholes(
    adapters: Weighted, names: Sequence[str], targeted: Container[str]
) -> tuple[tuple[Whole, ...], list[str]]:
    """Choose the whole parameters that can be kept; they replace, so they cannot be added up.

    ``targeted`` are the modules that have factors. PEFT keeps the base's own parameters of
    such behind ``base_layer``, and saves an embedding's or a head's weight along.
    """
    holders: dict[tuple[str, str], list[tuple[str, float, Whole]]] = defaultdict(list)
    for (spec, weight), name in zip(adapters, names, strict=True):
        for tensor in spec.tensors:
            if tensor.part is Part.FULL:
                whole = Whole(_clean(tensor.key), tensor.module, spec, tensor)
                holders[tensor.module, tensor.parameter].append((name, weight, whole))
    kept, reasons = [], []
    for (module, parameter), those in holders.items():
        wholes = [whole for _, _, whole in those]
        first = next((whole for whole in wholes if _WRAPPED in whole.key), wholes[0])
        copies_base = _WRAPPED in first.key and parameter == "weight"
        weight = those[0][1]
        called = f"{module}.{parameter}"
        by = ", ".join(name for name, _, _ in those)
        if not _identical(wholes):
            reasons.append(f"{called!r} is another tensor in each of {by}")
        elif parameter == "weight" and module in targeted and not copies_base:
            reasons.append(f"{called!r} is saved whole in {by} and has factors besides")
        elif not copies_base and len(those) == 1 and weight != 1:
            reasons.append(
                f"{called!r} replaces the base's, but {by} has the weight {weight:g}, not 1"
            )
        elif not copies_base and 1 < len(those) < len(adapters):
            reasons.append(f"{called!r} is in some of the adapters only: {by}")
        else:
            behind = module in targeted and parameter == "bias" and _WRAPPED not in first.key
            key = f"{PREFIX}{module}{_WRAPPED}{parameter}" if behind else first.key
            kept.append(replace(first, key=key))
    return tuple(kept), reasons


def _clean(key: str) -> str:
    """Return a key as save_pretrained writes it, from any spelling of a raw dump."""
    name = key.removeprefix(PREFIX)
    for word in (".modules_to_save.default.", ".modules_to_save."):
        name = name.replace(word, ".")
    return PREFIX + name


def _identical(wholes: Sequence[Whole]) -> bool:
    first = wholes[0].tensor.info
    if any(
        (w.tensor.info.dtype, w.tensor.info.shape) != (first.dtype, first.shape) for w in wholes
    ):
        return False
    with TensorReader() as reader:
        for start in range(0, first.count, PIECE):
            stop = min(start + PIECE, first.count)
            pieces = [reader.read(w.spec.weights.path, w.tensor.info, start, stop) for w in wholes]
            if any(piece.tobytes() != pieces[0].tobytes() for piece in pieces[1:]):
                return False
    return True


def _text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
