"""What every format is turned into: PEFT's configuration, and tensors made while written."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adreg.registry.adapters.keys import PREFIX
from adreg.registry.errors import AdapterRefused
from adreg.registry.tensors import dtypes
from adreg.registry.tensors.arrays import NUMPY, Array, TensorReader
from adreg.registry.tensors.header import TensorFile, TensorInfo

_PIECE = 1 << 20
"""Elements read at once."""

_HELD = 16 << 20
"""Elements that are held at once when a tensor is turned round: 64 MiB in float32."""

Blocks = Callable[[TensorReader], Iterator[Array]]


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor to be written: ``blocks`` gives its elements in order, in ``dtype``, piece by piece.

    ``dtype`` is a safetensors code.
    """

    dtype: str
    shape: tuple[int, ...]
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class Converted:
    """An adapter in PEFT's form, on its way to be written.

    ``config`` are the bytes of adapter_config.json; ``how`` names what it was. ``folder``
    is where its other files lie, None when it was a file by itself; ``used`` are the
    names in there that went in. ``remarks`` are for the user's eyes.
    """

    config: bytes
    tensors: Mapping[str, Made]
    how: str
    folder: Path | None = None
    used: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BaseView:
    """What a format may need to know of the base: configuration, and shapes by name on disk."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Said:
    """What the user says of a foreign adapter, and the base if one was named.

    ``alpha`` is LoRA's, where the file does not hold it: the scale is alpha/r.
    ``component`` picks one model of a pipeline.
    """

    alpha: float | None = None
    component: str | None = None
    convert_pickle: bool = False
    base: BaseView | None = None


@dataclass(frozen=True, slots=True)
class Factors:
    """The two factors of one module: A (r, in...), B (out, r...), and its alpha."""

    a: Made
    b: Made
    alpha: float
    magnitude: Made | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        """The rank that A has."""
        return self.a.shape[0]


def copied(file: TensorFile, info: TensorInfo, shape: tuple[int, ...] | None = None) -> Made:
    """Return a tensor as it is, or under another shape of as many elements."""

    def blocks(reader: TensorReader) -> Iterator[Array]:
        for start in range(0, info.count, _PIECE):
            yield reader.read(file.path, info, start, min(start + _PIECE, info.count))

    return Made(info.dtype, info.shape if shape is None else shape, blocks)


def transposed(file: TensorFile, info: TensorInfo) -> Made:
    """Return the transpose of a matrix; a large one is read several times, not held whole."""
    rows, columns = info.shape

    def blocks(reader: TensorReader) -> Iterator[Array]:
        width = max(1, _HELD // max(rows, 1))
        height = max(1, _PIECE // max(columns, 1))
        for left in range(0, columns, width):
            right = min(left + width, columns)
            band = np.empty((right - left, rows), NUMPY[info.dtype])
            for top in range(0, rows, height):
                bottom = min(top + height, rows)
                flat = reader.read(file.path, info, top * columns, bottom * columns)
                band[:, top:bottom] = flat.reshape(bottom - top, columns)[:, left:right].T
            yield band.reshape(-1)

    return Made(info.dtype, (columns, rows), blocks)


def gathered(file: TensorFile, info: TensorInfo, order: Array) -> Made:
    """Return a matrix whose row i is row ``order[i]`` of the one that is there."""
    columns = info.count // info.shape[0]

    def blocks(reader: TensorReader) -> Iterator[Array]:
        if info.count <= _HELD:
            whole = reader.read(file.path, info).reshape(-1, columns)
            yield whole[order].reshape(-1)
            return
        for row in order.tolist():
            yield reader.read(file.path, info, row * columns, (row + 1) * columns)

    return Made(info.dtype, info.shape, blocks)


def scalar(reader: TensorReader, file: TensorFile, info: TensorInfo) -> float:
    """Return the one value of a tensor; raise ValueError unless it is one finite float."""
    if info.count == 1 and info.dtype in dtypes.FLOATS:
        value = float(reader.read(file.path, info)[0])
        if math.isfinite(value):
            return value
    raise ValueError(f"the tensor {info.name!r} is not one finite number: {text(info.shape)}")


def check_floats(path: Path, infos: Iterable[TensorInfo]) -> None:
    """Raise AdapterRefused unless all tensors are of a float type that LoRA is trained in."""
    wrong = [info for info in infos if info.dtype not in dtypes.FLOATS]
    if wrong:
        reasons = tuple(
            f"the tensor {one.name!r} is {one.dtype}, not a float type" for one in wrong
        )
        raise AdapterRefused(path, reasons, "Save its factors as float32 or a 16-bit float.")


def check_unused(path: Path, said: Said, *options: str) -> None:
    """Raise AdapterRefused for what the user said and this format has no use for."""
    values = {"--alpha": said.alpha, "--component": said.component}
    unused = " and ".join(name for name in options if values[name] is not None)
    if unused:
        reason = f"{unused} cannot be used here: this format has no need of that"
        raise AdapterRefused(path, (reason,), f"Leave {unused} out.")


def write_config(config: Mapping[str, Any]) -> bytes:
    """Return the bytes of a configuration: the same for the same values."""
    return json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"


def lora_config(
    factors: Mapping[str, Factors], **more: str | float | list[str] | dict[str, Any] | None
) -> dict[str, Any]:
    r"""Return the PEFT configuration of these modules.

    What most modules have is r and lora_alpha; the others stand in the patterns, which
    PEFT matches as ``(.*\.)?(key)$`` (0.21.2, utils/other.py, ``get_pattern_key``): the
    ``^`` keeps a name from matching a longer one that ends with it.
    """
    rank = _commonest(one.rank for one in factors.values())
    alpha = _commonest(one.alpha for one in factors.values())
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": int(rank),
        "lora_alpha": _plain(alpha),
        "lora_dropout": 0.0,
        "target_modules": sorted(factors),
        "rank_pattern": {
            _pattern(name): one.rank for name, one in factors.items() if one.rank != rank
        },
        "alpha_pattern": {
            _pattern(name): _plain(one.alpha) for name, one in factors.items() if one.alpha != alpha
        },
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": any(one.magnitude is not None for one in factors.values()),
        "use_rslora": False,
        **more,
    }


def lora_tensors(factors: Mapping[str, Factors]) -> dict[str, Made]:
    """Return the factors under the names that PEFT saves them with."""
    tensors: dict[str, Made] = {}
    for module, one in sorted(factors.items()):
        stem = f"{PREFIX}{module}."
        if one.embedding:
            tensors[f"{stem}lora_embedding_A"] = one.a
            tensors[f"{stem}lora_embedding_B"] = one.b
        else:
            tensors[f"{stem}lora_A.weight"] = one.a
            tensors[f"{stem}lora_B.weight"] = one.b
        if one.magnitude is not None:
            tensors[f"{stem}lora_magnitude_vector"] = one.magnitude
    return tensors


def pair_up(
    path: Path, found: Mapping[str, Mapping[str, TensorInfo]], a: str, b: str
) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Return the two factors of each module by what ``found`` calls them.

    Raises AdapterRefused when one is missing or has not two dimensions above 0.
    """
    reasons = []
    pairs = {}
    for module, parts in sorted(found.items()):
        missing = [name for name in (a, b) if name not in parts]
        if missing:
            reasons.append(f"{module!r} has no {missing[0]}")
            continue
        pairs[module] = (parts[a], parts[b])
        reasons += [
            f"the tensor {info.name!r} has the shape {text(info.shape)}"
            for info in pairs[module]
            if len(info.shape) < 2 or 0 in info.shape
        ]
    if reasons:
        raise AdapterRefused(path, tuple(reasons), "Fetch or save the adapter again.")
    return pairs


def text(shape: tuple[int, ...]) -> str:
    """Return a shape as it is shown."""
    return "(" + ", ".join(map(str, shape)) + ")"


def _pattern(module: str) -> str:
    return "^" + re.escape(module)


def _commonest(values: Iterable[float]) -> float:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _plain(value: float) -> float:
    return int(value) if value == int(value) else value
