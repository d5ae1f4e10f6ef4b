"""All that the catalog knows of one version, put together."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from adreg.registry.catalog import adapters, bases, keys, marks, models, sources, versions
from adreg.registry.catalog.records import AdapterVersion, Content, ModelVersion, VersionKey
from adreg.registry.catalog.schema import version


def either(connection: Connection, key: VersionKey) -> AdapterVersion | ModelVersion:
    """Return all that is known of a version, of whichever kind it is."""
    return adapter(connection, key) if key.kind == "adapter" else model(connection, key)


def adapter(connection: Connection, key: VersionKey) -> AdapterVersion:
    """Return all that is known of a version of an adapter."""
    facts = adapters.facts(connection, key.id)
    return AdapterVersion(**_common(connection, key), facts=facts)


def model(connection: Connection, key: VersionKey) -> ModelVersion:
    """Return all that is known of a model."""
    facts = models.facts(connection, key.id)
    inputs = models.inputs(connection, key.id)
    return ModelVersion(**_common(connection, key), facts=facts, inputs=inputs)


def _common(connection: Connection, key: VersionKey) -> dict[str, Any]:
    row = connection.execute(select(version).where(version.c.id == key.id)).one()
    content = Content(
        digest=row.digest,
        bytes=row.bytes,
        parameters=row.parameters,
        dtype=row.dtype,
        files=versions.files(connection, key.id),
        licence=row.licence,
    )
    newest = keys.newest(connection, key.series_id)
    return {
        "key": key,
        "content": content,
        "base": None if row.base_id is None else bases.get(connection, row.base_id),
        "marks": marks.of(connection, key.id),
        "sources": sources.of(connection, key.id),
        "models": models.built_from(connection, key.id),
        "latest": newest is not None and newest.id == key.id,
        "created_at": row.created_at,
    }
