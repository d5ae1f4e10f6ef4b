"""Names in the catalog: one namespace for adapters and models, whatever the case of letters."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from adreg.registry.catalog import blobs, keys
from adreg.registry.catalog.parts import in_parts
from adreg.registry.catalog.records import Kind, Series, VersionKey
from adreg.registry.catalog.schema import fold, series, version
from adreg.registry.errors import AlreadyExists, NotFound

_LOOKED_AT = 1000
"""Names that a suggestion is chosen from, so that a typo costs the same in any catalog."""
_LAST = "\U0010ffff"


def find(connection: Connection, name: str) -> Series | None:
    """Return the series of this name, in whatever case it is written."""
    row = connection.execute(select(series).where(series.c.name_key == fold(name))).one_or_none()
    return None if row is None else _series(row)


def get(connection: Connection, name: str) -> Series:
    """Return the series of this name; raise NotFound with the nearest names."""
    found = find(connection, name)
    if found is None:
        raise NotFound("adapter or model", name, close_names(connection, name))
    return found


def claim(connection: Connection, name: str, kind: Kind, at: datetime) -> tuple[Series, int]:
    """Return the series of this name, made if need be, and the next number of its versions.

    Raises AlreadyExists if the name is one of the other kind.
    """
    return claim_all(connection, [name], kind, at)[0]


def claim_all(
    connection: Connection, names: Sequence[str], kind: Kind, at: datetime
) -> list[tuple[Series, int]]:
    """Do what ``claim`` does for several names, in their order; a name may come twice."""
    spelled = {fold(name): name for name in reversed(names)}
    known = _by_key(connection, spelled)
    for found in known.values():
        if found.kind != kind:
            raise AlreadyExists(found.kind, found.name)
    new = [
        {"name": name, "name_key": key, "kind": kind, "last_number": 0, "created_at": at}
        for key, name in spelled.items()
        if key not in known
    ]
    if new:
        connection.execute(insert(series), new)
        known |= _by_key(connection, spelled.keys() - known.keys())
    claimed = [known[fold(name)] for name in names]
    wanted = Counter(found.id for found in claimed)
    more = update(series).where(series.c.id == bindparam("of"))
    more = more.values(last_number=series.c.last_number + bindparam("more"))
    connection.execute(more, [{"of": of, "more": count} for of, count in wanted.items()])
    numbers: dict[int, int] = {}
    last = select(series.c.id, series.c.last_number)
    for part in in_parts(wanted):
        for of, number in connection.execute(last.where(series.c.id.in_(part))):
            numbers[of] = number - wanted[of]
    return [(found, _next(numbers, found.id)) for found in claimed]


def rename(connection: Connection, old: Series, name: str) -> Series:
    """Give a series another name, or the same in another case; raise AlreadyExists."""
    found = find(connection, name)
    if found is not None and found.id != old.id:
        raise AlreadyExists(found.kind, found.name)
    key = fold(name)
    connection.execute(update(series).where(series.c.id == old.id).values(name=name, name_key=key))
    connection.execute(update(version).where(version.c.series_id == old.id).values(name_key=key))
    return Series(old.id, name, old.kind, old.created_at)


def remove(connection: Connection, gone: Series) -> tuple[str, ...]:
    """Remove a series with all its versions; return the blobs that nothing refers to any more.

    Models that were built from it keep the names and digests of their inputs. The
    name is free again, and its numbers start over.
    """
    held = blobs.of_series(connection, gone.id)
    delete_row(connection, gone.id)
    return blobs.unused(connection, held)


def delete_row(connection: Connection, series_id: int) -> None:
    """Remove a series and, by the foreign keys, all that hangs on it."""
    connection.execute(delete(series).where(series.c.id == series_id))


def versions(connection: Connection, of: Series) -> tuple[VersionKey, ...]:
    """Return the versions of a series, oldest first."""
    return keys.several(connection, version.c.series_id == of.id)


def close_names(connection: Connection, name: str) -> tuple[str, ...]:
    """Return up to three names that this one may have been meant to be, nearest first."""
    key = fold(name)
    total = connection.scalars(select(func.count()).select_from(series)).one()
    for length in (0,) if total <= _LOOKED_AT else range(min(len(key), 4), 0, -1):
        start = key[:length]
        near = select(series.c.name_key, series.c.name).order_by(series.c.name_key)
        if start:
            near = near.where(series.c.name_key.between(start, start + _LAST))
        names = {row.name_key: row.name for row in connection.execute(near.limit(_LOOKED_AT))}
        if close := difflib.get_close_matches(key, names, n=3):
            return tuple(names[match] for match in close)
    return ()


def _by_key(connection: Connection, keys: Iterable[str]) -> dict[str, Series]:
    rows = (
        row
        for part in in_parts(keys)
        for row in connection.execute(select(series).where(series.c.name_key.in_(part)))
    )
    return {row.name_key: _series(row) for row in rows}


def _next(numbers: dict[int, int], of: int) -> int:
    numbers[of] += 1
    return numbers[of]


def _series(row: Row[tuple[object, ...]]) -> Series:
    return Series(row.id, row.name, row.kind, row.created_at)
