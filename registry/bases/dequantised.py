"""A quantised checkpoint seen as the checkpoint of floats that it decodes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adreg.registry.bases.conv1d import is_conv1d
from adreg.registry.bases.quantised import CONFIG_KEYS, METHODS, declared, mark, stored_small
from adreg.registry.errors import BaseRefused
from adreg.registry.tensors import dtypes
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.checkpoint import Layout
from adreg.registry.tensors.header import TensorFile, TensorInfo
from adreg.registry.tensors.quantised import fourbit, mxfp4, packed, scaled
from adreg.registry.tensors.quantised.decoder import Decoder, Found

_ADVICE = "Use the 16-bit model that it was made from."

_DEFAULT = "bfloat16"

_OF_ACTIVATIONS = (
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".activation_scale",
    ".output_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
    ".kv_scale",
)
"""Ends of the names of single numbers by which activations are quantised, not weights."""

_FORMS: Mapping[str, tuple[str, frozenset[str]]] = {
    "gptq": ("checkpoint_format", frozenset({"", "gptq", "gptq_v2"})),
    "awq": ("version", frozenset({"", "gemm"})),
}
"""The field of a configuration that names the packing, and the packings that are known:
others (marlin, gemv, bitblas, ...) have the same names and shapes with other orders."""

_READ = frozenset(
    {
        "awq",
        "bitsandbytes",
        "compressed-tensors",
        "fbgemm_fp8",
        "fp8",
        "gptq",
        "modelopt",
        "mxfp4",
        "mxfp8",
    }
)
"""Methods whose tensors mean what their names say in ``tensors.quantised``; another's could
be taken for one of these and mean something else."""


def dequantised(
    layout: Layout, config: Mapping[str, Any], dtype: str | None = None
) -> tuple[Layout, dict[str, Decoder], dict[str, Any]]:
    """Return the logical layout, the decoders of its quantised weights, and its configuration.

    In the layout the states of quantisation are gone and each weight stands under its own
    name, shape and float type: ``dtype`` ("float16", ...), else what the configuration
    says, else bfloat16. Tensors that have a decoder must be read by it; of these the
    places in the file mean nothing. The configuration no longer tells of quantisation.

    Reads the small states that shapes depend on. Raises BaseRefused for a layout that
    cannot be decoded, TensorFileBroken for one that contradicts itself.
    """
    name = dtype or _own_dtype(config)
    _check_method(layout, config)
    found = _find(layout, config)
    _check_names(layout, found)
    used = frozenset().union(*(one.used for one in found))
    _check_rest(layout, used, config)
    by_place = {one.place: one for one in found}
    decoders: dict[str, Decoder] = {}
    files = []
    for file in layout.files:
        tensors: list[TensorInfo] = []
        for tensor in file.tensors:
            if one := by_place.get(tensor.name):
                decoder = one.decoder(dtypes.OUTPUTS[name], tensor.start)
                decoders[one.name] = decoder
                tensors.append(decoder.info)
            elif tensor.name not in used and not _of_activations(tensor):
                tensors.append(tensor)
        if tensors:
            files.append(TensorFile(file.path, file.size, tuple(tensors), file.metadata))
    return Layout.of(tuple(files)), decoders, _plain_config(config, name)


def _find(layout: Layout, config: Mapping[str, Any]) -> list[Found]:
    said = declared(config)
    method = said.get("quant_method")

    def turned(weight: str) -> bool:
        return is_conv1d(config.get("model_type"), weight.removesuffix(".weight"))

    with TensorReader() as reader:
        found = fourbit.find(layout, reader, turned)
        found += scaled.find(layout, reader, _block(said), turned)
    found += mxfp4.find(layout)
    field, known = _FORMS.get(str(method), ("", frozenset({""})))
    form = str(said.get(field) or "").lower()
    if form in known:
        found += packed.find(layout, zeros_kept=form == "gptq_v2")
    return found


def _check_method(layout: Layout, config: Mapping[str, Any]) -> None:
    """Refuse what the configuration says and no tensor's name shows."""
    said = declared(config)
    method, why = said.get("quant_method"), ""
    sparse = said.get("sparsity_config")
    if method is not None and str(method) not in _READ:
        why = f"adreg does not decode {METHODS.get(str(method), method)}"
    elif said.get("transform_config"):
        why = "its weights are rotated (transform_config)"
    elif isinstance(sparse, dict) and str(sparse.get("format") or "dense") != "dense":
        why = "its weights are sparse (sparsity_config)"
    if why:
        raise BaseRefused(layout.files[0].path.parent, why, _ADVICE)


def _block(said: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the rows and columns of a block that the configuration names."""
    size = said.get("weight_block_size")
    groups = said.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and (structure := weights.get("block_structure")):
            size = structure
    if isinstance(size, str) and all(part.isdecimal() for part in size.split("x")):
        size = [int(part) for part in size.split("x")]
    if (
        isinstance(size, list)
        and len(size) == 2
        and all(isinstance(n, int) and n > 0 for n in size)
    ):
        return size[0], size[1]
    return None


def _check_names(layout: Layout, found: list[Found]) -> None:
    """Refuse a weight that is there twice, quantised and not, or in two layouts."""
    seen: set[str] = set()
    for one in found:
        if one.name in seen or (one.name in layout and one.name not in one.used):
            path = layout.places[one.place][0].path
            raise BaseRefused(path.parent, f"it holds {one.name!r} twice", _ADVICE)
        seen.add(one.name)


def _check_rest(layout: Layout, used: frozenset[str], config: Mapping[str, Any]) -> None:
    """Refuse a layout with quantised tensors that no decoder takes (design contract 1)."""
    for tensor in layout:
        if tensor.name in used or _of_activations(tensor):
            continue
        packed_words = "quantization" in config and tensor.dtype == "U32"  # mlx
        if stored_small(tensor) or mark(tensor) or packed_words:
            raise BaseRefused(
                layout.places[tensor.name][0].path.parent,
                f"its tensor {tensor.name!r} ({tensor.dtype}) is quantised in a way that adreg"
                " does not decode",
                _ADVICE,
            )


def _of_activations(tensor: TensorInfo) -> bool:
    if tensor.name.endswith("_activation_scale"):  # one for each expert
        return True
    return tensor.count == 1 and tensor.name.endswith(_OF_ACTIVATIONS)


def _own_dtype(config: Mapping[str, Any]) -> str:
    for holder in (config, config.get("text_config")):
        for key in ("dtype", "torch_dtype"):
            value = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(value, str) and value.removeprefix("torch.") in dtypes.OUTPUTS:
                return value.removeprefix("torch.")
    return _DEFAULT


def _plain_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return the configuration without quantisation, of the type that the weights now have."""
    plain: dict[str, Any] = {}
    for key, value in config.items():
        if key in {"dtype", "torch_dtype"} and value is not None:
            plain[key] = dtype
        elif isinstance(value, dict) and key.endswith("_config") and key not in CONFIG_KEYS:
            plain[key] = _plain_config(value, dtype)
        elif key not in CONFIG_KEYS and key != "_pre_quantization_dtype":
            plain[key] = value
    return plain
