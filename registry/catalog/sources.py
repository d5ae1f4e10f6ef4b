"""Where versions came from: folders, and Hub repositories at a commit."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, insert, select

from adreg.registry.catalog import keys
from adreg.registry.catalog.records import Source, SourceKind, VersionKey
from adreg.registry.catalog.schema import source, version


def add(connection: Connection, version_id: int, new: Source) -> None:
    """Record that a version came from here too; a source that is known is left as it is."""
    if (new.kind, new.location, new.revision) in {
        (known.kind, known.location, known.revision) for known in of(connection, version_id)
    }:
        return
    add_first(connection, [(version_id, new)])


def add_first(connection: Connection, new: Iterable[tuple[int, Source]]) -> None:
    """Record where versions came from that are themselves new, each by its id."""
    rows = [
        {
            "version_id": version_id,
            "kind": one.kind,
            "location": one.location,
            "revision": one.revision,
            "added_at": one.added_at,
        }
        for version_id, one in new
    ]
    connection.execute(insert(source), rows)


def of(connection: Connection, version_id: int) -> tuple[Source, ...]:
    """Return where a version came from, in the order in which it became known."""
    rows = connection.execute(
        select(source.c.kind, source.c.location, source.c.added_at, source.c.revision)
        .where(source.c.version_id == version_id)
        .order_by(source.c.id)
    )
    return tuple(Source(*row) for row in rows)


def find(
    connection: Connection, kind: SourceKind, location: str, revision: str | None = None
) -> tuple[VersionKey, ...]:
    """Return the versions that came from a place, at one revision of it or at any."""
    there = (source.c.kind == kind) & (source.c.location == location)
    if revision is not None:
        there &= source.c.revision == revision
    return keys.several(connection, version.c.id.in_(select(source.c.version_id).where(there)))
