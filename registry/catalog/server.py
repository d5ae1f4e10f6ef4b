"""The catalog in any database that SQLAlchemy has a dialect and a driver for.

It is told what SQLite is told, less what only a file has: there is no backup
before an upgrade (take one with the server's own tools), a read-only transaction is
one that nobody commits, and only the code keeps the history from being changed.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from adreg.registry.errors import AdregError, CatalogError, MissingPackage


class ServerDatabase:
    """One database behind a URL; implements ``database.Database``."""

    def __init__(self, url: URL, home: Path) -> None:
        self._url = url
        self._home = home

    @property
    def where(self) -> str:
        """The URL without its password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def lock(self) -> Path:
        """A file in the home folder: it guards against processes of this machine only."""
        return self._home / "catalog.lock"

    @cached_property
    def _engine(self) -> Engine:
        try:
            return create_engine(self._url)
        except ArgumentError as error:
            raise CatalogError(self.where, str(error), "Mend ADREG_DATABASE_URL.") from error
        except ModuleNotFoundError as error:
            raise MissingPackage(error.name or "", f"the catalog {self.where}") from error

    @property
    def file(self) -> Path:
        """Raise CatalogError: a server's files are its own."""
        raise CatalogError(
            self.where,
            "it is on a server, and only one in a file can be backed up or restored by adreg",
            "Use the server's own tools, such as pg_dump, and copy the folder of the store.",
        )

    def is_damaged(self) -> bool:
        """Raise CatalogError."""
        _ = self.file
        return False

    def copy(self, target: Path) -> None:
        """Raise CatalogError."""
        del target
        _ = self.file

    def exists(self) -> bool:
        """Tell yes: only asking the server shows more."""
        return True

    def reader(self) -> Engine:
        """Return the one engine; its transactions are rolled back."""
        return self._engine

    def writer(self) -> Engine:
        """Return the one engine; unique keys stand in for the write lock."""
        return self._engine

    def migrator(self) -> Engine:
        """Return the one engine; a server's migrations drop no rows of children."""
        return self._engine

    def mend(self, error: DBAPIError) -> bool:
        """Do nothing: a server recovers by itself."""
        del error
        return False

    def backup(self, revision: str) -> None:
        """Do nothing: a server has its own tools for that."""
        del revision

    def faults(self, connection: Connection) -> list[str]:
        """Return none: a server keeps foreign keys at all times."""
        del connection
        return []

    def explain(self, error: DBAPIError) -> AdregError:
        """Return a CatalogError with the driver's words."""
        if isinstance(error, IntegrityError):
            return CatalogError(self.where, "another process changed it meanwhile", "Try again.")
        return CatalogError(self.where, " ".join(str(error.orig).split()))
