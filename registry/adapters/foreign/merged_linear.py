"""The MergedLinear of PEFT 0.1 and 0.2: one LoRA for some of the blocks of a fused qkv.

``enable_lora`` says which of the equal blocks of the output are trained, n of them.
A (n r, in) and B (n out/len, n r / g, 1) are a convolution with g groups of kernel 1:

    delta[enabled rows] = (alpha/r) conv1d(A, B, groups=g)        all other rows are 0

Source: microsoft/LoRA, loralib/layers.py (MergedLinear); PEFT 0.2.0, tuners/lora.py, where
the layer's own ``groups`` is 2 whatever n is. Written as one LoRA of rank n r: A as it is,
the groups of B on the diagonal of a matrix that is 0 elsewhere, alpha n.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adreg.registry.adapters.files import CONFIG
from adreg.registry.adapters.foreign.form import (
    Converted,
    Made,
    check_floats,
    copied,
    pair_up,
    text,
    write_config,
)
from adreg.registry.errors import AdapterRefused
from adreg.registry.tensors.arrays import NUMPY, Array, TensorReader
from adreg.registry.tensors.header import TensorFile, TensorInfo

_FACTOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_[AB])(\.default)?\.weight")
_ADVICE = "Load it with PEFT 0.2, fold it in there, and add the model as a base."
_ROWS = 1024


def is_config(config: Mapping[str, Any]) -> bool:
    """Whether a PEFT configuration is one of MergedLinear layers."""
    return isinstance(config.get("enable_lora"), list) and bool(config["enable_lora"])


def convert(folder: Path, file: TensorFile, config: Mapping[str, Any]) -> Converted:
    """Turn a folder of PEFT 0.1 or 0.2 with ``enable_lora`` into an ordinary LoRA of n times r.

    Raises AdapterRefused when the shapes are not those of such layers.
    """
    enabled = config["enable_lora"]
    if not all(isinstance(one, bool) for one in enabled) or not any(enabled):
        raise AdapterRefused(folder, (f"enable_lora is {enabled!r}, not blocks to train",), _ADVICE)
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    for name, value in (("r", rank), ("lora_alpha", alpha)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise AdapterRefused(folder, (f"{name} is {value!r}, not a number",), _ADVICE)
    check_floats(folder, file.tensors)
    found: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    tensors: dict[str, Made] = {}
    for info in file.tensors:
        tensors[info.name] = copied(file, info)
        if match := _FACTOR.fullmatch(info.name):
            found[match["module"]][match["part"]] = info
    count = sum(enabled)
    for module, (a, b) in pair_up(folder, found, "lora_A", "lora_B").items():
        if reason := _fault(module, a, b, rank * count, count):
            raise AdapterRefused(folder, (reason,), _ADVICE)
        tensors[b.name] = _spread(file, b, a.shape[0], enabled)
    changed = {key: value for key, value in config.items() if key != "enable_lora"}
    changed |= {"r": rank * count, "lora_alpha": alpha * count}
    blocks = f"{count} of {len(enabled)} blocks"
    how = f"the merged linear layers of PEFT 0.1 ({blocks})"
    used = frozenset({CONFIG, file.path.name})
    return Converted(write_config(changed), tensors, how, folder, used)


def _fault(module: str, a: TensorInfo, b: TensorInfo, rank: float, count: int) -> str | None:
    shapes = f"A {text(a.shape)}, B {text(b.shape)}"
    if len(a.shape) != 2 or len(b.shape) != 3 or b.shape[2] != 1:
        return f"{module!r} is no merged linear layer: {shapes}"
    if a.shape[0] != rank:
        return f"{module!r} has A {text(a.shape)}, and {rank} rows by its configuration"
    if a.shape[0] % b.shape[1] or b.shape[0] % (a.shape[0] // b.shape[1]) or b.shape[0] % count:
        return f"{module!r} has groups that do not divide its rows: {shapes}"
    return None


def _spread(file: TensorFile, b: TensorInfo, rank: int, enabled: list[bool]) -> Made:
    """Return (out, n r): the rows of B at their places, each group in its own columns."""
    rows, width = b.shape[0], b.shape[1]
    groups = rank // width
    block = rows // sum(enabled)
    dtype = NUMPY[b.dtype]

    def blocks(reader: TensorReader) -> Iterator[Array]:
        done = 0  # rows of B that are written already
        for is_trained in enabled:
            for start in range(0, block, _ROWS):
                height = min(_ROWS, block - start)
                result = np.zeros((height, rank), dtype)
                if is_trained:
                    flat = reader.read(file.path, b, done * width, (done + height) * width)
                    group = (done + np.arange(height)) // (rows // groups)
                    columns = group[:, None] * width + np.arange(width)
                    result[np.arange(height)[:, None], columns] = flat.reshape(height, width)
                    done += height
                yield result.reshape(-1)

    return Made(b.dtype, (block * len(enabled), rank), blocks)
