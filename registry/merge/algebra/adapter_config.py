"""The configuration of an adapter that was made, so that PEFT puts it on just its modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adreg.registry.adapters.spec import AdapterSpec, Part
from adreg.registry.merge.algebra.adapter_writer import rank_fields
from adreg.registry.merge.algebra.inputs import Whole

_CHOOSING = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""Fields that say which modules are targeted."""


def lora_config(
    ranks: Mapping[str, int],
    *,
    base: str | None = None,
    task_type: str | None = None,
    **more: Any,  # noqa: ANN401  # fields of LoraConfig
) -> dict[str, Any]:
    """Return a LoRA configuration for modules with these ranks, each at the scale 1.

    ``target_modules`` are the full names of the modules, unless ``more`` says otherwise.
    """
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base,
        "revision": None,
        "inference_mode": True,
        **(rank_fields(ranks) if ranks else {"r": 1, "lora_alpha": 1}),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "lora_bias": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": sorted(ranks),
        "modules_to_save": None,
        **more,
    }


def combined_config(
    specs: Sequence[AdapterSpec], ranks: Mapping[str, int], wholes: Sequence[Whole]
) -> dict[str, Any]:
    """Return the configuration of a combination of LoRA adapters.

    Base, task and the like are what all agree on. The fields that choose modules stay as
    they are when all adapters have the same modules and choose them in the same way;
    otherwise the modules are named one by one.
    """
    first = specs[0]
    choosing = {name: first.config[name] for name in _CHOOSING if name in first.config}
    if not all(_same_choice(spec, first) for spec in specs[1:]):
        choosing = {"target_modules": sorted(ranks)}
    biases = {spec.lora.bias for spec in specs} - {"none"}
    more: dict[str, Any] = {
        **choosing,
        "bias": "none" if not biases else biases.pop() if len(biases) == 1 else "all",
        "lora_bias": any(spec.lora.lora_bias for spec in specs),
        "fan_in_fan_out": any(spec.lora.fan_in_fan_out for spec in specs),
        "modules_to_save": _saved(specs, wholes),
    }
    for name in ("auto_mapping", "revision", "ensure_weight_tying"):
        values = [spec.config.get(name) for spec in specs]
        if values[0] is not None and all(value == values[0] for value in values):
            more[name] = values[0]
    return lora_config(
        ranks,
        base=_agreed([spec.base_hint for spec in specs]),
        task_type=_agreed([spec.task_type for spec in specs]),
        **more,
    )


def _saved(specs: Sequence[AdapterSpec], wholes: Sequence[Whole]) -> list[str] | None:
    """Return modules_to_save: what the adapters say, as far as such parameters were kept."""
    names = dict.fromkeys(name for spec in specs for name in spec.modules_to_save)
    kept = {whole.module for whole in wholes}
    used = [
        name
        for name in names
        if any(module == name or f".{name}." in f".{module}." for module in kept)
    ]
    return used or None


def _same_choice(one: AdapterSpec, other: AdapterSpec) -> bool:
    def chosen(spec: AdapterSpec) -> tuple[object, ...]:
        values = [spec.config.get(name) for name in _CHOOSING]
        plain = [sorted(map(str, v)) if isinstance(v, list) else v for v in values]
        modules = {t.module for t in spec.tensors if t.part is not Part.FULL}
        return (*plain, modules)

    return chosen(one) == chosen(other)


def _agreed(values: Sequence[str | None]) -> str | None:
    known = {value for value in values if value}
    return known.pop() if len(known) == 1 else None
