"""Is a base quantised, and how? Deltas are not folded into quantised weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adreg.registry.tensors.header import TensorInfo

_CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
"""transformers, older compressed-tensors, and mlx."""

_ENDINGS: Mapping[str, str] = {
    ".absmax": "bitsandbytes 4-bit",
    ".quant_map": "bitsandbytes 4-bit",
    ".SCB": "bitsandbytes 8-bit",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_inv": "FP8",
    ".weight_scale": "FP8",
    "_blocks": "MXFP4",
}
"""Ends of tensor names that only quantised checkpoints have."""

_SMALL_FLOATS = ("F4", "F6_", "F8_")  # not F64


def scheme(config: Mapping[str, Any], tensors: Iterable[TensorInfo]) -> str | None:
    """Return how a base is quantised, by its configuration, tensor names or dtypes; else None."""
    for holder in (config, config.get("text_config")):
        if isinstance(holder, dict) and (name := _declared(holder)):
            return name
    for tensor in tensors:
        if tensor.dtype.startswith(_SMALL_FLOATS):
            return tensor.dtype.partition("_")[0].replace("F", "FP")
        for ending, name in _ENDINGS.items():
            # gpt-oss has `..._blocks` of U8; a bias called `..._blocks` of floats is no sign.
            if tensor.name.endswith(ending) and (ending != "_blocks" or tensor.dtype == "U8"):
                return name
    return None


def _declared(config: Mapping[str, Any]) -> str | None:
    for key in _CONFIG_KEYS:
        value = config.get(key)
        if not isinstance(value, dict) or not value:
            continue
        method = value.get("quant_method")
        if isinstance(method, str) and method.isprintable():
            bits = 4 if value.get("load_in_4bit") else 8 if value.get("load_in_8bit") else None
            return f"{method} {bits}-bit" if bits else method
        return "mlx" if key == "quantization" else key
    return None
