"""Listings: filters, words, order and pages, at a cost that hardly grows with the catalog.

A page is found in one of two ways. A filter that few versions pass is asked first,
and the page is chosen among those. A filter that many pass is only checked while
the index of the wanted order is walked, which soon has a page together. Left to
itself SQLite, which keeps no histogram, takes the index of a filter that 60,000
versions pass and sorts those: 90 ms where the walk takes less than one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from sqlalchemy import (
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

from adreg.registry.catalog import marks
from adreg.registry.catalog.fields import condition
from adreg.registry.catalog.grammar import parse
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
    the wanted order would drive the walk. The query may find too much, never too little;
    one that is ``exact`` needs no check after it.
    """

    ids: Select[Any] | CompoundSelect[Any]
    check: ColumnElement[bool]
    exact: bool = False


def rows(connection: Connection, query: ListQuery) -> tuple[ListRow, ...]:
    """Return one page of the listing that the query asks for, in its order."""
    return _page(connection, query, _narrowed(connection, query))


def count(connection: Connection, query: ListQuery) -> int:
    """Return how many rows the query has on all its pages; this looks at each of them."""
    return _total(connection, _narrowed(connection, query))


def page(connection: Connection, query: ListQuery) -> tuple[tuple[ListRow, ...], int]:
    """Return one page, and how many rows there are on all pages."""
    narrowed = _narrowed(connection, query)
    found = _page(connection, query, narrowed)
    if query.offset == 0 and (query.limit is None or len(found) < query.limit):
        return found, len(found)
    return found, _total(connection, narrowed)


def _page(
    connection: Connection, query: ListQuery, narrowed: Sequence[ColumnElement[bool]] | None
) -> tuple[ListRow, ...]:
    if narrowed is None:
        return ()
    order = [one.desc() if query.descending else one.asc() for one in _ORDERS[query.sort]]
    if query.sort == "rank":  # a model has none, and comes last whichever way the ranks go
        order[0] = order[0].nulls_last()
    ids = select(version.c.id).where(*narrowed).order_by(*order)
    if query.limit is not None or query.offset:
        ids = ids.limit(query.limit).offset(query.offset)
    return _filled(connection, connection.scalars(ids).all())


def _total(connection: Connection, narrowed: Sequence[ColumnElement[bool]] | None) -> int:
    if narrowed is None:
        return 0
    return int(connection.scalars(select(func.count()).select_from(version).where(*narrowed)).one())


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


def _narrowed(connection: Connection, query: ListQuery) -> list[ColumnElement[bool]] | None:
    """Return the conditions of all that the query asks for, None if nothing can pass."""
    filters = list(_filters(connection, query))
    if query.where:
        asked = condition(parse(query.where), query.where)
        filters.append(_Filter(select(version.c.id).where(asked), asked, exact=True))
    conditions = [one.check for one in filters]
    if not query.all_versions:
        newer = version.alias("newer")
        conditions.append(
            ~exists().where(
                newer.c.series_id == version.c.series_id, newer.c.number > version.c.number
            )
        )
    for one in filters:
        found = set(connection.scalars(one.ids.limit(AT_ONCE + 1)))
        if not found:
            return None
        if len(found) <= AT_ONCE:
            rest = [two for two in conditions if not (one.exact and two is one.check)]
            return [version.c.id.in_(found), *rest]
    return conditions


def _filters(connection: Connection, query: ListQuery) -> Iterator[_Filter]:
    """Give the filters of a query, those that cost the most to ask last."""
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
    for word in query.text.split():
        yield _word(fold(word))


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
    in_name = version.c.name_key.contains(word, autoescape=True)
    in_note = select(note.c.version_id).where(note.c.folded.contains(word, autoescape=True))
    in_tag = select(tag.c.version_id).where(tag.c.folded.contains(word, autoescape=True))
    return _Filter(
        union_all(select(version.c.id).where(in_name), in_note, in_tag),
        or_(in_name, version.c.id.in_(in_note), version.c.id.in_(in_tag)),
    )


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
