"""What can be asked of a version in a search: fields, as conditions of SQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from sqlalchemy import ColumnElement, and_, exists, false, func, not_, or_, select, union_all

from adreg.registry.catalog.grammar import All, Comparison, Either, Node, Not, Word
from adreg.registry.catalog.schema import (
    adapter,
    alias,
    base,
    base_alias,
    fold,
    metric,
    model,
    note,
    tag,
    target,
    version,
)
from adreg.registry.errors import SearchRefused

Condition = ColumnElement[bool]

_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(k|m|g|b|t|kb|mb|gb|tb|kib|mib|gib)?", re.IGNORECASE)
_UNITS = {
    "": 1,
    **dict.fromkeys(("k", "kb"), 10**3),
    **dict.fromkeys(("m", "mb"), 10**6),
    **dict.fromkeys(("g", "gb", "b"), 10**9),
    **dict.fromkeys(("t", "tb"), 10**12),
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_AGO = re.compile(r"(\d+)([dwmy])")
_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}

_SPECIAL: Mapping[str, Callable[[], Condition]] = {
    "dora": lambda: _flagged(adapter.c.use_dora),
    "rslora": lambda: _flagged(adapter.c.use_rslora),
    "model": lambda: version.c.kind == "model",
    "adapter": lambda: version.c.kind == "adapter",
}
"""Values of ``type:`` that are no PEFT type."""


@dataclass(frozen=True, slots=True)
class _Search:
    """One search: its text, for messages, and whether it is asked of ``few`` versions only."""

    text: str
    few: bool

    def has(self, table: Any, *where: Condition) -> Condition:  # noqa: ANN401  # a version's table
        # A list of ids is made once, from the table's own index: right for 100,000
        # versions, of each of which a correlated EXISTS would ask again. For a few
        # thousand the list is what costs.
        if self.few:
            return exists().where(table.c.version_id == version.c.id, *where)
        return version.c.id.in_(select(table.c.version_id).where(*where))

    def wrong(self, place: int, reason: str) -> NoReturn:
        raise SearchRefused(self.text, place, reason)

    def number(self, asked: Comparison) -> float:
        found = _NUMBER.fullmatch(asked.value)
        if found is None:
            self.wrong(asked.at, f"{asked.value!r} is not a number, such as 16 or 1.5GB")
        return float(found[1]) * _UNITS[(found[2] or "").lower()]

    def days(self, asked: Comparison) -> tuple[datetime, datetime]:
        """Return the first moment of a day (or month, year), and of the one after."""
        if found := _AGO.fullmatch(asked.value):
            past = timedelta(days=int(found[1]) * _DAYS[found[2]])
            moment = datetime.now(timezone.utc) - past
            return moment, moment
        parts = asked.value.split("-")
        try:
            year, month, day = (*map(int, parts), *(1, 1))[:3] if len(parts) < 4 else (0, 0, 0)
            start = datetime(year, month, day, tzinfo=timezone.utc)
        except ValueError:
            self.wrong(
                asked.at, f"{asked.value!r} is not a date, such as 2026-11-24, or 7d for ago"
            )
        if len(parts) == 1:
            return start, start.replace(year=year + 1)
        if len(parts) == 2:
            following = (year, month + 1) if month < 12 else (year + 1, 1)
            return start, datetime(*following, 1, tzinfo=timezone.utc)
        return start, start + timedelta(days=1)


def condition(node: Node, text: str, *, few: bool = False) -> Condition:
    """Return the condition on a version that a search is; raise SearchRefused.

    ``few`` says that another condition leaves only some thousand versions to ask it of.
    """
    return _condition(node, _Search(text, few))


def is_indexed(node: Node) -> bool:
    """Tell whether an index, or a small table, gives the versions for which this part holds."""
    if isinstance(node, Either):
        return all(map(is_indexed, node.parts))
    if not isinstance(node, Comparison) or node.operator == "!=":
        return False
    if node.field == "type":
        return node.operator in {":", "="} and node.value.lower() in {"dora", "rslora"}
    return node.field in _INDEXED or (node.field == "name" and node.operator == "=")


def _condition(node: Node, search: _Search) -> Condition:
    match node:
        case All():
            return and_(*(_condition(one, search) for one in node.parts))
        case Either():
            return or_(*(_condition(one, search) for one in node.parts))
        case Not():
            # What is not known is not so: NOT of NULL would be neither.
            return not_(_known(_condition(node.one, search)))
        case Word():
            return _word(node.text, search)
        case Comparison():
            return _compared(node, search)


def _known(one: Condition) -> Condition:
    return func.coalesce(one, false())


def _word(text: str, search: _Search) -> Condition:
    word = fold(text)
    return or_(
        version.c.name_key.contains(word, autoescape=True),
        search.has(note, note.c.folded.contains(word, autoescape=True)),
        search.has(tag, tag.c.folded.contains(word, autoescape=True)),
    )


def _compared(asked: Comparison, search: _Search) -> Condition:
    if asked.field.startswith("metric."):
        name = asked.field.removeprefix("metric.")
        value = _ordered(metric.c.value, asked, search.number(asked))
        return search.has(metric, metric.c.name == name, value)
    if (make := _FIELDS.get(asked.field)) is None:
        known = ", ".join([*_FIELDS, "metric.NAME"])
        search.wrong(asked.start, f"there is no field {asked.field!r}; there are {known}")
    return make(asked, search)


def _ordered(column: ColumnElement[Any], asked: Comparison, value: object) -> Condition:
    match asked.operator:
        case ":" | "=":
            return column == value
        case "!=":
            return column != value
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
        case ">=":
            return column >= value


def _number(column: ColumnElement[Any]) -> Callable[[Comparison, _Search], Condition]:
    return lambda asked, search: _ordered(column, asked, search.number(asked))


def _created(asked: Comparison, search: _Search) -> Condition:
    start, end = search.days(asked)
    created = version.c.created_at
    match asked.operator:
        case ">":
            return created >= end
        case ">=":
            return created >= start
        case "<":
            return created < start
        case "<=":
            return created < end
        case "!=":
            return or_(created < start, created >= end)
        case _:
            return and_(created >= start, created < end)


def _text(
    asked: Comparison, search: _Search, find: Callable[[Callable[[Any], Condition]], Condition]
) -> Condition:
    """Compare text: ``:`` asks for a part of it, ``=`` for all of it, whatever the case."""
    word = fold(asked.value)
    if asked.operator == ":":
        return find(lambda column: column.contains(word, autoescape=True))
    if asked.operator == "=":
        return find(lambda column: column == word)
    if asked.operator == "!=":
        return not_(_known(find(lambda column: column == word)))
    return search.wrong(asked.start, f"{asked.field} is text, which {asked.operator} cannot order")


def _name(asked: Comparison, search: _Search) -> Condition:
    return _text(asked, search, lambda test: test(version.c.name_key))


def _base(asked: Comparison, search: _Search) -> Condition:
    def find(test: Callable[[Any], Condition]) -> Condition:
        named = select(base.c.id).where(test(base.c.name_key))
        known_as = select(base_alias.c.base_id).where(test(base_alias.c.name_key))
        hinted = _of_adapter(test(_lowered(adapter.c.base_hint)))
        unknown = version.c.base_id.is_(None)
        # One list of ids, not two: SQLite serves each side of the OR by its index then.
        return or_(version.c.base_id.in_(union_all(named, known_as)), and_(unknown, hinted))

    return _text(asked, search, find)


def _type(asked: Comparison, search: _Search) -> Condition:
    if (special := _SPECIAL.get(asked.value.lower())) is not None and asked.operator in {":", "="}:
        return special()
    return _text(asked, search, lambda test: test(_lowered(version.c.peft_type)))


def _tag(asked: Comparison, search: _Search) -> Condition:
    if asked.operator not in {":", "=", "!="}:
        search.wrong(asked.start, f"a tag is there or not, which {asked.operator} does not order")
    key, equals, value = asked.value.partition("=")
    same = [tag.c.key == key, *([tag.c.value == value] if equals else [])]
    found = search.has(tag, *same)
    return not_(found) if asked.operator == "!=" else found


def _target(asked: Comparison, search: _Search) -> Condition:
    def find(test: Callable[[Any], Condition]) -> Condition:
        return search.has(target, test(_lowered(target.c.name)))

    if asked.operator == ":":
        return search.has(target, target.c.name == asked.value)
    return _text(asked, search, find)


def _alias(asked: Comparison, search: _Search) -> Condition:
    return _text(asked, search, lambda test: search.has(alias, test(_lowered(alias.c.name))))


def _note(asked: Comparison, search: _Search) -> Condition:
    return _text(asked, search, lambda test: search.has(note, test(note.c.folded)))


def _column(column: ColumnElement[Any]) -> Callable[[Comparison, _Search], Condition]:
    return lambda asked, search: _text(asked, search, lambda test: test(_lowered(column)))


def _adapter(column: ColumnElement[Any]) -> Callable[[Comparison, _Search], Condition]:
    def make(asked: Comparison, search: _Search) -> Condition:
        return _of_adapter(_ordered(column, asked, search.number(asked)))

    return make


def _task(asked: Comparison, search: _Search) -> Condition:
    return _text(asked, search, lambda test: _of_adapter(test(_lowered(adapter.c.task_type))))


def _method(asked: Comparison, search: _Search) -> Condition:
    return _text(asked, search, lambda test: search.has(model, test(_lowered(model.c.method))))


def _lowered(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.lower(column)


def _flagged(column: ColumnElement[bool]) -> Condition:
    # Few are, and their index holds all that is asked.
    return version.c.id.in_(select(adapter.c.version_id).where(column))


def _of_adapter(one: Condition) -> Condition:
    # One row for each version, found by its key; a list would read every configuration.
    return exists().where(adapter.c.version_id == version.c.id, one)


_INDEXED = frozenset({"base", "rank", "target", "tag", "alias", "size", "parameters", "created"})

_FIELDS: Mapping[str, Callable[[Comparison, _Search], Condition]] = {
    "name": _name,
    "base": _base,
    "type": _type,
    "rank": _number(version.c.rank),
    "alpha": _adapter(adapter.c.alpha),
    "target": _target,
    "task": _task,
    "tag": _tag,
    "alias": _alias,
    "note": _note,
    "licence": _column(version.c.licence),
    "license": _column(version.c.licence),
    "dtype": _column(version.c.dtype),
    "size": _number(version.c.bytes),
    "parameters": _number(version.c.parameters),
    "version": _number(version.c.number),
    "created": _created,
    "method": _method,
}
"""Each field of a search, and how it is asked."""

FIELDS = (*_FIELDS, "metric.NAME")
"""The fields by name, for help and docs."""
