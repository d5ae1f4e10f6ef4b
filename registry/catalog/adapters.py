"""What the adapters in the catalog are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from adreg.registry.catalog import sources, versions
from adreg.registry.catalog.records import AdapterFacts, Content, Source, VersionKey
from adreg.registry.catalog.schema import adapter, target, version

_OF_VERSION = frozenset({"peft_type", "rank"})  # columns of ``version``, for listings
_LISTS = frozenset({"targets", "modules_to_save"})
_OF_ADAPTER = tuple(one.name for one in fields(AdapterFacts) if one.name not in _OF_VERSION)


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """An adapter that is to be recorded, with where it came from."""

    name: str
    content: Content
    facts: AdapterFacts
    source: Source
    base_id: int | None


def add(  # noqa: PLR0913  # each is one fact of the caller's
    connection: Connection,
    name: str,
    content: Content,
    facts: AdapterFacts,
    source: Source,
    *,
    base_id: int | None,
    at: datetime,
) -> VersionKey:
    """Record an adapter as the first version of a new name, or the next one of a known name.

    Raises AlreadyExists if the name is a model's, or if these very bytes are a
    version already: ``versions.find_by_digest`` tells which.
    """
    new = NewAdapter(name, content, facts, source, base_id)
    return add_all(connection, [new], at=at)[0]


def add_all(connection: Connection, new: Sequence[NewAdapter], *, at: datetime) -> list[VersionKey]:
    """Do what ``add`` does for several adapters, each of other bytes, in as many statements."""
    common = [
        versions.NewVersion(one.name, one.content, one.base_id, one.facts.peft_type, one.facts.rank)
        for one in new
    ]
    keys = versions.insert_versions(connection, "adapter", common, at=at)
    connection.execute(
        insert(adapter), [_row(key, one.facts) for key, one in zip(keys, new, strict=True)]
    )
    leaves = [
        {"version_id": key.id, "name": leaf}
        for key, one in zip(keys, new, strict=True)
        for leaf in sorted(set(one.facts.targets))
    ]
    if leaves:
        connection.execute(insert(target), leaves)
    sources.add_first(
        connection, [(key.id, one.source) for key, one in zip(keys, new, strict=True)]
    )
    return keys


def _row(key: VersionKey, facts: AdapterFacts) -> dict[str, Any]:
    values = {name: getattr(facts, name) for name in _OF_ADAPTER}
    for mapping in ("rank_pattern", "alpha_pattern"):
        values[mapping] = dict(values[mapping])
    return {"version_id": key.id, **values}


def facts(connection: Connection, version_id: int) -> AdapterFacts:
    """Return what the adapter of this version is; the version must be one of an adapter."""
    row = connection.execute(
        select(adapter, version.c.peft_type, version.c.rank)
        .join_from(adapter, version)
        .where(adapter.c.version_id == version_id)
    ).one()
    values = {one.name: getattr(row, one.name) for one in fields(AdapterFacts)}
    return AdapterFacts(**values | {name: tuple(values[name]) for name in _LISTS})
