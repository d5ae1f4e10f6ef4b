"""What the catalog needs of a database, whichever it is: the two implementers stand beside this.

``sqlite.SqliteDatabase`` is one file of ours; ``server.ServerDatabase`` is any
other SQLAlchemy URL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from adreg.registry.errors import AdregError


class Database(Protocol):
    """One database; making one touches neither disk nor network."""

    @property
    def where(self) -> str:
        """Its file or URL for a person to read, without a password."""

    @property
    def lock(self) -> Path:
        """The file that is locked while the schema is changed."""

    def exists(self) -> bool:
        """Tell whether there is anything that could be read."""

    def reader(self) -> Engine:
        """Return the engine whose transactions only look."""

    def writer(self) -> Engine:
        """Return the engine whose transactions hold the write lock from their begin on."""

    def migrator(self) -> Engine:
        """Return an engine like ``writer`` that creates the database and keeps no foreign keys."""

    def mend(self, error: DBAPIError) -> bool:
        """Undo what a killed writer left, if that is why a read failed; True to read again."""

    @property
    def file(self) -> Path:
        """The one file that it is; raise CatalogError where it is none."""

    def is_damaged(self) -> bool:
        """Tell whether the file cannot be read as a database; raise as ``file``."""

    def copy(self, target: Path) -> None:
        """Copy the database as it was last committed into a new, durable file; raise AdregError."""

    def backup(self, revision: str) -> Path | None:
        """Copy the database as it was last committed, durably; None where adreg cannot."""

    def faults(self, connection: Connection) -> list[str]:
        """Return the broken foreign keys, after a migration that did not keep them."""

    def explain(self, error: DBAPIError) -> AdregError:
        """Return what a user should hear of an error of the driver."""
