"""What the adapters in the catalog are."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime

from sqlalchemy import Connection, insert, select

from adreg.registry.catalog import sources, versions
from adreg.registry.catalog.records import AdapterFacts, Content, Source, VersionKey
from adreg.registry.catalog.schema import adapter, target, version

_OF_VERSION = frozenset({"peft_type", "rank"})  # columns of ``version``, for listings
_LISTS = frozenset({"targets", "modules_to_save"})
_OF_ADAPTER = tuple(one.name for one in fields(AdapterFacts) if one.name not in _OF_VERSION)


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
    key = versions.insert_version(
        connection,
        name,
        "adapter",
        content,
        base_id=base_id,
        at=at,
        peft_type=facts.peft_type,
        rank=facts.rank,
    )
    values = {name: getattr(facts, name) for name in _OF_ADAPTER}
    for mapping in ("rank_pattern", "alpha_pattern"):
        values[mapping] = dict(values[mapping])
    connection.execute(insert(adapter).values(version_id=key.id, **values))
    if leaves := sorted(set(facts.targets)):
        rows = [{"version_id": key.id, "name": leaf} for leaf in leaves]
        connection.execute(insert(target), rows)
    sources.add(connection, key.id, source)
    return key


def facts(connection: Connection, version_id: int) -> AdapterFacts:
    """Return what the adapter of this version is; the version must be one of an adapter."""
    row = connection.execute(
        select(adapter, version.c.peft_type, version.c.rank)
        .join_from(adapter, version)
        .where(adapter.c.version_id == version_id)
    ).one()
    values = {one.name: getattr(row, one.name) for one in fields(AdapterFacts)}
    return AdapterFacts(**values | {name: tuple(values[name]) for name in _LISTS})
