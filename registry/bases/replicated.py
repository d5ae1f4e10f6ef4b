"""A base seen as the deeper one that an adapter with ``layer_replication`` was trained on.

PEFT 0.21.2 (tuners/tuners_utils.py, ``replicate_layers``) repeats layers that share their
weights and have LoRA factors of their own. Here each copy has a name, and reads the bytes of
the layer that it repeats; so a merge gives each its own delta. (PEFT's own merge adds all
deltas to the one shared weight: peft#1707.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.bases.memory import memory_pieces
from adreg.registry.errors import MergeRefused
from adreg.registry.tensors.checkpoint import Layout

_LISTS = ("layers", "encoder.layer", "h")
"""Lists of layers that PEFT repeats, by the ends of their names."""

_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers")

_BY_NUMBER = ("first_k_dense_replace", "num_kv_shared_layers")
"""Keys of a configuration that count layers from one end."""

_NUMBERS = frozenset({"mlp_only_layers", "moe_layers"})
"""Keys that list the numbers of layers; other lists have an entry for each layer."""

_MIXED = frozenset(
    {"cohere2", "exaone4", "gemma2", "gemma3_text", "gemma3n_text", "gpt_oss", "smollm3"}
)
"""Model types with several kinds of layers, by number where layer_types is not given."""

_ADVICE = "Use it with PEFT, on its base."

Ranges = tuple[tuple[int, int], ...]


def replication_of(spec: AdapterSpec) -> Ranges:
    """Return the ranges [start, stop) of layers that an adapter repeats, none for most."""
    value = spec.config.get("layer_replication") or ()
    return tuple((int(start), int(stop)) for start, stop in value)


def deepened(base: Base, specs: Sequence[object]) -> Base:
    """Return the base that all the adapters among ``specs`` are for: itself, or a deeper one.

    Raises MergeRefused when they differ in that, or the deeper one cannot be told.
    """
    asked = {replication_of(spec) for spec in specs if isinstance(spec, AdapterSpec)}
    asked = asked or {()}
    if asked == {base.replication}:
        return base
    if len(asked) > 1 or (asked != {()} and not all(isinstance(s, AdapterSpec) for s in specs)):
        raise MergeRefused(
            ("the inputs differ in layer_replication, so they are for models of other depths",),
            "Merge them apart.",
        )
    ranges = asked.pop()
    if not ranges:
        return base
    try:
        return _deepened(base, ranges)
    except ValueError as error:
        raise MergeRefused((f"layer_replication: {error}",), _ADVICE) from error


def _deepened(base: Base, ranges: Ranges) -> Base:
    path, depth = _layers(base.layout)
    if bad := next((r for r in ranges if not 0 <= r[0] < r[1] <= depth), None):
        raise ValueError(f"{list(bad)} is no range of the base's {depth} layers")
    order = [number for start, stop in ranges for number in range(start, stop)]
    copies: dict[int, list[int]] = {}
    for number, old in enumerate(order):
        copies.setdefault(old, []).append(number)
    decoders = dict(base.decoders)
    files = []
    for file in base.layout.files:
        tensors = []
        for info in file.tensors:
            layer, rest = _split(info.name, path)
            if layer is None:
                tensors.append(info)
                continue
            for number in copies.get(layer, ()):
                name = f"{path}.{number}.{rest}"
                tensors.append(replace(info, name=name))
                if info.name in base.decoders:
                    decoders[name] = base.decoders[info.name]
        files.append(replace(file, tensors=tuple(tensors)))
    layout = Layout.of(tuple(files))
    config = _config(base.config, order, depth)
    return replace(
        base,
        layout=layout,
        memory=memory_pieces(layout, base.model_type, config, base.architecture),
        config=config,
        parameters=layout.parameters,
        nbytes=layout.nbytes,
        decoders={name: one for name, one in decoders.items() if name in layout},
        replication=ranges,
    )


def _layers(layout: Layout) -> tuple[str, int]:
    """Return the path of the one list of layers, and how many it has."""
    depths: dict[str, int] = {}
    for tensor in layout:
        parts = tensor.name.split(".")
        at = next((n for n, part in enumerate(parts) if part.isdigit()), None)
        if at is None:
            continue
        path = ".".join(parts[:at])
        if any(path == end or path.endswith(f".{end}") for end in _LISTS):
            depths[path] = max(depths.get(path, 0), int(parts[at]) + 1)
    if len(depths) != 1:
        raise ValueError(f"the base has {len(depths) or 'no'} lists of layers, not one")
    return depths.popitem()


def _split(name: str, path: str) -> tuple[int | None, str]:
    if not name.startswith(f"{path}."):
        return None, ""
    number, _, rest = name.removeprefix(f"{path}.").partition(".")
    return (int(number), rest) if number.isdigit() else (None, "")


def _config(config: Mapping[str, Any], order: Sequence[int], depth: int) -> dict[str, Any]:
    """Return the configuration of the deeper model; ValueError where it cannot say it."""
    text = config.get("text_config")
    if isinstance(text, dict):
        return {**config, "text_config": _config(text, order, depth)}
    windows = bool(config.get("use_sliding_window")) and "layer_types" not in config
    sparse = config.get("decoder_sparse_step") not in {None, 1}
    if windows or sparse or any(config.get(key) for key in _BY_NUMBER):
        raise ValueError("the base's layers are of kinds that its configuration counts off")
    if config.get("model_type") in _MIXED and not isinstance(config.get("layer_types"), list):
        raise ValueError("the base's layers are of several kinds, and layer_types is not given")
    edits: dict[str, Any] = {key: len(order) for key in _DEPTHS if config.get(key) == depth}
    for key, value in config.items():
        if not isinstance(value, list) or "layer" not in key:
            continue
        if key in _NUMBERS:
            edits[key] = [number for number, old in enumerate(order) if old in value]
        elif len(value) == depth:
            edits[key] = [value[old] for old in order]
    if not edits.keys() & set(_DEPTHS):
        raise ValueError(f"the base's configuration does not say that it has {depth} layers")
    return {**config, **edits}
