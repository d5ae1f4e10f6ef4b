"""The renamings of transformers 5, as data: which of them a model of an architecture has.

``names.json`` beside this file is generated from transformers 5.23 (conversion_mapping.py
and every model class of its auto mappings); a test compares it with the installed
version. Nothing of transformers is imported here, and no model is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_TABLE = "names.json"


@dataclass(frozen=True, slots=True)
class Architecture:
    """What transformers 5.23 has under the name of a model class.

    ``prefix`` is where a headed class keeps its bare model (``base_model_prefix``);
    ``firsts`` the first parts of all its names in memory; ``head`` and ``embedding`` the
    names in memory of the weights of its output head and input embedding, None without;
    ``inside`` the models that it holds: path, class, model type, keys of its configuration.
    """

    prefix: str
    firsts: frozenset[str]
    head: str | None
    embedding: str | None
    inside: tuple[tuple[str, str, str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One conversion from names on disk to names in memory.

    ``expression`` has a named group ``g0``, ``g1``, ... for each source; ``operations`` are
    those of transformers that change tensors, none for a mere renaming. A scoped step acts
    only below ``scope``, with or without the prefix of the outer model before it.
    """

    expression: re.Pattern[str]
    targets: tuple[str, ...]
    operations: tuple[str, ...]
    scope: str | None = None
    prefix: str = ""

    @property
    def sources(self) -> int:
        """The number of names on disk that one name in memory is made of."""
        return sum(re.fullmatch(r"g\d+", group) is not None for group in self.expression.groupindex)

    def match(self, name: str) -> Match | None:
        """Return where the step acts on a name, None when it leaves it as it is."""
        before = ""
        if self.scope is not None:
            scope = f"{self.scope}." if self.scope else ""
            outer = f"{self.prefix}.{scope}" if self.prefix else scope
            if not name.startswith((outer, scope)):
                return None
            before = outer if name.startswith(outer) else scope
        found = self.expression.search(name[len(before) :])
        if found is None:
            return None
        group = next(key for key, value in found.groupdict().items() if value is not None)
        return Match(before, name[len(before) :], found, group)


@dataclass(frozen=True, slots=True)
class Match:
    """A name that a step acts on."""

    before: str
    name: str
    found: re.Match[str]
    group: str

    @property
    def source(self) -> int:
        """The number of the source that matched."""
        return int(self.group[1:])

    @property
    def text(self) -> str:
        """What of the name matched."""
        return self.found.group(0)

    def renamed(self, target: str) -> str:
        r"""Return the name with a target in the place of what matched, its ``\1`` filled in."""
        if r"\1" in target:
            captured = self.found.re.groupindex[self.group] + 1
            target = target.replace(r"\1", self.found.group(captured))
        return self.before + self.name.replace(self.text, target, 1)


def architecture(name: str | None) -> Architecture | None:
    """Return what is known of a model class, None for one that transformers does not have."""
    row = _table()["architectures"].get(name)
    if row is None:
        return None
    prefix, firsts, head, embedding, inside = row
    return Architecture(
        prefix, frozenset(firsts), head, embedding, tuple(tuple(one) for one in inside)
    )


def steps(name: str | None, model_type: str | None, config: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the conversions of a model of this class, model type and configuration, in order.

    As transformers 5.23's get_model_conversion_mapping finds them on a built model: those
    of the class, else of the model type, of the model itself and of each model inside.
    """
    known = architecture(name)
    prefix = known.prefix if known else ""
    found: list[Step] = []
    seen: dict[str, list[str]] = {}
    for path, kind, kind_of_config in _models(name, model_type, config):
        rows = _claimed(path, kind, kind_of_config, seen)
        scope = None
        if path:
            scope = path.removeprefix(prefix).removeprefix(".")
        found += [_step(row, scope, prefix) for row in rows]
    return (*found, *(_step(row, None, "") for row in _table()["transforms"]["legacy"]))


def _claimed(path: str, kind: str, model_type: str, seen: dict[str, list[str]]) -> list[Any]:
    """Return the rows of one model, none where one that holds it has claimed them."""
    transforms = _table()["transforms"]
    if _below(path, seen.get(kind, ())):
        return []
    if kind in transforms:
        seen.setdefault(kind, []).append(path)
        return list(transforms[kind])
    if model_type not in transforms or _below(path, seen.get(model_type, ())):
        return []
    seen.setdefault(kind, []).append(path)
    seen.setdefault(model_type, []).append(path)
    return list(transforms[model_type])


def _below(path: str, others: list[str] | tuple[()]) -> bool:
    return any(other == "" or path.startswith(f"{other}.") for other in others)


def parts(
    name: str | None, model_type: str | None, config: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """Return path in memory and model type of a model and of all inside it, as far as known."""
    return tuple((path, kind) for path, _, kind in _models(name, model_type, config))


def _models(
    name: str | None, model_type: str | None, config: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Give path, class and model type of a model and of all inside it.

    A part whose configuration names another model type than the class's default is the
    class that AutoModel would build for it.
    """
    yield path, name or "", model_type or ""
    known = architecture(name)
    replaced: list[str] = []
    for below, kind, default, keys in known.inside if known else ():
        if _below(below, replaced):
            continue
        inner = config
        for key in keys.split(".") if keys else ():
            value = inner.get(key)
            inner = value if isinstance(value, Mapping) else {}
        actual = inner.get("model_type") if keys else default
        full = f"{path}.{below}" if path else below
        if isinstance(actual, str) and actual != default:
            replaced.append(below)
            yield from _models(_table()["base_classes"].get(actual), actual, inner, full)
        else:
            yield full, kind, default


def _step(row: list[Any], scope: str | None, prefix: str) -> Step:
    expression, targets, operations = row
    return Step(_compiled(expression), tuple(targets), tuple(operations), scope, prefix)


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name(_TABLE).read_text("utf-8"))
    return table
