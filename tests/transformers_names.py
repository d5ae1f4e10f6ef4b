"""The table of names that the installed transformers would give, and its regeneration.

``python tests/transformers_names.py registry/bases/names.json`` writes the table anew: it
builds every model class of transformers' auto mappings on the meta device, which takes a
few minutes. The tests compare parts of it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "decoder_layers")


def transforms() -> dict[str, list[list[Any]]]:
    """Return [expression, targets, operations] of each conversion, by class or model type."""
    mapping: Any = importlib.import_module("transformers.conversion_mapping")
    table = mapping._build_checkpoint_conversion_mapping()
    return {name: [_transform(one) for one in table[name]] for name in sorted(table)}


def _transform(one: Any) -> list[Any]:
    operations = [_operation(each) for each in getattr(one, "operations", ())]
    if type(one).__name__ not in {"WeightRenaming", "WeightConverter", "PrefixChange"}:
        operations = [type(one).__name__]
    return [one.compiled_sources.pattern, list(one.target_patterns), operations]


def _operation(one: Any) -> str:
    kind = type(one).__name__
    if kind == "Transpose":
        return f"Transpose {one.dim0} {one.dim1}" + " by shape" * bool(one.check_dims)
    return f"{kind} {one.dim}" if hasattr(one, "dim") else kind


def class_names() -> list[str]:
    """Return the names of all model classes that an auto class of transformers builds."""
    names: set[str] = set()
    for key, mapping in vars(modeling_auto).items():
        if key.endswith("_MAPPING_NAMES") and not key.startswith("CONFIG"):
            for value in mapping.values():
                names |= {value} if isinstance(value, str) else set(value)
    return sorted(names)


def base_classes() -> dict[str, str]:
    """Return the bare class that AutoModel builds for a model type."""
    names: dict[str, Any] = dict(modeling_auto.MODEL_MAPPING_NAMES)
    return {each: names[each] for each in sorted(names) if isinstance(names[each], str)}


def architecture(name: str, known: set[str]) -> list[Any] | None:
    """Return what is known of a class, None when it cannot be built.

    That is [base prefix, first names, output head, input embedding, models inside], a
    model inside being [its path, its class, its model type, the path of its configuration
    in the root's]; those that share the root's configuration only with ``known`` names.
    """
    made = _build(name)
    if made is None:
        return None
    firsts = sorted({key.partition(".")[0] for key in made.state_dict()})
    inside: list[list[Any]] = []
    for path, module in made.named_modules():
        if not path or not isinstance(module, PreTrainedModel):
            continue
        kind, model_type = type(module).__name__, module.config.model_type
        where = _config_path(made.config, module.config)
        outer = any(path.startswith(one[0] + ".") and one[3] == where for one in inside)
        if {kind, model_type} & known or (where and not outer):
            inside.append([path, kind, model_type, where])
    return [
        made.base_model_prefix,
        firsts,
        _weight_of(made, "get_output_embeddings"),
        _weight_of(made, "get_input_embeddings"),
        inside,
    ]


def _weight_of(made: Any, getter: str) -> str | None:
    with contextlib.suppress(Exception):
        wanted = getattr(made, getter)()
        for path, module in made.named_modules():
            if module is wanted and getattr(module, "weight", None) is not None:
                return f"{path}.weight"
    return None


def _build(name: str) -> Any:
    try:
        kind: Any = getattr(transformers, name)
        if kind.config_class is None:
            return None
    except (AttributeError, ImportError):  # needs a package that is not there
        return None
    for shrink in (True, False):
        with contextlib.suppress(Exception), warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            config = kind.config_class()
            if shrink:
                _shrink(config)
            return kind(config)
    return None


def _shrink(config: Any) -> None:
    for key in _LAYERS:
        if isinstance(getattr(config, key, None), int):
            setattr(config, key, 2)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:2]
    for value in list(vars(config).values()):
        if isinstance(value, transformers.PretrainedConfig):
            _shrink(value)


def _config_path(root: Any, wanted: Any) -> str | None:
    """Return "" for the root's own configuration, else the dotted keys to one inside it."""
    if wanted is root:
        return ""
    for key, value in vars(root).items():
        if isinstance(value, transformers.PretrainedConfig) and not key.startswith("_"):
            if value is wanted or value.to_dict() == wanted.to_dict():
                return str(key)
            below: str | None = _config_path(value, wanted)
            if below is not None:
                return f"{key}.{below}".rstrip(".")
    return None


def whole() -> dict[str, Any]:
    """Return the whole table."""
    known = transforms()
    found = {}
    for name in class_names():
        one = architecture(name, set(known))
        if one is not None:
            found[name] = one
        else:
            print("not built:", name, file=sys.stderr)  # noqa: T201
    return {
        "transformers": transformers.__version__,
        "transforms": known,
        "base_classes": base_classes(),
        "architectures": found,
    }


def written(table: dict[str, Any]) -> str:
    """Return the table as JSON, one name a line."""
    parts = []
    for key in sorted(table):
        value = table[key]
        if isinstance(value, dict):
            lines = (f"{json.dumps(name)}:{_compact(value[name])}" for name in sorted(value))
            parts.append(f"{json.dumps(key)}:{{\n" + ",\n".join(lines) + "}")
        else:
            parts.append(f"{json.dumps(key)}:{_compact(value)}")
    return "{" + ",\n".join(parts) + "}\n"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    logging.getLogger("transformers").setLevel(logging.ERROR)
    Path(sys.argv[1]).write_text(written(whole()))
