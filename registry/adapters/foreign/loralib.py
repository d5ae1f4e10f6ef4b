"""State dicts of Microsoft's loralib: ``<module>.lora_A`` and ``<module>.lora_B``, and no more.

    Linear      W + (alpha/r) B A        A (r, in), B (out, r)
    Embedding   W + (alpha/r) (B A)^T    A (r, vocabulary), B (dim, r)

Source: microsoft/LoRA, loralib/layers.py. Alpha stands in the training script alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from adreg.registry.adapters.foreign.form import (
    BaseView,
    Converted,
    Factors,
    Made,
    Said,
    check_floats,
    copied,
    lora_config,
    lora_tensors,
    pair_up,
    text,
    write_config,
)
from adreg.registry.adapters.keys import PREFIX
from adreg.registry.errors import AdapterRefused
from adreg.registry.tensors.header import TensorFile, TensorInfo

FACTOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_[AB])")
"""A factor's name; PEFT's has ``.weight`` behind."""

_EMBEDDING = re.compile(r"(.*[._])?(wte|wpe|embed\w*|\w*embeddings?)")


def convert(path: Path, file: TensorFile, said: Said) -> Converted:
    """Turn a state dict of ``lora.lora_state_dict`` into PEFT's form, with the alpha that is given.

    Trained biases and whole parameters beside the factors are kept. Raises AdapterRefused.
    """
    check_floats(path, file.tensors)
    found: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    whole: dict[str, TensorInfo] = {}
    for info in file.tensors:
        if match := FACTOR.fullmatch(info.name):
            found[match["module"]][match["part"]] = info
        else:
            whole[info.name] = info
    pairs = pair_up(path, found, "lora_A", "lora_B")
    _check(path, pairs, whole, said.base)
    if said.alpha is None:
        ranks = sorted({a.shape[0] for a, _ in pairs.values()})
        raise AdapterRefused(
            path,
            (f"it is a loralib state dict of rank {ranks[0]}, which does not hold its alpha",),
            "Pass --alpha with the lora_alpha of the training script.",
        )
    factors = {
        module: Factors(
            copied(file, a),
            copied(file, b),
            said.alpha,
            embedding=_is_embedding(module, a, b, said.base),
        )
        for module, (a, b) in pairs.items()
    }
    biases = [name for name in whole if name.endswith(".bias")]
    saved = sorted({name.rpartition(".")[0] for name in whole if not name.endswith(".bias")})
    config = lora_config(factors, bias="all" if biases else "none", modules_to_save=saved or None)
    tensors: dict[str, Made] = lora_tensors(factors)
    tensors |= {PREFIX + name: copied(file, info) for name, info in whole.items()}
    return Converted(write_config(config), tensors, "a loralib state dict")


def _is_embedding(module: str, a: TensorInfo, b: TensorInfo, base: BaseView | None) -> bool:
    """Tell an embedding by its name, unless the base's shape is that of a linear layer."""
    shape = None if base is None else base.shapes.get(f"{module}.weight")
    linear = (b.shape[0], a.shape[1])
    is_linear = shape == linear and linear[0] != linear[1]
    return _EMBEDDING.fullmatch(module) is not None and not is_linear


def _check(
    path: Path,
    pairs: dict[str, tuple[TensorInfo, TensorInfo]],
    whole: dict[str, TensorInfo],
    base: BaseView | None,
) -> None:
    reasons = []
    for module, (a, b) in pairs.items():
        rank = a.shape[0]
        if rank != b.shape[1]:
            shapes = f"A {text(a.shape)}, B {text(b.shape)}"
            reasons.append(
                f"{module!r} has another rank in A than in B ({shapes}): if it is a"
                " MergedLinear, which of its thirds are trained stands in the script alone"
            )
        if f"{module}.weight" in whole:
            reasons.append(
                f"it holds the whole weight of {module!r} beside its LoRA, into which loralib"
                " may have folded it already"
            )
        if base is not None and len(base.shapes.get(f"{module}.weight", ())) > 2:
            reasons.append(f"{module!r} is a convolution, whose loralib form PEFT does not have")
    if reasons:
        advice = "Save lora.lora_state_dict(model) of plain lora.Linear layers."
        raise AdapterRefused(path, tuple(reasons), advice)
