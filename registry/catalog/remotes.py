"""The copies of versions on the Hub: what was pushed where, what was pulled from where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select

from adreg.registry.catalog import keys
from adreg.registry.catalog.records import Remote, VersionKey
from adreg.registry.catalog.schema import remote, version

_COLUMNS = (
    remote.c.direction,
    remote.c.repo,
    remote.c.repo_type,
    remote.c.revision,
    remote.c.commit_oid,
    remote.c.digest,
    remote.c.at,
    remote.c.url,
    remote.c.subfolder,
)


def record(connection: Connection, key: VersionKey, new: Remote) -> bool:
    """Record that a version was pushed or pulled; False if the very same stands there already."""
    if _place(new) in {_place(known) for known in of(connection, key)}:
        return False
    connection.execute(
        insert(remote).values(
            version_id=key.id,
            direction=new.direction,
            repo=new.repo,
            repo_type=new.repo_type,
            subfolder=new.subfolder,
            revision=new.revision,
            commit_oid=new.commit,
            digest=new.digest,
            url=new.url,
            at=new.at,
        )
    )
    return True


def of(connection: Connection, key: VersionKey) -> tuple[Remote, ...]:
    """Return the copies of a version, oldest first."""
    mine = select(*_COLUMNS).where(remote.c.version_id == key.id).order_by(remote.c.id)
    return tuple(_remote(row) for row in connection.execute(mine))


def every(
    connection: Connection, key: VersionKey | None = None
) -> tuple[tuple[VersionKey, Remote], ...]:
    """Return all copies with their versions, oldest first; only those of one version if given."""
    rows = select(remote.c.version_id, *_COLUMNS).order_by(remote.c.id)
    if key is not None:
        rows = rows.where(remote.c.version_id == key.id)
    found = connection.execute(rows).all()
    known = {
        one.id: one
        for one in keys.several(connection, version.c.id.in_(select(remote.c.version_id)))
    }
    return tuple((known[row[0]], _remote(row[1:])) for row in found)


def _remote(row: Sequence[Any]) -> Remote:
    return Remote(*row)  # the columns stand in the order of its fields


def _place(one: Remote) -> tuple[str, ...]:
    return (
        one.direction,
        one.repo,
        one.repo_type,
        one.subfolder,
        one.revision,
        one.commit,
        one.digest,
    )
