"""What a user asks a merge for, in a file or by flags.

base: smollm2
adapters:
- ref: team/support@prod
weight: 0.7
- team/tone                # weight 1
method: linear
dtype: bfloat16              # optional; the base's own by default
max_shard_size: 5GB          # optional; the base's shards by default
precision: float32           # or float64
tokenizer: auto              # auto, base or adapter
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import yaml

from adreg.registry.errors import InputRefused, NameRefused
from adreg.registry.merge.plan import Precision
from adreg.registry.names import Reference
from adreg.registry.tensors import dtypes

METHODS = ("linear",)
"""Ways to combine: ``linear`` is the weighted sum of the adapters' deltas."""

TOKENIZERS = ("auto", "base", "adapter")
"""Whose tokenizer files are written: ``auto`` takes the adapters' when they bring one and agree."""

_DECIMAL = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS = _DECIMAL | {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_FIELDS = {"base", "adapters", "method", "dtype", "max_shard_size", "precision", "tokenizer"}


@dataclass(frozen=True, slots=True)
class RecipeAdapter:
    """An adapter and how many times its delta is taken."""

    ref: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """A merge as it was asked for.

    ``max_shard_size`` is in bytes; ``base`` is empty for the adapters' own.
    """

    adapters: tuple[RecipeAdapter, ...]
    base: str = ""
    method: str = "linear"
    dtype: str | None = None
    max_shard_size: int | None = None
    precision: Precision = "float32"
    tokenizer: str = "auto"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that ``from_dict`` reads."""
        return {
            "base": self.base,
            "adapters": [{"ref": one.ref, "weight": one.weight} for one in self.adapters],
            "method": self.method,
            "dtype": self.dtype,
            "max_shard_size": self.max_shard_size,
            "precision": self.precision,
            "tokenizer": self.tokenizer,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """Read plain values; raise ValueError that names the field."""
        if unknown := sorted(set(value) - _FIELDS):
            raise ValueError(f"the field {unknown[0]!r} is not known")
        adapters = value.get("adapters")
        if not isinstance(adapters, list) or not adapters:
            raise ValueError("'adapters' is not a list with one adapter or more")
        size = value.get("max_shard_size")
        return cls(
            adapters=tuple(_adapter(one) for one in adapters),
            base=_text(value, "base", ""),
            method=_choice(value, "method", METHODS),
            dtype=_choice(value, "dtype", tuple(dtypes.OUTPUTS)) if value.get("dtype") else None,
            max_shard_size=None if size is None else parse_size(size),
            precision=cast("Precision", _choice(value, "precision", get_args(Precision))),
            tokenizer=_choice(value, "tokenizer", TOKENIZERS),
        )


def recipe_adapter(text: str) -> RecipeAdapter:
    """Read ``REF[=WEIGHT]``; raise NameRefused."""
    reference = Reference.parse(text)
    if reference.weight is None:
        return RecipeAdapter(text)
    return RecipeAdapter(text.rpartition("=")[0], reference.weight)


def parse_size(value: object) -> int:
    """Read bytes: a number, or text such as ``5GB`` or ``512MiB``; raise ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or not (size := int(float(match[1]) * unit)):
        raise ValueError(f"{value!r} is not a size such as 5GB or 512MiB")
    return size


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file in YAML; raise InputRefused with the line or field of the mistake."""
    advice = "`adreg merge --help` shows a recipe."
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputRefused(path, error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise InputRefused(path, f"it is not valid YAML{where}", advice) from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputRefused(path, "it is not a map of fields", advice)
    try:
        return Recipe.from_dict(value)
    except (ValueError, NameRefused) as error:
        raise InputRefused(path, str(error), advice) from None


def _adapter(value: object) -> RecipeAdapter:
    if isinstance(value, str):
        return recipe_adapter(value)
    known = isinstance(value, dict) and not set(value) - {"ref", "weight"}
    if not isinstance(value, dict) or not known or not isinstance(value.get("ref"), str):
        raise ValueError(f"the adapter {value!r} is neither a reference nor ref and weight")
    weight = value.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"the weight {weight!r} is not a finite number")
    return RecipeAdapter(value["ref"], float(weight))


def _text(value: Mapping[str, Any], field: str, default: str) -> str:
    text = value.get(field) or default
    if not isinstance(text, str):
        raise ValueError(f"{field!r} is not a text")  # noqa: TRY004  # a fault of the data
    return text


def _choice(value: Mapping[str, Any], field: str, choices: tuple[str, ...]) -> str:
    text = _text(value, field, choices[0])
    if text not in choices:
        raise ValueError(f"{field!r} is {text!r} and not one of {', '.join(choices)}")
    return text
