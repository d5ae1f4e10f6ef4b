"""LoRA adapters of llama.cpp: one GGUF file.

    blk.0.attn_q.weight.lora_a   A (r, in)       token_embd.weight.lora_a   A^T (vocabulary, r)
    blk.0.attn_q.weight.lora_b   B (out, r)      token_embd.weight.lora_b   B (dim, r)

with ``adapter.lora.alpha``; its scale is alpha/r, and 1 where alpha is 0 (llama.cpp,
src/llama-adapter.h, ``get_scale``). Names are llama.cpp's: each of the base's is mapped
forward by the package gguf, and the map is turned round. The rows of q and k of Llama's
family are laid out for another kind of rotary embedding and are put back: within each
head row 2 j + i was row i d/2 + j (llama.cpp, convert_lora_to_gguf.py and
conversion/llama.py, ``permute``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adreg.registry.adapters.foreign.form import (
    BaseView,
    Converted,
    Factors,
    Said,
    copied,
    gathered,
    lora_config,
    lora_tensors,
    pair_up,
    text,
    transposed,
    write_config,
)
from adreg.registry.adapters.foreign.gguf_header import check_header
from adreg.registry.errors import AdapterRefused, MissingPackage, NotAnAdapter, TensorFileBroken
from adreg.registry.tensors.header import TensorFile, TensorInfo

MAGIC = b"GGUF"

_PERMUTED: Mapping[str, frozenset[str]] = {
    "llama": frozenset({"LlamaForCausalLM", "MistralForCausalLM"}),
    "granite": frozenset({"GraniteForCausalLM"}),
    "smollm3": frozenset({"SmolLM3ForCausalLM"}),
}
"""Kinds whose q and k were laid out anew, with the architectures that they are made from."""

_PLAIN: Mapping[str, frozenset[str]] = {
    "qwen2": frozenset({"Qwen2ForCausalLM"}),
    "qwen3": frozenset({"Qwen3ForCausalLM"}),
    "gemma": frozenset({"GemmaForCausalLM"}),
    "gemma2": frozenset({"Gemma2ForCausalLM"}),
    "gemma3": frozenset({"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"}),
    "phi3": frozenset({"Phi3ForCausalLM"}),
    "starcoder2": frozenset({"Starcoder2ForCausalLM"}),
}
"""Kinds whose matrices llama.cpp's converter leaves as they are."""

_EMBEDDING = "token_embd.weight"
_CODES = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F64"}
_PARTS = ("lora_a", "lora_b")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What decides how the factors are read: llama.cpp's architecture, alpha, the base."""

    arch: str
    alpha: float
    base: BaseView


def convert(path: Path, said: Said) -> Converted:
    """Turn a GGUF adapter into PEFT's form, its names found in the base.

    Raises MissingPackage without the package gguf; NotAnAdapter for a GGUF model;
    AdapterRefused without a base, for kinds whose layout is not known, for quantised
    factors and for names that the base does not have; TensorFileBroken.
    """
    file, facts = _open(path)
    if facts.get("general.type") != "adapter":
        raise NotAnAdapter(
            path, "it is a GGUF model, not an adapter", "Use the model that it was made from."
        )
    arch = str(facts.get("general.architecture"))
    alpha = facts.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        reason = f"its alpha is {alpha!r}, not a number"
        raise AdapterRefused(path, (reason,), "Make it again with convert_lora_to_gguf.py.")
    _check(path, file, facts, arch)
    if said.alpha is not None:
        raise AdapterRefused(path, (f"it holds its alpha, {alpha:g}",), "Leave --alpha out.")
    if said.base is None:
        raise AdapterRefused(
            path,
            ("it is a GGUF LoRA, whose names can only be read beside those of its base",),
            "Pass its base with --base: the model in transformers' layout, not the GGUF.",
        )
    _check_base(path, arch, said.base)
    factors = _factors(path, file, _Kind(arch, float(alpha), said.base))
    return Converted(
        write_config(lora_config(factors)), lora_tensors(factors), "a GGUF LoRA of llama.cpp"
    )


def _check(path: Path, file: TensorFile, facts: Mapping[str, Any], arch: str) -> None:
    reasons = []
    if (kind := facts.get("adapter.type")) != "lora":
        reasons.append(f"it is a GGUF adapter of the type {kind!r}, not 'lora'")
    if facts.get("adapter.alora.invocation_tokens"):
        reasons.append("activated LoRA applies from a token on, so it cannot be merged")
    if arch not in _PERMUTED and arch not in _PLAIN:
        reasons.append(f"how llama.cpp lays out the architecture {arch!r} is not known here")
    reasons += [
        f"the tensor {info.name!r} is a whole one, not a factor"
        for info in file.tensors
        if info.name.rpartition(".")[2] not in _PARTS
    ]
    if not file.tensors:
        reasons.append("it holds no tensors")
    if reasons:
        raise AdapterRefused(path, tuple(reasons), "Add the PEFT folder that it was made from.")


def _open(path: Path) -> tuple[TensorFile, dict[str, Any]]:
    """Return where the tensors lie and the text and numbers of the header."""
    try:
        from gguf import GGUFReader  # noqa: PLC0415  # an optional extra
    except ImportError as error:
        raise MissingPackage("gguf", "reading a GGUF adapter") from error
    check_header(path)
    try:
        reader = GGUFReader(path)
        facts = {name: field.contents() for name, field in reader.fields.items()}
        tensors = []
        for one in reader.tensors:
            code = _CODES.get(one.tensor_type.name)
            if code is None:
                raise AdapterRefused(
                    path,
                    (f"the tensor {one.name!r} is quantised, {one.tensor_type.name}",),
                    "Make it again with convert_lora_to_gguf.py --outtype f32.",
                )
            shape = tuple(int(length) for length in reversed(one.shape.tolist()))
            start = int(one.data_offset)
            tensors.append(TensorInfo(one.name, code, shape, start, start + int(one.n_bytes)))
    # The package raises whatever its parsing runs into on a file that lies.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError) as error:
        reason = f"it is no readable GGUF: {str(error)[:200]}"
        raise TensorFileBroken(path, reason, "Fetch or make it again.") from error
    return TensorFile(path, path.stat().st_size, tuple(tensors), {}), facts


def _check_base(path: Path, arch: str, base: BaseView) -> None:
    names = base.config.get("architectures") or [None]
    wanted = _PERMUTED.get(arch) or _PLAIN[arch]
    if names[0] not in wanted:
        made_from = " or ".join(sorted(wanted))
        reason = f"it is for {arch!r}, made from {made_from}, and the base is {names[0]}"
        raise AdapterRefused(path, (reason,), "Pass the base that it was trained on with --base.")


def _factors(path: Path, file: TensorFile, kind: _Kind) -> dict[str, Factors]:
    found: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for info in file.tensors:
        stem, _, part = info.name.rpartition(".")
        found[stem][part] = info
    names = _names(kind.arch, kind.base)
    factors: dict[str, Factors] = {}
    reasons = []
    for stem, (a, b) in pair_up(path, found, "lora_a", "lora_b").items():
        on_disk = names.get(stem, [])
        if len(on_disk) != 1:
            said = f"has {len(on_disk)} tensors for" if on_disk else "has no tensor for"
            reasons.append(f"the base {said} {stem!r}")
            continue
        module = on_disk[0].removesuffix(".weight")
        if len(a.shape) != 2 or len(b.shape) != 2:
            reasons.append(f"{stem!r} has factors of experts, {text(a.shape)}")
        elif stem == _EMBEDDING:
            made = transposed(file, a)
            factors[module] = Factors(
                made, copied(file, b), kind.alpha or float(made.shape[0]), embedding=True
            )
        else:
            heads = _heads(stem, kind.arch, kind.base.config)
            if heads is None:
                reasons.append(f"the base's config.json has no number of heads for {stem!r}")
                continue
            if heads and b.shape[0] % (2 * heads):
                reasons.append(f"{stem!r} has {b.shape[0]} rows for {heads} heads")
                continue
            made = gathered(file, b, _order(b.shape[0], heads)) if heads else copied(file, b)
            factors[module] = Factors(copied(file, a), made, kind.alpha or float(a.shape[0]))
    if reasons:
        raise AdapterRefused(path, tuple(reasons), "Pass the base that it was trained on.")
    return factors


def _names(arch: str, base: BaseView) -> dict[str, list[str]]:
    """Return the base's names by llama.cpp's."""
    import gguf  # noqa: PLC0415  # an optional extra, there already when it was opened

    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    table = gguf.get_tensor_name_map(kind, _number(base.config, "num_hidden_layers"))
    names: dict[str, list[str]] = defaultdict(list)
    for name in base.shapes:
        # As convert_lora_to_gguf.py does for the language model in a larger one.
        short = name.removeprefix("language_model.").replace("model.language_model.", "model.", 1)
        mapped = table.get_name(short, try_suffixes=(".weight", ".bias"))
        if mapped is not None and name.endswith(".weight"):
            names[mapped].append(name)
    return names


def _heads(stem: str, arch: str, config: Mapping[str, Any]) -> int | None:
    """Return how many heads' rows were laid out anew, 0 when none were, None when not known."""
    if arch not in _PERMUTED or not stem.endswith((".attn_q.weight", ".attn_k.weight")):
        return 0
    heads = _number(config, "num_attention_heads") or None
    if stem.endswith(".attn_k.weight"):
        return _number(config, "num_key_value_heads") or heads
    return heads


def _number(config: Mapping[str, Any], key: str) -> int:
    inner = config.get("text_config")
    value = config.get(key, inner.get(key) if isinstance(inner, dict) else None)
    return value if isinstance(value, int) and 0 < value < 1 << 20 else 0


def _order(rows: int, heads: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return, for each row of transformers' layout, the row of llama.cpp's that holds it."""
    half = rows // heads // 2
    return np.arange(rows, dtype=np.int64).reshape(heads, half, 2).swapaxes(1, 2).reshape(-1)
