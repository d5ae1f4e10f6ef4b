"""Reading VersionKeys, the handles that everything else is asked by."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, select

from adreg.registry.catalog.records import VersionKey
from adreg.registry.catalog.schema import series, version

_COLUMNS = select(
    version.c.id,
    version.c.series_id,
    series.c.name,
    version.c.number,
    version.c.kind,
    version.c.digest,
).join_from(version, series)


def one(connection: Connection, *where: ColumnElement[bool]) -> VersionKey | None:
    """Return the only version for which all of this holds, or None."""
    row = connection.execute(_COLUMNS.where(*where)).one_or_none()
    return None if row is None else VersionKey(*row)


def newest(connection: Connection, series_id: int) -> VersionKey | None:
    """Return the version with the highest number of a series, or None."""
    mine = _COLUMNS.where(version.c.series_id == series_id)
    row = connection.execute(mine.order_by(version.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else VersionKey(*row)


def several(connection: Connection, *where: ColumnElement[bool]) -> tuple[VersionKey, ...]:
    """Return the versions for which all of this holds, by name and number."""
    rows = connection.execute(_COLUMNS.where(*where).order_by(version.c.name_key, version.c.number))
    return tuple(VersionKey(*row) for row in rows)
