"""adapter_config.json as typed values: PEFT's defaults, and every wrong type as a reason."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adreg.registry.adapters import refusals
from adreg.registry.adapters.spec import LoraSettings
from adreg.registry.adapters.tuners import LORA

DEFAULT_RANK = 8
DEFAULT_ALPHA = 8.0
"""LoraConfig's defaults (PEFT 0.21.2, tuners/lora/config.py): r and lora_alpha may be absent."""

_INITIAL_RANK = 12
"""AdaLoraConfig's default of init_r, which its scale is made of (tuners/adalora/config.py)."""

_BIASES = ("none", "all", "lora_only")
_MAX_PATTERN = 1000
_MAX_LAYERS = 10_000
_NESTED_REPEAT = re.compile(r"[*+}][^()]*\)[*+{]")
"""``(a+)+``: such a pattern can take exponential time, and none is needed to name a layer."""

_REPEATED_CHOICE = re.compile(r"\([^()]*\|[^()]*\)[*+{]")
"""``(a|aa)+``: likewise."""

_UNBOUNDED = re.compile(r"(?<!\\)(?:[*+]|\{\d*,\})")
_MAX_UNBOUNDED = 4
"""Each ``.*`` more multiplies the time by the length of a name."""


@dataclass(frozen=True, slots=True)
class ConfigFields:
    """What a LoRA configuration says; ``lora`` is None when a field of it is faulty."""

    lora: LoraSettings | None
    task_type: str | None
    base_hint: str | None
    base_revision: str | None
    peft_version: str | None
    modules_to_save: tuple[str, ...]
    targets: tuple[str, ...]
    """``target_modules``: names of modules, or one regular expression."""
    whole: bool
    """Whether adapters of this kind are whole parameters (LN_TUNING)."""
    parameters: tuple[str, ...]
    """``target_parameters``: ends of the names of parameters that are adapted as such."""
    rows: Mapping[str, tuple[int, ...]]
    """``trainable_token_indices``: the last names of modules and the rows that were trained
    there; the empty name stands for the input embedding."""
    reasons: tuple[str, ...]


def parse_config(config: Mapping[str, Any]) -> ConfigFields:
    """Check the types of a configuration; faults are returned as ``reasons``, never raised.

    Fields that are not known are tolerated, as PEFT 0.21.2 does (config.py,
    ``from_peft_type``); fields that are known and change what the tensors mean are not.
    """
    reader = _Reader(config)
    settings = _settings(reader) if reader.peft_type == LORA else _others(reader)
    lora = None if reader.reasons else settings
    fields = {
        name: reader.text(name)
        for name in ("task_type", "base_model_name_or_path", "revision", "peft_version")
    }
    saved = reader.names("modules_to_save", one_text=False)
    targets = reader.names("target_modules", one_text=True)
    parameters = reader.names("target_parameters", one_text=False)
    rows = reader.rows("trainable_token_indices")
    if not rows and reader.peft_type == "TRAINABLE_TOKENS":
        rows = reader.rows("token_indices")
    reader.ranges("layer_replication")
    reader.reasons += refusals.refused_settings(config)
    if reason := refusals.refused_initialisation(config):
        reader.reasons.append(reason)
    return ConfigFields(
        lora,
        fields["task_type"],
        fields["base_model_name_or_path"],
        fields["revision"],
        fields["peft_version"],
        saved,
        targets,
        reader.peft_type == "LN_TUNING",
        parameters,
        rows,
        tuple(reader.reasons),
    )


def rank_of(settings: LoraSettings, module: str) -> int:
    """Return the rank that the configuration gives to a module."""
    key = matching(tuple(settings.rank_pattern), module)
    return settings.rank if key is None else settings.rank_pattern[key]


def alpha_of(settings: LoraSettings, module: str) -> float:
    """Return the alpha that the configuration gives to a module."""
    key = matching(tuple(settings.alpha_pattern), module)
    return settings.alpha if key is None else settings.alpha_pattern[key]


def scale_of(settings: LoraSettings, module: str) -> float:
    """Return what B A is multiplied with: alpha/r, or alpha/sqrt(r) with rsLoRA.

    The module's own r and alpha count (PEFT 0.21.2, tuners/lora/layer.py, ``update_layer``).
    """
    rank, alpha = rank_of(settings, module), alpha_of(settings, module)
    return alpha / math.sqrt(rank) if settings.use_rslora else alpha / rank


def rows_of(rows: Mapping[str, tuple[int, ...]], module: str) -> tuple[int, ...] | None:
    """Return the rows that a configuration numbers for a module, None if it does not.

    Its names are ends of module names (PEFT 0.21.2, utils/other.py, ``_set_adapter`` and
    ``get_token_indices``); the list without a name is the input embedding's.
    """
    for name, numbers in rows.items():
        if name and (module == name or module.endswith(f".{name}")):
            return numbers
    return rows.get("")


def matching(patterns: tuple[str, ...], module: str) -> str | None:
    """Return the first pattern that matches (PEFT 0.21.2, utils/other.py, ``get_pattern_key``)."""
    return next((p for p in patterns if _compiled(p).match(module)), None)


# The cache of the re module holds 512 patterns, and adapters with a rank for each
# of a thousand modules exist: without this they would be compiled a million times.
@functools.lru_cache(maxsize=1 << 14)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _settings(reader: _Reader) -> LoraSettings:
    rank = reader.whole("r", DEFAULT_RANK)
    alpha = reader.number("lora_alpha", DEFAULT_ALPHA)
    alpha_pattern = {key: float(value) for key, value in reader.pattern("alpha_pattern").items()}
    if alpha == 0 and not alpha_pattern:
        reader.reasons.append("lora_alpha is 0, so that the adapter would change nothing")
    settings = LoraSettings(
        rank=rank,
        alpha=alpha,
        dropout=reader.number("lora_dropout", 0.0),
        use_rslora=reader.flag("use_rslora"),
        use_dora=reader.flag("use_dora"),
        bias=reader.bias(),
        lora_bias=reader.flag("lora_bias"),
        fan_in_fan_out=reader.flag("fan_in_fan_out"),
        rank_pattern={key: int(value) for key, value in reader.pattern("rank_pattern").items()},
        alpha_pattern=alpha_pattern,
    )
    if settings.use_dora and settings.lora_bias:
        reader.reasons.append("it sets both use_dora and lora_bias, which PEFT does not allow")
    return settings


def _others(reader: _Reader) -> LoraSettings:
    """Return the settings of another kind of adapter, as far as they are LoRA's under any name."""
    peft_type = reader.peft_type
    lycoris = peft_type in {"LOHA", "LOKR"}  # their patterns are LoRA's (tuners/lycoris_utils.py)
    rank, alpha = 0, 0.0
    if lycoris:
        rank = reader.whole("r", DEFAULT_RANK)
    elif peft_type == "ADALORA":
        rank = reader.whole("init_r", _INITIAL_RANK)
    elif reader.has_rank("r"):
        rank = reader.whole("r", 0)
    if lycoris:
        alpha = reader.number("alpha", DEFAULT_ALPHA)
    elif peft_type == "ADALORA":
        alpha = reader.number("lora_alpha", DEFAULT_ALPHA)
    ranks = reader.pattern("rank_pattern") if lycoris else {}
    alphas = reader.pattern("alpha_pattern") if lycoris else {}
    return LoraSettings(
        rank=rank,
        alpha=alpha,
        dropout=0.0,
        use_rslora=False,
        use_dora=False,
        bias=reader.bias(),
        lora_bias=False,
        fan_in_fan_out=reader.flag("fan_in_fan_out"),
        rank_pattern={key: int(value) for key, value in ranks.items()},
        alpha_pattern={key: float(value) for key, value in alphas.items()},
    )


class _Reader:
    """Read fields of a configuration; note a reason and give the default where one is wrong.

    Null stands for the default: configurations of PEFT before 0.6 write it in most fields.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.peft_type = str(config.get("peft_type", LORA))
        self.reasons: list[str] = []

    def has_rank(self, name: str) -> bool:
        return _is_rank(self._config.get(name))

    def _wrong(self, name: str, expected: str) -> None:
        value = self._config[name]
        shown = repr(value)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        self.reasons.append(f"{name} is {shown}, not {expected}")

    def whole(self, name: str, default: int) -> int:
        value = self._config.get(name)
        if value is None:
            return default
        if not _is_rank(value):
            self._wrong(name, "a whole number above 0")
            return default
        return int(value)

    def number(self, name: str, default: float) -> float:
        value = self._config.get(name)
        if value is None:
            return default
        if not _is_number(value):
            self._wrong(name, "a finite number")
            return default
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._config.get(name)
        if value is not None and not isinstance(value, bool):
            self._wrong(name, "true or false")
        return value is True

    def bias(self) -> str:
        value = self._config.get("bias")
        if value is None:
            return "none"
        if value not in _BIASES:
            self._wrong("bias", "'none', 'all' or 'lora_only'")
            return "none"
        return str(value)

    def text(self, name: str) -> str | None:
        value = self._config.get(name)
        if value is not None and not isinstance(value, str):
            self._wrong(name, "text")
            return None
        if value is not None and not value.isprintable():
            self._wrong(name, "printable text")
        return value or None

    def names(self, name: str, *, one_text: bool) -> tuple[str, ...]:
        value = self._config.get(name)
        if value is None:
            return ()
        if isinstance(value, str) and one_text:
            value = [value]
        if not isinstance(value, list) or not all(
            isinstance(item, str) and item.isprintable() for item in value
        ):
            self._wrong(name, "a list of names")
            return ()
        return tuple(dict.fromkeys(value))

    def rows(self, name: str) -> dict[str, tuple[int, ...]]:
        value = self._config.get(name)
        if value is None:
            return {}
        lists = value if isinstance(value, dict) else {"": value}
        for rows in lists.values():
            whole = isinstance(rows, list) and all(
                isinstance(row, int) and not isinstance(row, bool) and 0 <= row < 1 << 31
                for row in rows
            )
            if not whole or len(set(rows)) != len(rows):
                self._wrong(name, "a list of different row numbers, or one for each module")
                return {}
        return {str(key): tuple(rows) for key, rows in lists.items()}

    def ranges(self, name: str) -> None:
        value = self._config.get(name)
        pairs = value if isinstance(value, list) else []
        fits = all(
            isinstance(pair, list)
            and len(pair) == 2
            and all(type(number) is int and 0 <= number < _MAX_LAYERS for number in pair)
            for pair in pairs
        )
        if value is not None and (not isinstance(value, list) or not fits):
            self._wrong(name, "a list of ranges [start, stop] of layers")

    def pattern(self, name: str) -> dict[str, Any]:
        value = self._config.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._wrong(name, "an object")
            return {}
        ranks = name == "rank_pattern"
        result = {}
        for key, item in value.items():
            if not (_is_rank(item) if ranks else _is_number(item)):
                expected = "a whole number above 0" if ranks else "a finite number"
                self.reasons.append(f"{name} gives {key!r} the value {item!r}, not {expected}")
            elif reason := pattern_fault(key):
                self.reasons.append(f"{name} has the key {key[:80]!r}, which {reason}")
            else:
                result[key] = item
        return result


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of 400 digits
        return False


def pattern_fault(pattern: str) -> str | None:
    """Return what is wrong with a pattern of module names, None if it can be used."""
    if len(pattern) > _MAX_PATTERN:
        return f"is longer than {_MAX_PATTERN} characters"
    if len(_UNBOUNDED.findall(pattern)) > _MAX_UNBOUNDED:
        return f"repeats without a bound more than {_MAX_UNBOUNDED} times and could take for ever"
    if _NESTED_REPEAT.search(pattern) or _REPEATED_CHOICE.search(pattern):
        return "repeats a repetition and could take for ever"
    try:
        _compiled(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is no regular expression: {error}"
    return None
