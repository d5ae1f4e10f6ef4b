"""Which blobs of the store, and which folders beside it, the catalog still refers to.

Only the files of adapters are blobs; those of a model lie in its own folder.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from adreg.registry.catalog.parts import in_parts
from adreg.registry.catalog.schema import base, file, model, version

_of_adapters = select(file.c.sha256).join_from(file, version).where(version.c.kind == "adapter")


def every(connection: Connection) -> dict[str, int]:
    """Return the SHA-256 and the size of every blob that an adapter refers to."""
    rows = connection.execute(_of_adapters.add_columns(file.c.size).distinct())
    return {row.sha256: row.size for row in rows}


def unused(connection: Connection, digests: Iterable[str]) -> tuple[str, ...]:
    """Return those of the digests that no adapter refers to, sorted.

    A blob may go only after the removal was committed, and while a write
    transaction is open in which this was asked: until it ends, no other process
    can add an adapter that is made of it.
    """
    wanted = set(digests)
    used: set[str] = set()
    for part in in_parts(sorted(wanted)):
        used.update(connection.scalars(_of_adapters.where(file.c.sha256.in_(part)).distinct()))
    return tuple(sorted(wanted - used))


def of_series(connection: Connection, series_id: int) -> frozenset[str]:
    """Return the blobs that the adapters of one series refer to."""
    return frozenset(connection.scalars(_of_adapters.where(version.c.series_id == series_id)))


def of_version(connection: Connection, version_id: int) -> frozenset[str]:
    """Return the blobs that one version refers to; none for a model."""
    return frozenset(connection.scalars(_of_adapters.where(version.c.id == version_id)))


def folders(connection: Connection) -> frozenset[str]:
    """Return the folders in which the catalog says that models and bases lie."""
    bases = select(base.c.location).where(base.c.source_kind == "path")
    return frozenset(connection.scalars(bases.union(select(model.c.location))))
