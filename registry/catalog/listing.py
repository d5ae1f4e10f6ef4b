"""Listings: filters, words, order and pages, at a cost that hardly grows with the catalog.

A page is found in one of two ways. Of the filters that an index can count, the one that
the fewest versions pass leads: its index gives the versions, and only those are checked
and sorted. Where all of them pass too many, they are checked while the index of the
wanted order is walked, which soon has a page together. Left to itself SQLite, which keeps
no histogram, takes the index of a filter that 60,000 versions pass and sorts those: 90 ms
where the walk takes less than one.

What carries it: ``ix_version_name_key_number``, ``_created_at``, ``_bytes``,
``_parameters`` and ``_rank`` the order; ``ix_version_base_id``, ``_rank``, ``_peft_type``,
``ix_adapter_base_hint``, ``_use_dora`` and ``_use_rslora``, ``ix_target_name``,
``ix_alias_name`` and ``ix_tag_key_value`` the filters; ``uq_version_series_id_number`` the
newest of a name. A word may stand anywhere in a name, a note or a tag, which no index of
whole texts can find: it walks the index of names, and the notes and tags that were
written. tests/catalog/test_query_plans.py holds all this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import (
    BinaryExpression,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    and_,
    exists,
    func,
    or_,
    select,
    union_all,
)
from sqlalchemy.sql import operators

from adreg.registry.catalog import marks
from adreg.registry.catalog.fields import condition, is_indexed
from adreg.registry.catalog.grammar import Either, Node, Word, parse, parts
from adreg.registry.catalog.parts import AT_ONCE, in_parts
from adreg.registry.catalog.records import Counts, Kind, ListQuery, ListRow, SortKey, VersionKey
from adreg.registry.catalog.schema import (
    adapter,
    alias,
    base,
    base_alias,
    fold,
    model,
    note,
    series,
    tag,
    target,
    version,
)
from adreg.registry.names import Tag

Found = Literal["counted", "walked", "asked"]

_MANY = 20_000
"""Versions from which on a filter does not lead: to look up each costs as much as to pass all."""

_ORDERS: dict[SortKey, tuple[ColumnElement[Any], ...]] = {
    "name": (version.c.name_key, version.c.number),
    "created": (version.c.created_at, version.c.id),
    "bytes": (version.c.bytes, version.c.id),
    "parameters": (version.c.parameters, version.c.id),
    "rank": (version.c.rank, version.c.id),
}
_ROWS = (
    select(
        version.c.id,
        version.c.series_id,
        series.c.name,
        version.c.number,
        version.c.kind,
        version.c.digest,
        version.c.bytes,
        version.c.parameters,
        version.c.dtype,
        version.c.licence,
        version.c.created_at,
        base.c.name.label("base"),
        adapter.c.base_hint,
        version.c.peft_type,
        version.c.rank,
        adapter.c.alpha,
        adapter.c.targets,
        model.c.method,
        model.c.location,
    )
    .join_from(version, series)
    .outerjoin(base)
    .outerjoin(adapter)
    .outerjoin(model, model.c.version_id == version.c.id)
)


@dataclass(frozen=True, slots=True)
class _Filter:
    """One condition, twice: as a query for the ids that may pass it, and as a check of a version.

    The check is written so that no index can serve it (``column + 0``), or it and not
    the wanted order would drive the walk. The query may find too much, never too little.
    One that is ``counted``, by an index alone, may lead; one that is ``exact`` needs no
    check then. One that is ``walked``, along an index, may lead to find out whether few
    pass. ``of_few`` is the check as it is cheapest when another leads.
    """

    ids: Select[Any] | CompoundSelect[Any]
    check: ColumnElement[bool]
    found: Found = "counted"
    exact: bool = False
    of_few: ColumnElement[bool] | None = None


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """The conditions of all that a query asks for.

    ``led`` says that a filter leads, ``all_names`` that the newest version of every name
    passes, ``none`` that no version does. ``probe`` is the conditions as they are cheapest
    to ask for a few versions, in no order.
    """

    conditions: tuple[ColumnElement[bool], ...]
    probe: tuple[ColumnElement[bool], ...] = ()
    led: bool = False
    all_names: bool = False
    none: bool = False


def rows(connection: Connection, query: ListQuery) -> tuple[ListRow, ...]:
    """Return one page of the listing that the query asks for, in its order."""
    ids = _ordered(query, _narrowed(connection, query, AT_ONCE))
    if query.limit is not None or query.offset:
        ids = ids.limit(query.limit).offset(query.offset)
    return _filled(connection, connection.scalars(ids).all())


def count(connection: Connection, query: ListQuery) -> int:
    """Return how many rows the query has on all its pages; this looks at each of them."""
    return _total(connection, _narrowed(connection, query, _MANY))


def page(connection: Connection, query: ListQuery) -> tuple[tuple[ListRow, ...], int]:
    """Return one page, and how many rows there are on all pages."""
    narrowed = _narrowed(connection, query, _MANY)
    if narrowed.none:
        return (), 0
    few = None if narrowed.led or narrowed.all_names else _few(connection, narrowed)
    ids = _ordered(query, narrowed if few is None else few)
    # Where the versions are looked at one by one anyway, some hundred tell the total too.
    end = None if query.limit is None else query.offset + query.limit
    asked = end if end is None or not narrowed.led else max(end, AT_ONCE + 1)
    found = connection.scalars(ids if asked is None else ids.limit(asked)).all()
    shown = _filled(connection, found[query.offset : end])
    if asked is None or len(found) < asked:
        return shown, len(found)
    return shown, _total(connection, narrowed if few is None else few)


def _ordered(query: ListQuery, narrowed: _Narrowed) -> Select[Any]:
    order = [one.desc() if query.descending else one.asc() for one in _ORDERS[query.sort]]
    if query.sort == "rank":  # a model has none, and comes last whichever way the ranks go
        order[0] = order[0].nulls_last()
    return select(version.c.id).where(*narrowed.conditions).order_by(*order)


def _few(connection: Connection, narrowed: _Narrowed) -> _Narrowed | None:
    """Return the versions that pass, if they are few: only those are then put in order."""
    passing = select(version.c.id).where(*narrowed.probe).limit(AT_ONCE + 1)
    found = connection.scalars(passing).all()
    return None if len(found) > AT_ONCE else _Narrowed((version.c.id.in_(found),), led=True)


def _total(connection: Connection, narrowed: _Narrowed) -> int:
    query = select(func.count())
    if narrowed.all_names:
        return int(connection.scalars(query.select_from(series)).one())
    return int(connection.scalars(query.select_from(version).where(*narrowed.conditions)).one())


def counts(connection: Connection) -> Counts:
    """Return how much the catalog holds."""
    names = dict.fromkeys(get_args(Kind), 0)
    each = names.copy()
    for table, found in ((series, names), (version, each)):
        query = select(table.c.kind, func.count()).group_by(table.c.kind)
        found.update((kind, total) for kind, total in connection.execute(query))
    return Counts(
        adapters=names["adapter"],
        adapter_versions=each["adapter"],
        models=names["model"],
        model_versions=each["model"],
        bases=connection.scalars(select(func.count()).select_from(base)).one(),
    )


def _narrowed(connection: Connection, query: ListQuery, many: int) -> _Narrowed:
    """Return the conditions of all that the query asks for; fewer than ``many`` pass a leader."""
    filters = list(_filters(connection, query))
    newer = version.alias("newer")
    newest = ~exists().where(
        newer.c.series_id == version.c.series_id, newer.c.number > version.c.number
    )
    last = () if query.all_versions else (newest,)
    if not filters:
        return _Narrowed(last, all_names=not query.all_versions)
    some, leader = many, None
    for one in filters:
        if one.found == "counted" and (found := _count_some(connection, one, some)) < some:
            some, leader = found, one
    if leader is not None:
        return _Narrowed((*_led(filters, leader), *last), led=True, none=some == 0)
    checks = (*(one.check for one in filters), *last)
    words = next((one for one in filters if one.found == "walked"), None)
    probe = checks if words is None else (*_led(filters, words), *last)
    return _Narrowed(checks, probe=probe)


def _led(filters: Sequence[_Filter], leader: _Filter) -> Iterator[ColumnElement[bool]]:
    yield version.c.id.in_(leader.ids)
    for one in filters:
        if one is not leader or not one.exact:
            yield one.check if one.of_few is None else one.of_few


def _count_some(connection: Connection, one: _Filter, enough: int) -> int:
    """Return how many versions may pass a filter, ``enough`` if it is that many or more."""
    some = one.ids.limit(enough).subquery()
    return int(connection.scalars(select(func.count()).select_from(some)).one())


def _filters(connection: Connection, query: ListQuery) -> Iterator[_Filter]:
    """Give the filters of a query."""
    if query.kind == "model":
        yield _Filter(select(model.c.version_id), version.c.kind == "model")
    if query.kind == "adapter":
        yield _Filter(
            select(version.c.id).where(version.c.kind == "adapter"), version.c.kind == "adapter"
        )
    if query.base:
        yield _base(connection, query.base)
    if query.peft_type:
        name = query.peft_type.upper()
        yield _Filter(
            select(version.c.id).where(version.c.peft_type == name),
            version.c.peft_type.concat("") == name,
        )
    if ranks := list(_ranks(query, version.c.rank)):
        # In the order of ranks both are one index, and the check may narrow the walk.
        checks = ranks if query.sort == "rank" else _ranks(query, version.c.rank + 0)
        yield _Filter(select(version.c.id).where(*ranks), and_(*checks))
    yield from _marks(query)
    for word in query.text.split():
        yield _word(word)
    if query.where:
        for part in parts(parse(query.where)):
            if isinstance(part, Word):
                yield _word(part.text)
                continue
            asked = condition(part, query.where)
            of_few = condition(part, query.where, few=True)
            ids = _found(part, query.where)
            found: Found = "counted" if is_indexed(part) else "asked"
            yield _Filter(ids, asked, found, exact=True, of_few=of_few)


def _found(part: Node, text: str) -> Select[Any] | CompoundSelect[Any]:
    """Return the query for the ids for which a part of a search holds, each side by its index."""
    sides = part.parts if isinstance(part, Either) and is_indexed(part) else (part,)
    each = [_ids(condition(side, text)) for side in sides]
    return each[0] if len(each) == 1 else union_all(*each)


def _ids(asked: ColumnElement[bool]) -> Select[Any]:
    """Return the query for the ids for which a condition holds; that of ``id IN (...)`` is inside.

    Around it SQLite would look up each id in the table, only to give it again.
    """
    if isinstance(asked, BinaryExpression) and asked.left is version.c.id:
        inside = getattr(asked.right, "element", None)
        if asked.operator is operators.in_op and isinstance(inside, Select):
            return inside
    return select(version.c.id).where(asked)


def _marks(query: ListQuery) -> Iterator[_Filter]:
    """Give the filters by what stands in a table of its own."""
    for name in query.targets:
        yield _Filter(
            select(target.c.version_id).where(target.c.name == name),
            exists().where(target.c.version_id == version.c.id, target.c.name == name),
        )
    if query.alias:
        yield _Filter(
            select(alias.c.version_id).where(alias.c.name == query.alias),
            exists().where(alias.c.version_id == version.c.id, alias.c.name == query.alias),
        )
    for one in query.tags:
        yield _tag(one)


def _base(connection: Connection, name: str) -> _Filter:
    key = fold(name)
    named = select(base.c.id).where(base.c.name_key == key)
    known_as = select(base_alias.c.base_id).where(base_alias.c.name_key == key)
    ids = list(connection.scalars(union_all(named, known_as)))
    return _Filter(
        union_all(
            select(version.c.id).where(version.c.base_id.in_(ids)),
            select(adapter.c.version_id).where(adapter.c.base_hint == name),
        ),
        or_(
            (version.c.base_id + 0).in_(ids),
            and_(
                version.c.base_id.is_(None),
                exists().where(adapter.c.version_id == version.c.id, adapter.c.base_hint == name),
            ),
        ),
    )


def _ranks(query: ListQuery, rank: ColumnElement[Any]) -> Iterator[ColumnElement[bool]]:
    if query.rank is not None:
        yield rank == query.rank
    if query.rank_min is not None:
        yield rank >= query.rank_min
    if query.rank_max is not None:
        yield rank <= query.rank_max


def _tag(wanted: Tag) -> _Filter:
    same = [tag.c.key == wanted.key]
    if wanted.value:
        same.append(tag.c.value == wanted.value)
    return _Filter(
        select(tag.c.version_id).where(*same),
        exists().where(tag.c.version_id == version.c.id, *same),
    )


def _word(word: str) -> _Filter:
    # As a search asks of one: the condition is the same, whichever way it was written.
    node, key = Word(word, 0), fold(word)
    ids = union_all(
        select(version.c.id).where(version.c.name_key.contains(key, autoescape=True)),
        select(note.c.version_id).where(note.c.folded.contains(key, autoescape=True)),
        select(tag.c.version_id).where(tag.c.folded.contains(key, autoescape=True)),
    )
    few = condition(node, word, few=True)
    return _Filter(ids, condition(node, word), "walked", exact=True, of_few=few)


def _filled(connection: Connection, ids: Sequence[int]) -> tuple[ListRow, ...]:
    found: dict[int, Any] = {}
    versions: dict[int, int] = {}
    for part in in_parts(ids):
        found.update(
            (row.id, row) for row in connection.execute(_ROWS.where(version.c.id.in_(part)))
        )
    each = select(version.c.series_id, func.count()).group_by(version.c.series_id)
    for part in in_parts({row.series_id for row in found.values()}):
        pairs = connection.execute(each.where(version.c.series_id.in_(part)))
        versions.update((series_id, number) for series_id, number in pairs)
    aliases, tags = marks.aliases(connection, ids), marks.tags(connection, ids)
    return tuple(
        ListRow(
            key=VersionKey(*row[:6]),
            bytes=row.bytes,
            parameters=row.parameters,
            dtype=row.dtype,
            licence=row.licence,
            created_at=row.created_at,
            base=row.base,
            base_hint=row.base_hint,
            peft_type=row.peft_type,
            rank=row.rank,
            alpha=row.alpha,
            targets=tuple(row.targets or ()),
            method=row.method,
            location=None if row.location is None else Path(row.location),
            aliases=aliases.get(row.id, ()),
            tags=tags.get(row.id, ()),
            versions=versions[row.series_id],
        )
        for row in map(found.__getitem__, ids)
    )
