"""Which revision a catalog's schema has, asked without Alembic, which is slow to start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, String, column, inspect, select, table

from adreg.registry.errors import CatalogError, CatalogTooNew

REVISIONS = ("0001", "0002", "0003")
"""Every revision, oldest first; a test compares them with the files in ``migrations``."""

VERSION_TABLE = "alembic_version"

_NOT_OURS = (
    "it is a database, but not adreg's",
    "Move it away, or set ADREG_HOME or ADREG_DATABASE_URL.",
)


@dataclass(frozen=True, slots=True)
class Migrations:
    """A line of revisions, oldest first, and the folder that Alembic finds them in."""

    revisions: tuple[str, ...]
    folder: Callable[[], Path]

    @property
    def head(self) -> str:
        """The newest revision."""
        return self.revisions[-1]


def shipped() -> Migrations:
    """Return the migrations that are installed with adreg."""
    return Migrations(REVISIONS, _shipped_folder)


def _shipped_folder() -> Path:
    import importlib.resources  # noqa: PLC0415  # start-up: only an upgrade asks

    return Path(str(importlib.resources.files("adreg.migrations")))


def revision(connection: Connection, where: str, migrations: Migrations) -> str | None:
    """Return the revision of the schema, None where there is no table at all.

    Raises CatalogTooNew for a revision that this adreg does not know, CatalogError
    for a database that holds something else, DBAPIError when it cannot be read.
    """
    inspector = inspect(connection)
    if not inspector.has_table(VERSION_TABLE):
        if inspector.get_table_names():
            raise CatalogError(where, *_NOT_OURS)
        return None
    stamp = table(VERSION_TABLE, column("version_num", String))
    found = connection.scalars(select(stamp.c.version_num)).all()
    if len(found) != 1 or not inspector.has_table("series"):
        raise CatalogError(where, *_NOT_OURS)
    if found[0] not in migrations.revisions:
        raise CatalogTooNew(
            where,
            f"its schema is {found[0]}, and this adreg knows up to {migrations.head}",
            "Use the newer adreg that wrote it: pip install --upgrade adreg.",
        )
    return str(found[0])
