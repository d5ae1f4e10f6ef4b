"""The bases that adapters are made for: their names, their identity, their files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select, update

from adreg.registry.catalog.parts import in_parts
from adreg.registry.catalog.records import BaseFacts, BaseFile, BaseRecord
from adreg.registry.catalog.schema import base, base_alias, base_file, fold
from adreg.registry.errors import AlreadyExists, NotFound

_LOOKED_AT = 1000
_FACTS = tuple(one.name for one in fields(BaseFacts))


def add(  # noqa: PLR0913  # each is one fact of the caller's
    connection: Connection,
    name: str,
    facts: BaseFacts,
    *,
    aliases: Iterable[str],
    files: Iterable[BaseFile],
    at: datetime,
) -> BaseRecord:
    """Record a base under a new name, with the other names it is known by; raise AlreadyExists.

    Two bases may share another name (two revisions of one repository do).
    """
    if (known := find(connection, name)) is not None:
        raise AlreadyExists("base", known.name)
    values = {one: getattr(facts, one) for one in _FACTS} | {"location": str(facts.location)}
    key = fold(name)
    connection.execute(insert(base).values(name=name, name_key=key, created_at=at, **values))
    base_id = connection.scalars(select(base.c.id).where(base.c.name_key == key)).one()
    add_aliases(connection, base_id, aliases)
    set_files(connection, base_id, files)
    return _records(connection, base.c.id == base_id)[0]


def add_aliases(connection: Connection, base_id: int, names: Iterable[str]) -> None:
    """Let a base be known by more names; those that it has already are left as they are."""
    known = set(
        connection.scalars(select(base_alias.c.name_key).where(base_alias.c.base_id == base_id))
    )
    for name in names:
        if (key := fold(name)) not in known:
            known.add(key)
            connection.execute(insert(base_alias).values(base_id=base_id, name=name, name_key=key))


def every(connection: Connection) -> tuple[BaseRecord, ...]:
    """Return all bases, by name."""
    return _records(connection)


def find(connection: Connection, name: str) -> BaseRecord | None:
    """Return the base of this very name, in whatever case; other names do not count."""
    found = _records(connection, base.c.name_key == fold(name))
    return found[0] if found else None


def known_as(connection: Connection, name: str) -> tuple[BaseRecord, ...]:
    """Return the bases that have this name or other name, the very name first."""
    mine = base.c.name_key == fold(name)
    other = base.c.id.in_(select(base_alias.c.base_id).where(base_alias.c.name_key == fold(name)))
    found = _records(connection, mine | other)
    return tuple(sorted(found, key=lambda one: fold(one.name) != fold(name)))


def resolve(connection: Connection, name: str) -> BaseRecord:
    """Return the base that a user means: by its name, or by another name that only it has.

    Raises NotFound with the nearest names, or with all names that it could mean.
    """
    found = known_as(connection, name)
    if not found:
        names = connection.scalars(select(base.c.name).limit(_LOOKED_AT)).all()
        close = difflib.get_close_matches(name, names, n=3)
        raise NotFound("base", name, tuple(close), "`adreg base list` shows those that are known.")
    if len(found) > 1 and fold(found[0].name) != fold(name):
        raise NotFound("single base", name, tuple(one.name for one in found))
    return found[0]


def find_by_layout(connection: Connection, layout_digest: str) -> tuple[BaseRecord, ...]:
    """Return the bases whose tensors have these names, dtypes and shapes, by name."""
    return _records(connection, base.c.layout_digest == layout_digest)


def find_by_location(connection: Connection, location: Path) -> tuple[BaseRecord, ...]:
    """Return the bases that lie in this folder, by name."""
    return _records(connection, base.c.location == str(location))


def get(connection: Connection, base_id: int) -> BaseRecord:
    """Return the base with this id; there must be one."""
    return _records(connection, base.c.id == base_id)[0]


def replace_facts(connection: Connection, base_id: int, facts: BaseFacts) -> None:
    """Record what a base is and where it lies after it was looked at again."""
    values = {one: getattr(facts, one) for one in _FACTS} | {"location": str(facts.location)}
    connection.execute(update(base).where(base.c.id == base_id).values(values))


def files(connection: Connection, base_id: int) -> tuple[BaseFile, ...]:
    """Return the files of a base as they were last seen, by path."""
    rows = connection.execute(
        select(base_file.c.path, base_file.c.size, base_file.c.mtime_ns, base_file.c.sha256)
        .where(base_file.c.base_id == base_id)
        .order_by(base_file.c.path)
    )
    return tuple(BaseFile(*row) for row in rows)


def set_files(connection: Connection, base_id: int, seen: Iterable[BaseFile]) -> None:
    """Record the files of a base as they are now.

    A digest that the caller does not know is kept from before, if the size and the
    time of change are the same; else it is forgotten.
    """
    before = {(one.path, one.size, one.mtime_ns): one.sha256 for one in files(connection, base_id)}
    connection.execute(delete(base_file).where(base_file.c.base_id == base_id))
    rows = [
        {
            "base_id": base_id,
            "path": one.path,
            "size": one.size,
            "mtime_ns": one.mtime_ns,
            "sha256": one.sha256 or before.get((one.path, one.size, one.mtime_ns)),
        }
        for one in seen
    ]
    if rows:
        connection.execute(insert(base_file), rows)


def _records(connection: Connection, *where: ColumnElement[bool]) -> tuple[BaseRecord, ...]:
    rows = connection.execute(select(base).where(*where).order_by(base.c.name_key)).all()
    names: dict[int, tuple[str, ...]] = {}
    query = select(base_alias.c.base_id, base_alias.c.name).order_by(base_alias.c.name_key)
    for part in in_parts(row.id for row in rows):
        for base_id, name in connection.execute(query.where(base_alias.c.base_id.in_(part))):
            names[base_id] = (*names.get(base_id, ()), name)
    return tuple(_record(row, names.get(row.id, ())) for row in rows)


def _record(row: Row[Any], aliases: tuple[str, ...]) -> BaseRecord:
    values = {one: getattr(row, one) for one in _FACTS} | {"location": Path(row.location)}
    return BaseRecord(row.id, row.name, BaseFacts(**values), aliases, row.created_at)
