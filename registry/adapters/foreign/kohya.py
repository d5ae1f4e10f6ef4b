"""LoRAs of kohya's sd-scripts: module paths with underscores for dots, and a component before.

    lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight   A (r, in, k...)
    lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight     B (out, r, 1...)
    lora_te_text_model_encoder_layers_0_mlp_fc1.alpha              its alpha; r when missing or 0

Source: kohya-ss/sd-scripts, networks/lora.py (LoRAModule). Which underscores were dots
only the base can tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from adreg.registry.adapters.foreign.components import choose
from adreg.registry.adapters.foreign.form import (
    BaseView,
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
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.header import TensorFile, TensorInfo

_PREFIXES: Mapping[str, str] = {
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
    "lora_te3": "text_encoder_3",
    "lora_unet": "unet",
}
"""How names begin, and what diffusers calls that component."""

_PARTS = ("lora_down.weight", "lora_up.weight", "alpha")

_ADDED = ("", "text_model_", "model_", "transformer_", "unet_")
"""What may stand before a base's names and not before the adapter's, or the other way round."""


def is_name(name: str) -> bool:
    """Whether a tensor's name is kohya's."""
    module, _, part = name.partition(".")
    return module.startswith("lora_") and bool(part)


def convert(path: Path, file: TensorFile, said: Said) -> Converted:
    """Turn one component of a kohya file into PEFT's form, its names found in the base.

    Raises AdapterRefused: without a base, for modules that the base does not have or has
    twice, and for LyCORIS's and other tensors beside plain LoRA.
    """
    check_floats(path, file.tensors)
    found: dict[str, dict[str, dict[str, TensorInfo]]] = defaultdict(lambda: defaultdict(dict))
    unknown = []
    for info in file.tensors:
        stem, _, part = info.name.partition(".")
        prefix = next((one for one in _PREFIXES if stem.startswith(f"{one}_")), None)
        if prefix is None or part not in _PARTS:
            unknown.append(f"the tensor {info.name!r} is no part of a plain kohya LoRA")
        else:
            found[_PREFIXES[prefix]][stem.removeprefix(f"{prefix}_")][part] = info
    if unknown:
        raise AdapterRefused(path, tuple(unknown), "Use it with the tool that it was made for.")
    component = choose(path, sorted(found), said.component, "it is a kohya LoRA")
    if said.base is None:
        raise AdapterRefused(
            path,
            ("it is a kohya LoRA, whose names can only be read beside those of its base",),
            f"Pass the model of its {component} with --base.",
        )
    modules = found[component]
    pairs = pair_up(path, modules, "lora_down.weight", "lora_up.weight")
    names = _find_names(path, sorted(modules), said.base)
    factors: dict[str, Factors] = {}
    with TensorReader() as reader:
        for stem, (down, up) in pairs.items():
            alpha = _alpha(path, reader, file, modules[stem].get("alpha"), said)
            factors[names[stem]] = _factors(
                file, down, up, alpha or down.shape[0], said.base.shapes[f"{names[stem]}.weight"]
            )
    how = f"the {component} of a kohya LoRA"
    return Converted(write_config(lora_config(factors)), lora_tensors(factors), how)


def _factors(
    file: TensorFile, down: TensorInfo, up: TensorInfo, alpha: float, shape: tuple[int, ...]
) -> Factors:
    """Return the factors; those of a 1x1 convolution lose the ones where the base is a matrix."""
    if len(shape) == 2 and len(down.shape) > 2 and set(down.shape[2:]) | set(up.shape[2:]) == {1}:
        a, b = copied(file, down, down.shape[:2]), copied(file, up, up.shape[:2])
        return Factors(a, b, alpha)
    return Factors(copied(file, down), copied(file, up), alpha)


def _alpha(
    path: Path, reader: TensorReader, file: TensorFile, info: TensorInfo | None, said: Said
) -> float:
    """Return a module's alpha, 0 where its rank stands for it."""
    if info is None:
        return said.alpha or 0.0
    if said.alpha is not None:
        raise AdapterRefused(path, ("it holds its alpha",), "Leave --alpha out.")
    try:
        return scalar(reader, file, info)
    except ValueError as error:
        advice = "Fetch or save the adapter again."
        raise AdapterRefused(path, (str(error),), advice) from None


def _find_names(path: Path, stems: list[str], base: BaseView) -> dict[str, str]:
    """Return the base's module for each name with underscores, all by one and the same rule."""
    forms: dict[str, list[str]] = defaultdict(list)
    for name, shape in base.shapes.items():
        if name.endswith(".weight") and len(shape) > 1:
            module = name.removesuffix(".weight")
            forms[module.replace(".", "_")].append(module)
    rules = [("", added) for added in _ADDED] + [(dropped, "") for dropped in _ADDED[1:]]
    best = max(rules, key=lambda rule: sum(_apply(rule, stem) in forms for stem in stems))
    reasons = []
    names = {}
    for stem in stems:
        modules = forms.get(_apply(best, stem), [])
        if len(modules) == 1:
            names[stem] = modules[0]
        elif modules:
            reasons.append(f"{stem!r} may be {' or '.join(map(repr, sorted(modules)))}")
        else:
            reasons.append(f"the base has no module whose name is {stem!r} with underscores")
    if reasons:
        raise AdapterRefused(path, tuple(reasons), "Pass the base that it was trained on.")
    return names


def _apply(rule: tuple[str, str], stem: str) -> str:
    dropped, added = rule
    return added + stem.removeprefix(dropped)
