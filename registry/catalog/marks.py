"""What people say of versions: aliases, tags, notes and metrics."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from adreg.registry.catalog import keys
from adreg.registry.catalog.parts import in_parts
from adreg.registry.catalog.records import Marks, Metric, Note, Series, VersionKey
from adreg.registry.catalog.schema import alias, fold, metric, note, tag, version
from adreg.registry.errors import NotFound
from adreg.registry.names import Tag


def set_alias(
    connection: Connection, key: VersionKey, name: str, at: datetime
) -> VersionKey | None:
    """Let an alias name a version; return the version of the series that it named before."""
    here = (alias.c.series_id == key.series_id) & (alias.c.name == name)
    before = keys.one(connection, version.c.id.in_(select(alias.c.version_id).where(here)))
    if before is None:
        connection.execute(
            insert(alias).values(
                series_id=key.series_id, name=name, version_id=key.id, updated_at=at
            )
        )
    elif before.id != key.id:
        connection.execute(update(alias).where(here).values(version_id=key.id, updated_at=at))
    return before


def remove_alias(connection: Connection, of: Series, name: str) -> VersionKey:
    """Remove an alias of a series; return the version that it named. Raises NotFound."""
    here = (alias.c.series_id == of.id) & (alias.c.name == name)
    before = keys.one(connection, version.c.id.in_(select(alias.c.version_id).where(here)))
    if before is None:
        known = connection.scalars(select(alias.c.name).where(alias.c.series_id == of.id)).all()
        raise NotFound("alias", f"{of.name}@{name}", _close(name, known))
    connection.execute(delete(alias).where(here))
    return before


def set_tag(connection: Connection, version_id: int, new: Tag) -> Tag | None:
    """Tag a version; return the tag of the same key that it had before."""
    here = (tag.c.version_id == version_id) & (tag.c.key == new.key)
    old = connection.execute(select(tag.c.key, tag.c.value).where(here)).one_or_none()
    values = {"value": new.value, "folded": fold(str(new))}
    if old is None:
        connection.execute(insert(tag).values(version_id=version_id, key=new.key, **values))
        return None
    connection.execute(update(tag).where(here).values(values))
    return Tag(*old)


def remove_tag(connection: Connection, key: VersionKey, name: str) -> Tag:
    """Remove the tag with this key from a version; return it. Raises NotFound."""
    here = (tag.c.version_id == key.id) & (tag.c.key == name)
    old = connection.execute(select(tag.c.key, tag.c.value).where(here)).one_or_none()
    if old is None:
        known = connection.scalars(select(tag.c.key).where(tag.c.version_id == key.id)).all()
        raise NotFound(f"tag of {key}", name, _close(name, known))
    connection.execute(delete(tag).where(here))
    return Tag(*old)


def add_note(connection: Connection, version_id: int, text: str, at: datetime) -> None:
    """Leave a remark on a version."""
    connection.execute(
        insert(note).values(version_id=version_id, text=text, folded=fold(text), created_at=at)
    )


def add_metric(
    connection: Connection, version_id: int, name: str, value: float, at: datetime
) -> None:
    """Record a measured number of a version; raise ValueError unless it is finite.

    SQLite would store NaN as NULL, and nothing sorts by infinity.
    """
    if not math.isfinite(value):
        raise ValueError(f"the metric {name} is {value}, not a finite number")
    connection.execute(
        insert(metric).values(version_id=version_id, name=name, value=value, recorded_at=at)
    )


def of(connection: Connection, version_id: int) -> Marks:
    """Return all that was said of a version."""
    notes = connection.execute(
        select(note.c.text, note.c.created_at)
        .where(note.c.version_id == version_id)
        .order_by(note.c.id)
    )
    metrics = connection.execute(
        select(metric.c.name, metric.c.value, metric.c.recorded_at)
        .where(metric.c.version_id == version_id)
        .order_by(metric.c.name, metric.c.id)
    )
    return Marks(
        aliases=aliases(connection, [version_id]).get(version_id, ()),
        tags=tags(connection, [version_id]).get(version_id, ()),
        notes=tuple(Note(*row) for row in notes),
        metrics=tuple(Metric(*row) for row in metrics),
    )


def aliases(connection: Connection, version_ids: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Return the aliases of each of these versions that has any."""
    found: dict[int, tuple[str, ...]] = {}
    query = select(alias.c.version_id, alias.c.name).order_by(alias.c.name)
    for part in in_parts(version_ids):
        for version_id, name in connection.execute(query.where(alias.c.version_id.in_(part))):
            found[version_id] = (*found.get(version_id, ()), name)
    return found


def tags(connection: Connection, version_ids: Iterable[int]) -> dict[int, tuple[Tag, ...]]:
    """Return the tags of each of these versions that has any."""
    found: dict[int, tuple[Tag, ...]] = {}
    query = select(tag.c.version_id, tag.c.key, tag.c.value).order_by(tag.c.key)
    for part in in_parts(version_ids):
        for version_id, key, value in connection.execute(query.where(tag.c.version_id.in_(part))):
            found[version_id] = (*found.get(version_id, ()), Tag(key, value))
    return found


def _close(name: str, known: Iterable[str]) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(name, list(known), n=3))
