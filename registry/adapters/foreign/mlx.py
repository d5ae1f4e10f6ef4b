"""Adapters of Apple's mlx-lm: adapters.safetensors, or the older adapters.npz.

    LoRALinear     W + scale (a b)^T                       a (in, r), b (r, out)
    LoRAEmbedding  W + scale a b                           a (vocabulary, r), b (r, dim)
    DoRALinear     m (W + scale (a b)^T) / |W + scale (a b)^T| over each row; m (out,)

Source: ml-explore/mlx-lm, mlx_lm/tuner/lora.py and dora.py. The scale is not alpha/r: PEFT's
alpha is scale * r.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adreg.registry.adapters.foreign.form import (
    Converted,
    Factors,
    Said,
    check_floats,
    copied,
    lora_config,
    lora_tensors,
    pair_up,
    text,
    transposed,
    write_config,
)
from adreg.registry.errors import AdapterRefused
from adreg.registry.tensors.header import TensorFile, TensorInfo

NAMES = ("adapters.safetensors", "adapters.npz")
"""The files that mlx-lm writes, the newer first."""

FACTOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_[ab]|m)")

_EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|wpe|\w*embeddings?)")
_DEFAULT_SCALE = 20
"""LoRALinear's default (mlx-lm, tuner/lora.py)."""


def is_config(config: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is mlx-lm's."""
    return "peft_type" not in config and bool({"fine_tune_type", "lora_parameters"} & set(config))


def convert(path: Path, file: TensorFile, config: Mapping[str, Any], said: Said) -> Converted:
    """Turn an mlx-lm adapter into PEFT's form; both factors are transposed.

    ``config`` is empty when there is none. Raises AdapterRefused: for a full fine-tune, for
    the experts' three-dimensional factors, and when neither the configuration nor the
    user says the scale.
    """
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        reason = "it is a full fine-tune of mlx-lm (fine_tune_type 'full'), not an adapter"
        raise AdapterRefused(
            path, (reason,), "Fuse it with mlx_lm.fuse; the result is a model, not an adapter."
        )
    if kind not in ("lora", "dora"):
        reason = f"its fine_tune_type is {kind!r}, which is not known"
        advice = "Train it with mlx_lm.lora as a lora or dora."
        raise AdapterRefused(path, (reason,), advice)
    check_floats(path, file.tensors)
    found = _sort(path, file)
    pairs = pair_up(path, found, "lora_a", "lora_b")
    _check(path, pairs, found)
    scale = _scale(path, pairs, config, said)
    factors = {}
    for module, (a, b) in pairs.items():
        rank = a.shape[1]
        m = found[module].get("m")
        factors[module] = Factors(
            transposed(file, a),
            transposed(file, b),
            scale * rank if said.alpha is None else said.alpha,
            magnitude=None if m is None else copied(file, m),
            embedding=_EMBEDDING.fullmatch(module) is not None,
        )
    model = config.get("model")
    hint = model if isinstance(model, str) and model.isprintable() else None
    written = write_config(lora_config(factors, base_model_name_or_path=hint))
    how = "an mlx-lm DoRA" if any(one.magnitude for one in factors.values()) else "an mlx-lm LoRA"
    return Converted(written, lora_tensors(factors), how)


def _sort(path: Path, file: TensorFile) -> dict[str, dict[str, TensorInfo]]:
    found: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    unknown = []
    for info in file.tensors:
        if match := FACTOR.fullmatch(info.name):
            found[match["module"]][match["part"]] = info
        else:
            unknown.append(f"the tensor {info.name!r} is no part of an mlx-lm LoRA")
    if unknown:
        raise AdapterRefused(path, tuple(unknown), "Save the adapter again with mlx_lm.lora.")
    return found


def _check(
    path: Path,
    pairs: Mapping[str, tuple[TensorInfo, TensorInfo]],
    found: Mapping[str, Mapping[str, TensorInfo]],
) -> None:
    reasons = []
    for module, (a, b) in pairs.items():
        if len(a.shape) > 2 or len(b.shape) > 2:
            reasons.append(f"{module!r} has the factors of an mlx expert layer, {text(a.shape)}")
        elif a.shape[1] != b.shape[0]:
            shapes = f"a {text(a.shape)}, b {text(b.shape)}"
            reasons.append(f"{module!r} has another rank in a than in b: {shapes}")
        elif "m" in found[module] and _EMBEDDING.fullmatch(module):
            reasons.append(f"{module!r} is a DoRA of an embedding, scaled by rows as PEFT's is not")
    if reasons:
        advice = "Train it again without those layers, or fuse it with mlx_lm.fuse."
        raise AdapterRefused(path, tuple(reasons), advice)


def _scale(
    path: Path,
    pairs: Mapping[str, tuple[TensorInfo, TensorInfo]],
    config: Mapping[str, Any],
    said: Said,
) -> float:
    parameters = config.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, dict) else None
    if scale is None:
        if said.alpha is not None:
            return 0.0  # alpha is taken as it was given
        rank = next(iter(pairs.values()))[0].shape[1]
        raise AdapterRefused(
            path,
            ("it is an mlx-lm LoRA whose scale is stored nowhere",),
            f"Pass --alpha: mlx-lm's scale times the rank {rank};"
            f" its default scale of {_DEFAULT_SCALE} is --alpha {_DEFAULT_SCALE * rank}.",
        )
    if said.alpha is not None:
        reason = f"its configuration says the scale, {scale!r}"
        raise AdapterRefused(path, (reason,), "Leave --alpha out.")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) < 1e30:
        reason = f"its scale is {scale!r}, not a number"
        advice = "Mend scale among the lora_parameters of its adapter_config.json."
        raise AdapterRefused(path, (reason,), advice)
    return float(scale)
