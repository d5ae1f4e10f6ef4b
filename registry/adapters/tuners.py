"""Which kinds of adapter there are, how their tensors are named, and who merges them.

Read from PEFT 0.21.2 (utils/peft_types.py, tuners/*/__init__.py); a test compares the
table with the installed version. A kind that is not in it is read by PEFT's rule for
names or by the modules that it targets, and PEFT is asked to merge it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LORA = "LORA"

_PROMPTS = "it adds virtual tokens to the input and has nothing to merge into weights"
_ROUTED = "it chooses between adapters for each input, so no one set of weights can hold it"
_PER_INPUT = "what it adds depends on the input, so no weights can hold it"

REFUSED: Mapping[str, str] = {
    "PROMPT_TUNING": _PROMPTS,
    "MULTITASK_PROMPT_TUNING": _PROMPTS,
    "P_TUNING": _PROMPTS,
    "PREFIX_TUNING": _PROMPTS,
    "ADAPTION_PROMPT": "its prompts go into the attention of some layers, not into their weights",
    "CPT": _PROMPTS,
    "CARTRIDGE": _PROMPTS,
    "POLY": _ROUTED,
    "XLORA": _ROUTED,
    "LILY": _ROUTED,
    "SHADOW": _PER_INPUT,
    "FROD": "its decomposition is not saved but made again from all weights when it is loaded,"
    " and comes out otherwise on another machine",
    "BONE": "PEFT 0.19 took this kind out; its script makes a MISS adapter of one",
}
"""Values of ``peft_type`` that can never be merged, with why."""

_PREFIXES: Mapping[str, str] = {
    "LOHA": "hada_",
    "ADALORA": "lora_",
    "VERA": "vera_lambda_",
    "PVERA": "pvera_lambda_",
}
"""Beginnings of parameter names that are not the kind's own name with an underscore."""

NATIVE: Mapping[str, str] = {
    LORA: "lora_",
    "ADALORA": "lora_",
    "LOHA": "hada_",
    "LOKR": "lokr_",
    "IA3": "ia3_",
    "LN_TUNING": "ln_tuning_",
    "TRAINABLE_TOKENS": "trainable_tokens_",
}
"""Kinds that adreg computes itself, in blocks; where their layers are plain ones."""

_VARIANTS: Mapping[str, str] = {
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
"""Settings that make a LoRA one that PEFT's own layer merges."""

Decomposition = Literal["pissa", "olora"]
"""Initialisations that take a part of W away, computed from W alone, at each load."""


@dataclass(frozen=True, slots=True)
class Tuner:
    """How the tensors of a kind are named, and who merges it.

    ``plain_lora``: its tensors are LoRA's own, each with a meaning of its own.
    ``through_peft``: PEFT's layer merges it. ``targets`` are the ends of the names of its
    modules, where the configuration lists them: they tell the parameters of a kind that
    names them by another word than its own.
    """

    prefix: str
    plain_lora: bool
    through_peft: bool
    targets: tuple[str, ...] = ()


def tuner_of(config: Mapping[str, Any]) -> Tuner:
    """Return what a configuration with a ``peft_type`` is."""
    peft_type = str(config.get("peft_type"))
    prefix = _PREFIXES.get(peft_type, f"{peft_type.lower()}_")
    if peft_type == LORA:
        through_peft = bool(variants(config))
        return Tuner(prefix, not through_peft, through_peft)
    through_peft = peft_type not in NATIVE
    listed = config.get("target_modules") if through_peft else None
    targets = tuple(map(str, listed)) if isinstance(listed, list) else ()
    return Tuner(prefix, plain_lora=False, through_peft=through_peft, targets=targets)


def decomposition(config: Mapping[str, Any]) -> Decomposition | None:
    """Return how the adapter was initialised, if that took a part of W away."""
    init = config.get("init_lora_weights")
    if config.get("peft_type") != LORA or not isinstance(init, str):
        return None
    known: Mapping[str, Decomposition] = {"pissa": "pissa", "olora": "olora"}
    return known.get(init.lower())


def variants(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the LoRA variants that a configuration sets."""
    return [name for setting, name in _VARIANTS.items() if config.get(setting) not in (None, False)]


def refused_type(config: Mapping[str, Any]) -> str | None:
    """Return why adapters of a configuration's ``peft_type`` are refused, None if they are not."""
    peft_type = str(config.get("peft_type"))
    if reason := REFUSED.get(peft_type):
        return f"its peft_type is {peft_type!r}: {reason}"
    # Both number what they share by the order of the modules in the model, which no file has.
    if peft_type == "UNILORA" and not config.get("save_indices"):
        return "it is a UniLoRA saved without its indices: save it with save_indices=True"
    if peft_type == "TINYLORA" and config.get("weight_tying") != 1:
        return "it is a TinyLoRA that ties some modules only: only weight_tying=1 can be read"
    return None
