"""Opening the catalog: for a look, or to change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoResultFound

from adreg.registry.catalog.database import Database
from adreg.registry.catalog.revisions import Migrations, revision, shipped
from adreg.registry.catalog.server import ServerDatabase
from adreg.registry.catalog.sqlite import SqliteDatabase, empty_catalog
from adreg.registry.errors import CatalogError
from adreg.registry.settings import Settings

__all__ = ["Catalog", "Connection"]


class Catalog:
    """The catalog that the settings name. Making one touches neither disk nor network.

    Every function of this package that asks or changes something takes the
    connection that ``read`` or ``write`` gives; nothing of it is valid after the
    ``with`` block. One use case is one block.
    """

    def __init__(self, settings: Settings, migrations: Migrations | None = None) -> None:
        """Raise CatalogError for a URL that cannot be a catalog's."""
        self._database = _database(settings)
        self._migrations = migrations or shipped()

    @property
    def where(self) -> str:
        """Its file, or its URL without a password."""
        return self._database.where

    @property
    def file(self) -> Path:
        """The file that it is; raise CatalogError for one on a server."""
        return self._database.file

    def is_damaged(self) -> bool:
        """Tell whether its file cannot be read as a catalog; raise as ``file`` on a server."""
        return self._database.is_damaged()

    def require_file(self) -> None:
        """Raise CatalogError unless it is in a file that exists."""
        if not self.file.exists():
            reason = "there is none yet"
            raise CatalogError(self.where, reason, "Add something first, or check ADREG_HOME.")

    def copy(self, target: Path) -> None:
        """Copy it as it was last committed into a new, durable file, while others write.

        Raises as ``require_file``, and WriteFailed or DiskFull.
        """
        self.require_file()
        with self.read():  # an older one is upgraded, and what a killed writer left is undone
            pass
        self._database.copy(target)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a look at the catalog as it stands now: nothing in it changes, here or on disk.

        A catalog that does not exist is an empty one, and is not created. One of an
        older adreg is upgraded first, after a backup. Look and leave: a commit, by
        whomever, waits until every look that began before it has ended. Raises
        CatalogError or CatalogTooNew.
        """
        connection = self._begin_reading()
        with self._explained(), connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give the one transaction that may change the catalog, creating it if need be.

        Only ``connection.commit()`` keeps what was done; leaving by an exception or
        without it discards everything. Others may read meanwhile, and a second writer
        waits. Raises CatalogError, CatalogTooNew, WriteFailed or DiskFull.
        """
        connection = self._begin_writing()
        with self._explained(), connection:
            yield connection

    def _begin_reading(self) -> Connection:
        with self._explained():
            while self._database.exists():
                try:
                    connection, found = self._begin(self._reader)
                except DBAPIError as error:
                    if not self._database.mend(error):
                        raise
                    connection, found = self._begin(self._reader)
                if found == self._migrations.head:
                    return connection
                connection.close()
                if found is None:
                    break
                self._upgrade()
            return empty_catalog()

    def _begin_writing(self) -> Connection:
        with self._explained():
            while True:
                if self._database.exists():
                    connection, found = self._begin(self._writer)
                    if found == self._migrations.head:
                        return connection
                    connection.close()
                self._upgrade()

    def _begin(self, engine: Engine) -> tuple[Connection, str | None]:
        """Begin a transaction, and tell the schema that it sees.

        Asked inside the transaction: outside it, a newer adreg could upgrade between
        the answer and the first write.
        """
        connection = engine.connect()
        try:
            connection.begin()
            return connection, revision(connection, self.where, self._migrations)
        except BaseException:
            connection.close()
            raise

    def _upgrade(self) -> None:
        # Start-up: Alembic takes 0.3 s to import, and is needed once in a catalog's life.
        from adreg.registry.catalog.upgrade import upgrade  # noqa: PLC0415

        upgrade(self._database, self._migrations)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._database.explain(error) from error
        except NoResultFound as error:
            reason = "a row that must be there is missing"
            raise CatalogError(self.where, reason, "Put a backup in its place.") from error
        except OverflowError as error:  # sqlite3's own word for an integer beyond 64 bits
            reason = "a number that it was asked for is too large"
            raise CatalogError(self.where, reason, "Use a smaller number.") from error

    @cached_property
    def _reader(self) -> Engine:
        return self._database.reader()

    @cached_property
    def _writer(self) -> Engine:
        return self._database.writer()


def _database(settings: Settings) -> Database:
    # The default is no text to parse: to a URL, '?' and '%' in the home's path mean something.
    if settings == Settings.at(settings.home):
        return SqliteDatabase(settings.home / "catalog.sqlite")
    try:
        url = make_url(settings.database_url)
    except ArgumentError as error:
        raise CatalogError(
            "ADREG_DATABASE_URL", "it is not an SQLAlchemy URL", "Write dialect://..., or unset it."
        ) from error
    if url.get_backend_name() != "sqlite":
        return ServerDatabase(url, settings.home)
    if url.database in {None, "", ":memory:"} or url.query or url.drivername != "sqlite":
        raise CatalogError(
            url.render_as_string(),
            "an SQLite catalog is a plain file, without a driver, options or '?' in its path",
            "Write sqlite:////absolute/path.sqlite, or set ADREG_HOME.",
        )
    return SqliteDatabase(Path(url.database or "").absolute())
