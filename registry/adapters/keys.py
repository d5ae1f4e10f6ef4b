"""From the names of an adapter's tensors to what they mean.

The spellings are those of PEFT 0.21.2's save_pretrained (utils/save_and_load.py,
``get_peft_model_state_dict``) and of raw dumps that kept the adapter's name ``default``,
which PEFT itself loads without applying anything. Prefix and adapter name are optional.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from adreg.registry.adapters.refusals import TENSOR_WORDS
from adreg.registry.adapters.spec import Part
from adreg.registry.adapters.tuners import Tuner
from adreg.registry.tensors.header import TensorInfo

ROOT = "base_model."
PREFIX = "base_model.model."

_LORA = re.compile(
    r"(?P<module>.+)\.(?P<stem>lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)"
    r"(?:\.default)?(?P<end>\.weight|\.bias)?"
)
_LORA_PARTS: dict[tuple[str, str], Part] = {
    ("lora_A", ".weight"): Part.LORA_A,
    ("lora_B", ".weight"): Part.LORA_B,
    ("lora_B", ".bias"): Part.LORA_BIAS,
    ("lora_embedding_A", ""): Part.EMBEDDING_A,
    ("lora_embedding_B", ""): Part.EMBEDDING_B,
    ("lora_magnitude_vector", ""): Part.MAGNITUDE,
    # The parameter's name in memory, in raw dumps since PEFT 0.10's DoraLinearLayer.
    ("lora_magnitude_vector", ".weight"): Part.MAGNITUDE,
}
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save(?:\.default)?\.(?P<rest>.+)")
_TOKENS = re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta(?:\.default)?")
_NORMS = re.compile(r"(?P<module>.+)\.ln_tuning_layers(?:\.default)?\.(?P<parameter>[^.]+)")
_FOREIGN = re.compile(r"(lora|hada|lokr|ia3|oft|boft|vera|adapter|prompt)_", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a tensor's name says; ``wraps`` when it is a parameter of a wrapped base layer."""

    module: str
    part: Part
    parameter: str
    wraps: bool = False
    depth: int = 0


def read_key(key: str, tuner: Tuner) -> Meaning:
    """Return what a tensor's name means; raise ValueError with the reason if nothing known."""
    name = key.removeprefix(PREFIX)
    parts = name.split(".")
    if not all(parts):
        raise ValueError("it has an empty part")
    if match := _TOKENS.fullmatch(name):
        return Meaning(_bare(match["module"]), Part.ROWS, "weight")
    if match := _NORMS.fullmatch(name):
        return Meaning(_bare(match["module"]), Part.FULL, match["parameter"])
    if (meaning := _tuner(key, parts, tuner)) is not None:
        return meaning
    for part in parts:
        if reason := TENSOR_WORDS.get(part):
            raise ValueError(reason)
    if tuner.plain_lora and (match := _LORA.fullmatch(name)):
        return _lora(match["module"], match["stem"], match["end"] or "")
    return _full(name)


def _tuner(key: str, parts: list[str], tuner: Tuner) -> Meaning | None:
    """Return the meaning of a tensor of another kind than LoRA; None if it is none of that."""
    if tuner.plain_lora:
        return None
    if key.startswith(ROOT) and not key.startswith(PREFIX):
        # What all modules share: VeRA's projections, VB-LoRA's vector bank.
        return Meaning("", Part.TUNER, key.removeprefix(ROOT))
    first = next((n for n, part in enumerate(parts) if part.startswith(tuner.prefix)), None)
    if first is None:
        first = _behind_target(parts, tuner.targets)
    if first is None:
        return None
    module, own = ".".join(parts[:first]), [part for part in parts[first:] if part != "default"]
    if not module:
        return Meaning("", Part.TUNER, ".".join(own))
    return Meaning(_bare(module), Part.TUNER, ".".join(own))


def _behind_target(parts: list[str], targets: tuple[str, ...]) -> int | None:
    """Return where a tuner's own parameter begins: behind a module that the adapter targets.

    One that has the name of another kind's is none: the configuration says the wrong kind.
    """
    for end in range(len(parts) - 1, 0, -1):
        module, rest = ".".join(parts[:end]), parts[end:]
        if rest[0] in {"weight", "bias", "base_layer", "modules_to_save", "original_module"}:
            continue
        if _FOREIGN.match(rest[0]):
            continue
        if any(module == target or module.endswith(f".{target}") for target in targets):
            return end
    return None


def _lora(module: str, stem: str, end: str) -> Meaning:
    part = _LORA_PARTS.get((stem, end))
    if part is None:
        hint = "loralib's spelling" if not end else "a parameter that LoRA does not have"
        raise ValueError(f"'{stem}{end}' is {hint}")
    depth = 0
    while module.endswith(".base_layer"):
        module, depth = module.removesuffix(".base_layer"), depth + 1
    # PEFT's MultiheadAttention keeps its out_proj behind base_layer.
    parameter = "bias" if part is Part.LORA_BIAS else "weight"
    return Meaning(_bare(module), part, parameter, depth=depth)


def _full(name: str) -> Meaning:
    if match := _SAVED.fullmatch(name):
        name = f"{match['module']}.{match['rest']}"
    module, _, parameter = name.rpartition(".")
    if not module:
        raise ValueError("it names no module")
    if any(_FOREIGN.match(part) for part in name.split(".")[-3:]):
        raise ValueError("it is no tensor that PEFT saves for this kind of adapter")
    wraps = module.endswith(".base_layer")
    return Meaning(_bare(module), Part.FULL, parameter, wraps)


def _bare(module: str) -> str:
    # PEFT puts its token_adapter between a module and its base_layer (tuners/trainable_tokens).
    return ".".join(p for p in module.split(".") if p not in {"base_layer", "token_adapter"})


def without_repeats(infos: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Leave out what says again what ``X.weight`` says, or what the base had there.

    When the vocabulary was resized, PEFT 0.21.2 saves every parameter whose name holds the
    embedding's or head's (utils/save_and_load.py, "DEAL WITH EMBEDDINGS"): beside ``X.weight``,
    which alone it loads into the module, ``X.modules_to_save.weight`` and
    ``X.original_module.weight``.
    """
    by_name = {info.name: info for info in infos}
    kept = []
    for name, info in by_name.items():
        module, _, parameter = name.rpartition(".")
        owner, _, kind = module.rpartition(".")
        counts = by_name.get(f"{owner}.{parameter}")
        copied = kind in {"modules_to_save", "original_module"} and counts is not None
        if not copied:
            kept.append(info)
    return kept
