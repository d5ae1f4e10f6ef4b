"""What is refused or not followed by name, and why: settings, initialisations, tensors, code.

Read from PEFT 0.21.2 (utils/peft_types.py, tuners/lora/config.py, tuners/lora/layer.py,
tuners/lora/variants.py). Refusing by name is what keeps "success, nothing applied" away:
an adapter with one of these settings has ordinary looking tensors that mean something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SETTINGS: Mapping[str, str] = {
    "alora_invocation_tokens": "activated LoRA applies from a token on, so it cannot be merged",
    "use_qalora": "QA-LoRA pools its inputs, so it cannot be merged",
    "arrow_config": "Arrow routes each token to other adapters, so it cannot be merged",
    "megatron_config": "a file does not say how the parts of Megatron's layers join",
    "enable_lora": "`adreg add` converts the merged linear layers of PEFT 0.1, and they are used"
    " from the catalog",
}
"""Settings of a LoRA configuration that change what its tensors mean, when they are set."""

_EMPTY_MEANS_UNSET = frozenset({"enable_lora"})
"""Lists that change nothing when empty. An empty object turns a sub-configuration on, and an
empty alora_invocation_tokens is not None for PEFT (tuners/lora/config.py, ``__post_init__``)."""

_MUTATES = (
    "changes the base's weights when it is loaded;"
    " save it with path_initial_model_for_weight_conversion to make it an ordinary LoRA"
)

INITIALISATIONS: Mapping[str, str] = {
    "pissa_niter_": "takes a random decomposition of W away, which cannot be made again;"
    " save it with path_initial_model_for_weight_conversion to make it an ordinary LoRA",
    "corda": _MUTATES,
    "lora_ga": _MUTATES,
    "loftq": "is made for the quantised base that it was trained on, not for the 16-bit one",
}
"""Beginnings of ``init_lora_weights`` that change the base (tuners/lora/layer.py, ``pissa_init``
and the like). PEFT's own conversion sets it back to True and doubles r (peft_model.py,
``save_pretrained``), so a converted adapter passes."""

_UNDERSTOOD = frozenset({"gaussian", "eva", "orthogonal", "mica", "pissa", "olora"})
"""Initialisations that fill only the adapter's own tensors (MiCA freezes B and saves it), and
those that take a decomposition of W alone away from W, which is made again at the merge."""

TENSOR_WORDS: Mapping[str, str] = {
    "lora_diag": "it is KaSA's, but kasa_config is not set",
    "lora_velora_embed": "it is VeLoRA's, but velora_config is not set",
    "lora_monteclora_sampler": "it is MonteCLoRA's, but monteclora_config is not set",
    "lora_E": "it is AdaLoRA's, but peft_type is another",
    "ranknum": "it is AdaLoRA's, but peft_type is another",
    "lora_a": "this is mlx-lm's spelling, not PEFT's",
    "lora_b": "this is mlx-lm's spelling, not PEFT's",
    "lora_up": "this is kohya's spelling, not PEFT's",
    "lora_down": "this is kohya's spelling, not PEFT's",
    "lora_linear_layer": "this is diffusers' old spelling, not PEFT's",
    "original_module": "it is a copy of the base's module, from a raw dump of the model",
}
"""Parts of tensor names that are known and not understood, with what they are."""


STEERING: Mapping[str, str] = {
    "auto_map": "names code",
    "auto_mapping": "names a package to import",
    "custom_pipelines": "names code",
    "custom_generate": "names code",
    "trust_remote_code": "asks for code to be run",
    "kernel_config": "names kernels",
    "use_kernels": "asks for kernels of others",
}
"""Keys of JSON files with which code is chosen (transformers 5.23, auto_factory.py and
modeling_utils.py; PEFT 0.21.2, auto.py, which imports the ``parent_library`` of auto_mapping)."""

_IMPLEMENTATION = re.compile(r"_?(?:attn|experts)_implementation(?:_internal)?")
"""Keys that choose kernels: such a value can be a repository to run (CVE-2026-4372)."""

_BUILT_IN = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})
_LIBRARIES = frozenset({"transformers", "diffusers", "torch"})
_MAX_LOOKED_AT = 10_000


def steering(config: Mapping[str, Any]) -> list[str]:
    """Return each key that would choose code or kernels, at any depth, and what it does.

    Nothing in adreg follows them. Empty values and attention that transformers itself has
    are not named.
    """
    found: list[str] = []
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", config)]
    for where, inner in waiting:
        for key, value in inner.items():
            if isinstance(value, dict) and len(waiting) < _MAX_LOOKED_AT:
                waiting.append((f"{where}{key}.", value))
            if not value:
                continue
            if what := STEERING.get(key):
                if key != "auto_mapping" or not _is_usual_library(value):
                    found.append(f"{where}{key} {what}")
            elif _IMPLEMENTATION.fullmatch(key) and not _is_built_in(value):
                found.append(f"{where}{key} names kernels")
    return sorted(found)


def _is_usual_library(value: object) -> bool:
    """Whether PEFT's auto_mapping names where the model's class always is."""
    library = value.get("parent_library") if isinstance(value, dict) else None
    return isinstance(library, str) and library.partition(".")[0] in _LIBRARIES


def _is_built_in(value: object) -> bool:
    """Whether attention is transformers' own, for the whole model or by its parts."""
    names = value.values() if isinstance(value, dict) else (value,)
    return all(isinstance(name, str) and name in _BUILT_IN for name in names)


def refused_settings(config: Mapping[str, Any]) -> list[str]:
    """Return a reason for each setting that is set and not understood."""
    reasons = []
    for name, reason in SETTINGS.items():
        value = config.get(name)
        if value is None or value is False or (name in _EMPTY_MEANS_UNSET and value in ([], {})):
            continue
        reasons.append(f"it sets {name}: {reason}")
    return reasons


def refused_initialisation(config: Mapping[str, Any]) -> str | None:
    """Return why ``init_lora_weights`` is refused, None if it leaves the base as it is."""
    value = config.get("init_lora_weights", True)
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, str):
        return f"init_lora_weights is {type(value).__name__}, not true, false or a name"
    for beginning, reason in INITIALISATIONS.items():
        if value.lower().startswith(beginning):
            return f"init_lora_weights is {value!r}, which {reason}"
    if value.lower() not in _UNDERSTOOD:
        return f"init_lora_weights is {value!r}, which is not known to leave the base as it is"
    return None
