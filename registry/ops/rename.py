"""Giving a name in the catalog another name."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.catalog import series
from adreg.registry.names import check_name
from adreg.registry.ops import history, resolve
from adreg.registry.ops.context import Context


@dataclass(frozen=True, slots=True)
class Renamed:
    """What was called ``old`` is called ``new``, with all its versions and aliases."""

    old: str
    new: str
    versions: int


def rename(context: Context, old: str, new: str) -> Renamed:
    """Rename an adapter or model. Raises NameRefused, NotFound or AlreadyExists."""
    check_name(new, "the new name")
    at = history.now()
    with context.catalog.write() as connection:
        before = resolve.name(connection, old)
        count = len(series.versions(connection, before))
        if before.name != new:
            series.rename(connection, before, new)
            history.write(connection, at, "rename", new, **{"from": before.name, "to": new})
            connection.commit()
    return Renamed(before.name, new, count)
