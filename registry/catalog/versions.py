"""Versions of either kind: recording their bytes, finding them, removing them."""

from __future__ import annotations

import difflib
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from adreg.registry.catalog import blobs, keys, series
from adreg.registry.catalog.records import Content, Kind, Series, VersionKey
from adreg.registry.catalog.schema import alias, file, fold, version
from adreg.registry.digest import FileDigest
from adreg.registry.errors import AlreadyExists, NotFound
from adreg.registry.names import LATEST, Reference

_HIGHEST = 2**31 - 1
"""The largest number that an Integer column of any database can be asked for."""
_LOOKED_AT = 1000


def insert_version(  # noqa: PLR0913  # one row has as many columns
    connection: Connection,
    name: str,
    kind: Kind,
    content: Content,
    *,
    base_id: int | None,
    at: datetime,
    peft_type: str | None = None,
    rank: int | None = None,
) -> VersionKey:
    """Record what adapters and models have in common; ``adapters`` and ``models`` add the rest.

    Raises AlreadyExists if the name is one of the other kind, or if these very bytes
    are a version already.
    """
    known = find_by_digest(connection, kind, content.digest)
    if known is not None:
        raise AlreadyExists(kind, str(known), "It is the same, byte for byte.")
    parent, number = series.claim(connection, name, kind, at)
    values = {
        "series_id": parent.id,
        "name_key": fold(parent.name),
        "kind": kind,
        "number": number,
        "digest": content.digest,
        "bytes": content.bytes,
        "parameters": content.parameters,
        "dtype": content.dtype,
        "licence": content.licence,
        "base_id": base_id,
        "peft_type": peft_type,
        "rank": rank,
        "created_at": at,
    }
    connection.execute(insert(version).values(values))
    version_id = connection.scalars(
        select(version.c.id).where(version.c.digest == content.digest, version.c.kind == kind)
    ).one()
    rows = [
        {"version_id": version_id, "name": one.name, "sha256": one.sha256, "size": one.size}
        for one in content.files
    ]
    if rows:
        connection.execute(insert(file), rows)
    return VersionKey(version_id, parent.id, parent.name, number, kind, content.digest)


def find_by_digest(connection: Connection, kind: Kind, digest: str) -> VersionKey | None:
    """Return the version that is made of these bytes, or None."""
    return keys.one(connection, version.c.digest == digest, version.c.kind == kind)


def resolve(connection: Connection, reference: Reference) -> VersionKey:
    """Return the version that a reference by name means; the newest if it does not say.

    Raises NotFound with the nearest names, or the nearest versions and aliases.
    """
    parent = series.get(connection, reference.name)
    here = version.c.series_id == parent.id
    if not reference.selector or reference.selector == LATEST:
        found = keys.newest(connection, parent.id)
    elif reference.number is None:
        chosen = select(alias.c.version_id).where(
            alias.c.series_id == parent.id, alias.c.name == reference.selector
        )
        found = keys.one(connection, version.c.id.in_(chosen))
    else:
        number = min(reference.number, _HIGHEST)
        found = keys.one(connection, here, version.c.number == number)
    if found is None:
        close = _close_selectors(connection, parent, reference.selector)
        raise NotFound("version", f"{parent.name}@{reference.selector}", close)
    return found


def files(connection: Connection, version_id: int) -> tuple[FileDigest, ...]:
    """Return the files that a version is made of, sorted by name."""
    rows = connection.execute(
        select(file.c.name, file.c.sha256, file.c.size)
        .where(file.c.version_id == version_id)
        .order_by(file.c.name)
    )
    return tuple(FileDigest(*row) for row in rows)


def set_base(connection: Connection, version_id: int, base_id: int | None) -> None:
    """Say which base a version belongs to, or that none is known."""
    connection.execute(update(version).where(version.c.id == version_id).values(base_id=base_id))


def remove(connection: Connection, key: VersionKey) -> tuple[str, ...]:
    """Remove one version; return the blobs that nothing refers to any more (see ``blobs``).

    Its number is never given again. Its aliases go too. Models that were built from
    it keep its name, number and digest. The last version takes its series along.
    """
    held = blobs.of_version(connection, key.id)
    connection.execute(delete(version).where(version.c.id == key.id))
    if keys.newest(connection, key.series_id) is None:
        series.delete_row(connection, key.series_id)
    return blobs.unused(connection, held)


def _close_selectors(connection: Connection, parent: Series, selector: str) -> tuple[str, ...]:
    names = connection.scalars(
        select(alias.c.name).where(alias.c.series_id == parent.id).limit(_LOOKED_AT)
    ).all()
    close = difflib.get_close_matches(selector, names, n=3)
    newest = keys.newest(connection, parent.id)
    numbers = [] if newest is None or close else [str(newest.number)]
    return tuple(f"{parent.name}@{text}" for text in [*close, *numbers])
