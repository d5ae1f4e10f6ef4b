"""Versions of either kind: recording their bytes, finding them, removing them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from adreg.registry.catalog import blobs, keys, series
from adreg.registry.catalog.parts import in_parts
from adreg.registry.catalog.records import Content, Kind, Series, VersionKey
from adreg.registry.catalog.schema import alias, file, fold, version
from adreg.registry.digest import FileDigest
from adreg.registry.errors import AlreadyExists, NotFound
from adreg.registry.names import LATEST, Reference

_HIGHEST = 2**31 - 1
"""The largest number that an Integer column of any database can be asked for."""
_LOOKED_AT = 1000


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What adapters and models have in common of a version that is to be recorded."""

    name: str
    content: Content
    base_id: int | None
    peft_type: str | None = None
    rank: int | None = None


def insert_versions(
    connection: Connection, kind: Kind, new: Sequence[NewVersion], *, at: datetime
) -> list[VersionKey]:
    """Record what adapters and models have in common; ``adapters`` and ``models`` add the rest.

    The versions, each of other bytes, take no more statements than one. Raises
    AlreadyExists if a name is one of the other kind, or if bytes are a version already.
    """
    digests = [one.content.digest for one in new]
    if known := next(iter(find_by_digests(connection, kind, digests).values()), None):
        raise AlreadyExists(kind, str(known), "It is the same, byte for byte.")
    claimed = series.claim_all(connection, [one.name for one in new], kind, at)
    rows = [
        {
            "series_id": parent.id,
            "name_key": fold(parent.name),
            "kind": kind,
            "number": number,
            "digest": one.content.digest,
            "bytes": one.content.bytes,
            "parameters": one.content.parameters,
            "dtype": one.content.dtype,
            "licence": one.content.licence,
            "base_id": one.base_id,
            "peft_type": one.peft_type,
            "rank": one.rank,
            "created_at": at,
        }
        for one, (parent, number) in zip(new, claimed, strict=True)
    ]
    connection.execute(insert(version), rows)
    made = find_by_digests(connection, kind, digests)
    keys_made = [made[digest] for digest in digests]
    parts_of = [
        {"version_id": key.id, "name": part.name, "sha256": part.sha256, "size": part.size}
        for key, one in zip(keys_made, new, strict=True)
        for part in one.content.files
    ]
    if parts_of:
        connection.execute(insert(file), parts_of)
    return keys_made


def find_by_digest(connection: Connection, kind: Kind, digest: str) -> VersionKey | None:
    """Return the version that is made of these bytes, or None."""
    return find_by_digests(connection, kind, [digest]).get(digest)


def find_by_digests(
    connection: Connection, kind: Kind, digests: Iterable[str]
) -> dict[str, VersionKey]:
    """Return the versions that are made of these bytes, those that are known, by digest."""
    found = (
        key
        for part in in_parts(digests)
        for key in keys.several(connection, version.c.digest.in_(part), version.c.kind == kind)
    )
    return {key.digest: key for key in found}


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
