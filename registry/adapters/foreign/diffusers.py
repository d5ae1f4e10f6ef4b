"""LoRAs of diffusers: pytorch_lora_weights, a component's name before each key, no configuration.

    unet.<module>.lora_A.weight                     PEFT's own names, since diffusers 0.22
    unet.<module>.lora.down.weight                  before
    unet.<module>.lora_linear_layer.down.weight     before that, in text encoders
    unet.<module>.alpha                             alpha; r when missing

Source: huggingface/diffusers, utils/state_dict_utils.py and utils/peft_utils.py
(``get_peft_kwargs``); since 0.34 the header's ``lora_adapter_metadata`` holds the
LoraConfig of each component, ``unet.lora_alpha`` and so on (loaders/lora_base.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from adreg.registry.adapters.foreign.components import choose
from adreg.registry.adapters.foreign.form import (
    Converted,
    Factors,
    Said,
    check_floats,
    copied,
    lora_config,
    lora_tensors,
    pair_up,
    scalar,
    write_config,
)
from adreg.registry.errors import AdapterRefused
from adreg.registry.jsonio import parse_object
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.header import TensorFile, TensorInfo

COMPONENTS = (
    "unet",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "transformer",
    "transformer_2",
    "prior",
    "diffusion_model",
)
"""The names that may stand before the keys; the last is ComfyUI's for the unet or transformer."""

METADATA = "lora_adapter_metadata"

_FACTOR = re.compile(
    r"(?P<module>.+?)\.(?:(?P<a>lora_A|lora\.down|lora_linear_layer\.down|lora_down)"
    r"|(?P<b>lora_B|lora\.up|lora_linear_layer\.up|lora_up))\.weight"
)
_PROCESSOR = re.compile(
    r"(?P<block>.+)\.processor\.(?P<leaf>to_(?:q|k|v|out))_lora\.(?P<part>down|up)\.weight"
)
"""Attention processors of diffusers before 0.22, whose to_out is a list of modules."""

_KEPT = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias")
"""The fields of a component's LoraConfig that change what its tensors mean."""


def is_name(name: str) -> bool:
    """Whether a tensor's name begins with a component that no language model has."""
    component, _, rest = name.partition(".")
    if component == "transformer":  # GPT-2's own modules begin with it too
        return not rest.startswith(("h.", "wte.", "wpe."))
    return component in COMPONENTS


def convert(path: Path, file: TensorFile, said: Said) -> Converted:
    """Turn one component of a diffusers LoRA into PEFT's form, without its prefix.

    Raises AdapterRefused: for several components unless one is picked, and for tensors
    that are not plain LoRA.
    """
    check_floats(path, file.tensors)
    found: dict[str, dict[str, dict[str, TensorInfo]]] = defaultdict(lambda: defaultdict(dict))
    unknown = []
    for info in file.tensors:
        component, _, rest = info.name.partition(".")
        module, part = _read(rest)
        if component not in COMPONENTS or not part:
            unknown.append(f"the tensor {info.name!r} is no part of a plain diffusers LoRA")
        elif part in found[component][module]:
            unknown.append(f"{module!r} has two {part}")
        else:
            found[component][module][part] = info
    if unknown:
        raise AdapterRefused(path, tuple(unknown), "Use it with diffusers.")
    component = choose(path, sorted(found), said.component, "it is a diffusers LoRA")
    modules = found[component]
    settings = _settings(path, file, component)
    factors = {}
    with TensorReader() as reader:
        for module, (a, b) in pair_up(path, modules, "lora_A", "lora_B").items():
            alpha = float(a.shape[0]) if said.alpha is None else said.alpha
            if (own := modules[module].get("alpha")) is not None:
                try:
                    alpha = scalar(reader, file, own)
                except ValueError as error:
                    advice = "Fetch or save the adapter again."
                    raise AdapterRefused(path, (str(error),), advice) from None
            factors[module] = Factors(copied(file, a), copied(file, b), alpha)
    alphas = any("alpha" in parts for parts in modules.values())
    if said.alpha is not None and (alphas or settings):
        raise AdapterRefused(path, ("it holds its alpha",), "Leave --alpha out.")
    if alphas and settings:
        reason = f"it holds an alpha of each module and another in its {METADATA}"
        raise AdapterRefused(path, (reason,), "Save it again with diffusers.")
    config = lora_config(factors, **settings)
    return Converted(
        write_config(config), lora_tensors(factors), f"the {component} of a diffusers LoRA"
    )


def _read(name: str) -> tuple[str, str]:
    """Return the module and what the tensor is to it; the latter is empty when not known."""
    if match := _PROCESSOR.fullmatch(name):
        leaf = "to_out.0" if match["leaf"] == "to_out" else match["leaf"]
        return f"{match['block']}.{leaf}", "lora_A" if match["part"] == "down" else "lora_B"
    if match := _FACTOR.fullmatch(name):
        return match["module"], "lora_A" if match["a"] else "lora_B"
    module, _, part = name.rpartition(".")
    return module, part if part == "alpha" and module else ""


def _settings(path: Path, file: TensorFile, component: str) -> dict[str, Any]:
    """Return what the file's metadata says of a component, nothing when it has none."""
    text = file.metadata.get(METADATA)
    if text is None:
        return {}
    try:
        metadata = parse_object(text.encode())
    except ValueError as error:
        reason = f"its {METADATA} is no JSON: {error}"
        raise AdapterRefused(path, (reason,), "Fetch or save the adapter again.") from None
    own = {key: value for key, value in metadata.items() if key.startswith(f"{component}.")}
    settings = {key.removeprefix(f"{component}."): value for key, value in own.items()}
    if not settings:
        return {}
    told = {key: settings[key] for key in _KEPT if settings.get(key) is not None}
    return {"rank_pattern": {}, "alpha_pattern": {}, **told}  # for all modules, or as it says
