"""What a user asks a merge for, in a file or by flags; ``docs/recipes.md`` has the schema."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from adreg.registry.adapters.config import pattern_fault
from adreg.registry.errors import NameRefused, RecipeRefused
from adreg.registry.merge.algebra.combine import METHODS as COMBINATIONS
from adreg.registry.merge.algebra.combine import settings_of
from adreg.registry.merge.methods.method import METHODS, Method, Value
from adreg.registry.merge.plan import Precision
from adreg.registry.merge.recipe_file import read_yaml
from adreg.registry.names import FULL, Reference
from adreg.registry.tensors import dtypes

TOKENIZERS = ("auto", "base", "adapter")
"""Whose tokenizer files are written: ``auto`` takes the adapters' when they bring one and agree."""

_DECIMAL = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS = _DECIMAL | {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_FIELDS = frozenset(
    {
        "base",
        "adapters",
        "method",
        "parameters",
        "weights",
        "dtype",
        "max_shard_size",
        "precision",
        "tokenizer",
        "dequantize",
        "allow_code",
    }
)

Weights = tuple[tuple[str, float], ...]
"""Patterns of module names with the factor on the weight there; the first that matches counts."""


class Fault(ValueError):
    """What is wrong in a recipe, and where: the keys and places that lead to it."""

    def __init__(self, path: tuple[str | int, ...], text: str) -> None:
        """Keep the path and the sentence."""
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class RecipeAdapter:
    """An adapter, or with ``full:`` a whole checkpoint, and how many times its delta is taken."""

    ref: str
    weight: float = 1.0
    weights: Weights = ()

    @property
    def full(self) -> str | None:
        """The path or name of a whole checkpoint; None for an adapter."""
        return self.ref.removeprefix(FULL) if self.ref.startswith(FULL) else None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A merge as it was asked for.

    ``max_shard_size`` is in bytes; ``base`` is empty for the adapters' own. ``weights``
    are factors for modules by pattern, on top of the adapters' weights. ``dequantize``
    lets the base be a quantised one, whose weights are decoded; ``allow_code`` takes its
    Python files along.
    """

    adapters: tuple[RecipeAdapter, ...]
    base: str = ""
    method: str = "linear"
    parameters: Mapping[str, Value] = field(default_factory=dict)
    weights: Weights = ()
    dtype: str | None = None
    max_shard_size: int | None = None
    precision: Precision = "float32"
    tokenizer: str = "auto"
    dequantize: bool = False
    allow_code: bool = False

    @property
    def on_factors(self) -> bool:
        """Whether one adapter is made of the adapters first, which is then merged."""
        return self.method in COMBINATIONS

    def chosen(self) -> Method:
        """Return how deltas are combined; raise Fault when method and parameters disagree."""
        if self.on_factors:
            self._check_on_factors()
            return Method("linear")
        given = {
            ("lambda_" if name == "lambda" else name): v for name, v in self.parameters.items()
        }
        try:
            method = Method(self.method, **cast("dict[str, Any]", given))
            method.check_inputs(len(self.adapters))
        except (TypeError, OverflowError):
            known = METHODS[self.method].parameters
            wrong = next((name for name in self.parameters if name not in known), "parameters")
            takes = ", ".join(known) or "no parameters"
            raise Fault(("parameters", wrong), f"{wrong}: {self.method} takes {takes}") from None
        except ValueError as error:
            name = str(error).partition(":")[0]
            path = (name,) if name in _FIELDS else ("parameters", name)
            raise Fault(path, str(error)) from None
        return method

    def _check_on_factors(self) -> None:
        try:
            settings_of(self.method, self.parameters)
        except ValueError as error:
            name = str(error).partition(":")[0]
            path = (name,) if name in _FIELDS else ("parameters", name)
            raise Fault(path, str(error)) from None
        for number, one in enumerate(self.adapters):
            if one.full is not None:
                raise Fault(("adapters", number), f"{self.method} combines adapters, not {one.ref}")
            if one.weights:
                reason = f"{self.method} makes one adapter first: weights of modules are for all"
                raise Fault(("adapters", number, "weights"), reason)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that ``from_dict`` reads."""
        return {
            "base": self.base,
            "adapters": [
                {"ref": one.ref, "weight": one.weight}
                | ({"weights": _pairs(one.weights)} if one.weights else {})
                for one in self.adapters
            ],
            "method": self.method,
            "parameters": dict(self.parameters),
            "weights": _pairs(self.weights),
            "dtype": self.dtype,
            "max_shard_size": self.max_shard_size,
            "precision": self.precision,
            "tokenizer": self.tokenizer,
            "dequantize": self.dequantize,
        } | ({"allow_code": True} if self.allow_code else {})

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """Read plain values; raise Fault (a ValueError) that says which field and what of it."""
        if unknown := sorted(set(value) - _FIELDS):
            raise Fault((unknown[0],), f"the field {unknown[0]!r} is not known")
        adapters = value.get("adapters")
        if not isinstance(adapters, list) or not adapters:
            raise Fault(("adapters",), "'adapters' is not a list with one adapter or more")
        recipe = cls(
            adapters=tuple(_adapter(one, number) for number, one in enumerate(adapters)),
            base=_text(value, "base", ""),
            method=_choice(value, "method", ("linear", *METHODS, *COMBINATIONS)),
            parameters=_map(value.get("parameters"), ("parameters",)),
            weights=_weights(value.get("weights"), ("weights",)),
            dtype=_choice(value, "dtype", tuple(dtypes.OUTPUTS)) if value.get("dtype") else None,
            max_shard_size=_size(value.get("max_shard_size")),
            precision=cast("Precision", _choice(value, "precision", get_args(Precision))),
            tokenizer=_choice(value, "tokenizer", TOKENIZERS),
            dequantize=_flag(value, "dequantize"),
            allow_code=_flag(value, "allow_code"),
        )
        recipe.chosen()
        return recipe


def recipe_adapter(text: str) -> RecipeAdapter:
    """Read ``REF[=WEIGHT]`` or ``full:PATH[=WEIGHT]``; raise NameRefused."""
    prefix = FULL if text.startswith(FULL) else ""
    reference = Reference.parse(text.removeprefix(prefix))
    if reference.weight is None:
        return RecipeAdapter(text)
    return RecipeAdapter(text.rpartition("=")[0], reference.weight)


def module_weight(text: str) -> tuple[str, float]:
    """Read ``PATTERN=WEIGHT``; raise ValueError."""
    pattern, equals, number = text.rpartition("=")
    if not equals or not pattern:
        raise ValueError(f"{text!r} is not PATTERN=WEIGHT")
    try:
        weight = float(number)
    except ValueError:
        raise ValueError(f"{number!r} in {text!r} is not a number") from None
    return _weights({pattern: weight}, ("weights",))[0]


def parse_size(value: object) -> int:
    """Read bytes: a number, or text such as ``5GB`` or ``512MiB``; raise ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = _UNITS.get(match[2].upper()) if match else None
    size = 0.0 if match is None or unit is None else float(match[1]) * unit
    if not 1 <= size < 1 << 63:
        raise ValueError(f"{value!r} is not a size such as 5GB or 512MiB")
    return int(size)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file in YAML; raise RecipeRefused with the line of the mistake."""
    value, line_of = read_yaml(path)
    try:
        return Recipe.from_dict(value)
    except Fault as error:
        raise RecipeRefused(path, str(error), line=line_of(error.path)) from None


def _adapter(value: object, number: int) -> RecipeAdapter:
    path = ("adapters", number)
    try:
        if isinstance(value, str):
            return recipe_adapter(value)
        if not isinstance(value, dict) or not isinstance(value.get("ref"), str):
            raise Fault(path, f"the adapter {value!r} is neither a reference nor ref and weight")
        if unknown := sorted(set(value) - {"ref", "weight", "weights"}):
            raise Fault((*path, unknown[0]), f"the field {unknown[0]!r} of an adapter is not known")
        recipe_adapter(value["ref"])
    except NameRefused as error:
        raise Fault(path, str(error)) from None
    weight = _number(value.get("weight", 1.0), (*path, "weight"))
    return RecipeAdapter(value["ref"], weight, _weights(value.get("weights"), (*path, "weights")))


def _pairs(weights: Weights) -> list[list[str | float]]:
    """Return patterns and factors as a list: in JSON that is sorted a map's order is lost."""
    return [[pattern, weight] for pattern, weight in weights]


def _weights(value: object, path: tuple[str | int, ...]) -> Weights:
    if isinstance(value, list):
        pairs = [one for one in value if isinstance(one, list) and len(one) == 2]
        if len(pairs) < len(value) or len({str(one[0]) for one in pairs}) < len(pairs):
            raise Fault(path, f"{path[-1]!r} is not a map, nor a list of different pairs")
        value = {one[0] if isinstance(one[0], str) else None: one[1] for one in pairs}
    weights = []
    for pattern, weight in _map(value, path).items():
        if fault := pattern_fault(pattern):
            raise Fault((*path, pattern), f"the pattern {pattern!r} {fault}")
        weights.append((pattern, _number(weight, (*path, pattern))))
    return tuple(weights)


def _map(value: object, path: tuple[str | int, ...]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Fault(path, f"{path[-1]!r} is not a map")
    return value


def _number(value: object, path: tuple[str | int, ...]) -> float:
    try:
        number = float("nan" if isinstance(value, bool | str) else value)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Fault(path, f"the weight {str(value)[:60]!r} is not a finite number")
    return number


def _size(value: object) -> int | None:
    if value is None:
        return None
    try:
        return parse_size(value)
    except ValueError as error:
        raise Fault(("max_shard_size",), str(error)) from None


def _flag(value: Mapping[str, Any], name: str) -> bool:
    flag = value.get(name) or False
    if not isinstance(flag, bool):
        raise Fault((name,), f"{name!r} is neither true nor false")
    return flag


def _text(value: Mapping[str, Any], name: str, default: str) -> str:
    text = value.get(name) or default
    if not isinstance(text, str):
        raise Fault((name,), f"{name!r} is not a text")
    return text


def _choice(value: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    text = _text(value, name, choices[0])
    if text not in choices:
        listed = ", ".join(dict.fromkeys(choices))
        raise Fault((name,), f"{name!r} is {text!r} and not one of {listed}")
    return text
