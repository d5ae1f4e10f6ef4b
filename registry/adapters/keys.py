"""From the names of an adapter's tensors to what they mean.

The spellings are those of PEFT 0.21.2's save_pretrained (utils/save_and_load.py,
``get_peft_model_state_dict``) and of raw dumps that kept the adapter's name ``default``,
which PEFT itself loads without applying anything. Prefix and adapter name are optional.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from adreg.registry.adapters.refusals import TENSOR_WORDS
from adreg.registry.adapters.spec import Part

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
_FOREIGN = re.compile(r"(lora|hada|lokr|ia3|oft|boft|vera|adapter|prompt)_", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a tensor's name says; ``wraps`` when it is a parameter of a wrapped base layer."""

    module: str
    part: Part
    parameter: str
    wraps: bool = False


def read_key(key: str) -> Meaning:
    """Return what a tensor's name means; raise ValueError with the reason if nothing known."""
    name = key.removeprefix(PREFIX)
    parts = name.split(".")
    if not all(parts):
        raise ValueError("it has an empty part")
    for part in parts:
        if reason := TENSOR_WORDS.get(part):
            raise ValueError(reason)
    if match := _LORA.fullmatch(name):
        return _lora(match["module"], match["stem"], match["end"] or "")
    return _full(name)


def _lora(module: str, stem: str, end: str) -> Meaning:
    part = _LORA_PARTS.get((stem, end))
    if part is None:
        hint = "loralib's spelling" if not end else "a parameter that LoRA does not have"
        raise ValueError(f"'{stem}{end}' is {hint}")
    if module.endswith(".base_layer"):
        raise ValueError("it is a LoRA on a LoRA, from fused expert parameters")
    # PEFT's MultiheadAttention keeps its out_proj behind base_layer.
    parameter = "bias" if part is Part.LORA_BIAS else "weight"
    return Meaning(_bare(module), part, parameter)


def _full(name: str) -> Meaning:
    if match := _SAVED.fullmatch(name):
        name = f"{match['module']}.{match['rest']}"
    module, _, parameter = name.rpartition(".")
    if not module:
        raise ValueError("it names no module")
    if any(_FOREIGN.match(part) for part in name.split(".")[-3:]):
        raise ValueError("it is no tensor that PEFT's LoRA saves")
    wraps = module.endswith(".base_layer")
    return Meaning(_bare(module), Part.FULL, parameter, wraps)


def _bare(module: str) -> str:
    return ".".join(part for part in module.split(".") if part != "base_layer")
