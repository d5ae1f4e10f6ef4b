"""Where versions came from: folders, and Hub repositories at a commit."""

from __future__ import annotations

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
    connection.execute(
        insert(source).values(
            version_id=version_id,
            kind=new.kind,
            location=new.location,
            revision=new.revision,
            added_at=new.added_at,
        )
    )


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
