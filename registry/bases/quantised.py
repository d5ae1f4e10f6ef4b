"""Is a base quantised, and how? By its configuration, and the names and types of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adreg.registry import jsonio
from adreg.registry.tensors.header import TensorInfo

CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
"""transformers, older compressed-tensors, and mlx."""

METHODS: Mapping[str, str] = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "EETQ",
    "fbgemm_fp8": "FBGEMM FP8",
    "fouroversix": "Four Over Six",
    "fp8": "FP8",
    "fp_quant": "FP-Quant",
    "gptq": "GPTQ",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "metal": "Metal",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    "mxfp8": "MXFP8",
    "nvfp4": "NVFP4",
    "quanto": "Quanto",
    "quark": "Quark",
    "sinq": "SINQ",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}
"""What ``quant_method`` says, and the scheme's own name (transformers 5.23, quantizers/auto.py)."""

_ENDINGS: tuple[tuple[str, str, frozenset[str] | None], ...] = (
    (".absmax", "bitsandbytes 4-bit", None),
    (".quant_map", "bitsandbytes 4-bit", None),
    (".SCB", "bitsandbytes 8-bit", None),
    (".qweight", "GPTQ or AWQ", None),
    (".qzeros", "GPTQ or AWQ", None),
    (".weight_packed", "compressed-tensors", None),
    (".weight_global_scale", "NVFP4", None),
    (".weight_scale_2", "NVFP4", None),
    # Factors of the activations that belong to the weights: without them these are others.
    (".pre_quant_scale", "ModelOpt", None),
    (".act.scales", "AWQ", None),
    (".weight_scale_inv", "FP8", None),
    ("_proj_scale_inv", "FP8", None),
    (".weight_scale", "FP8", frozenset({"F32", "F16", "BF16", "F8_E8M0"})),
    (".weight_scale", "MXFP8", frozenset({"U8"})),
    (".W_q", "HQQ", None),
    (".weight._data", "Quanto", None),
    (".weight._packed", "Quanto", None),
    (".weight_qdata", "torchao", None),
    (".weight_scales", "EETQ", None),
    (".codebooks", "AQLM", None),
    (".centroids.weight", "VPTQ", None),
    # gpt-oss has `..._blocks` of U8; a bias called `..._blocks` of floats is no sign.
    ("_blocks", "MXFP4", frozenset({"U8"})),
)
"""Ends of tensor names that only quantised checkpoints have, with the types that they need."""

FILES: Mapping[str, str] = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
"""Files beside a configuration that tell of quantisation, and whose they are: AutoGPTQ,
AutoAWQ and ModelOpt."""

_SMALL_FLOATS = ("F4", "F6_", "F8_")  # not F64

_SUFFIXES = re.compile(
    r"""[-_.](unsloth-bnb-4bit|bnb-[48]bit(-\w+)?|bnb|nf4|mxfp[48]|nvfp4|fp8(-\w+)?|autoround
    |gptq(-\w+)*|awq(-\w+)*|hqq(-\w+)*|aqlm(-\w+)*|torchao(-\w+)*|quantized|quantised
    |int[48](-\w+)*|w[48]a(4|8|16)|[2348]-?bits?|g\d+|4bit-\w+)$""",
    re.VERBOSE | re.IGNORECASE,
)
"""How publishers mark a quantised copy in a repository's name."""

_PUBLISHED_SO = frozenset({"FP8", "MXFP4", "compressed-tensors"})
"""Schemes that models are published in by those who trained them: then the name in the
configuration is no other model's."""

_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def scheme(config: Mapping[str, Any], tensors: Iterable[TensorInfo]) -> str | None:
    """Return how a base is quantised, by its configuration, tensor names or dtypes; else None."""
    for holder in (config, config.get("text_config")):
        if isinstance(holder, dict) and (name := _declared(holder)):
            return name
    small = None
    for tensor in tensors:
        if name := mark(tensor):
            return name
        if tensor.dtype.startswith(_SMALL_FLOATS):
            small = tensor.dtype.partition("_")[0].replace("F", "FP")
    return small


def mark(tensor: TensorInfo) -> str | None:
    """Return the scheme that a tensor's name gives away, None for one like any other."""
    for ending, name, types in _ENDINGS:
        if tensor.name.endswith(ending) and (types is None or tensor.dtype in types):
            return name
    return None


def stored_small(tensor: TensorInfo) -> bool:
    """Whether a tensor has a type that only quantised weights and their states have."""
    return tensor.dtype.startswith(_SMALL_FLOATS) or tensor.dtype in {"I8", "U8"}


def declared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says of its quantisation, empty where it says nothing."""
    for holder in (config, config.get("text_config")):
        for key in CONFIG_KEYS:
            value = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(value, dict) and value:
                return value
    return {}


def with_file(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a configuration with what AutoGPTQ or AutoAWQ wrote into a file of their own.

    Only where it says nothing itself. Raises JsonBroken.
    """
    if not declared(config):
        for file, method in FILES.items():
            if method != "modelopt" and (folder / file).is_file():
                said = {"quant_method": method, **jsonio.read_object(folder / file)}
                return {**config, "quantization_config": said}
    return dict(config)


def original(scheme_name: str, name: object, hub_repo: str | None) -> str | None:
    """Guess the Hub id of the 16-bit model from the name of a quantised one, None without a clue.

    ``name`` is the configuration's ``_name_or_path``.
    """
    for candidate in (hub_repo, name):
        if not isinstance(candidate, str) or not _HUB_ID.fullmatch(candidate):
            continue
        stripped = candidate
        while (shorter := _SUFFIXES.sub("", stripped)) != stripped:
            stripped = shorter
        if stripped != candidate:
            return stripped if _HUB_ID.fullmatch(stripped) else None
        if candidate != hub_repo and scheme_name not in _PUBLISHED_SO:
            return candidate
    return None


def _declared(config: Mapping[str, Any]) -> str | None:
    for key in CONFIG_KEYS:
        value = config.get(key)
        if not isinstance(value, dict) or not value:
            continue
        method = value.get("quant_method")
        if isinstance(method, str) and method.isprintable():
            bits = 4 if value.get("load_in_4bit") else 8 if value.get("load_in_8bit") else None
            name = METHODS.get(method, method)
            return f"{name} {bits}-bit" if bits else name
        return "mlx" if key == "quantization" else key
    return None
