"""Bringing a catalog's schema to the newest revision, without losing a row.

Everything here is slow to import; ``engine`` does so once it knows that there is
something to do.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from filelock import FileLock, Timeout
from sqlalchemy import Connection, func, inspect, select, table
from sqlalchemy.exc import DBAPIError

from adreg.registry.catalog.database import Database
from adreg.registry.catalog.revisions import VERSION_TABLE, Migrations, revision
from adreg.registry.durable import fsync_folder, write_error
from adreg.registry.errors import CatalogError, WriteFailed

_LOCK_SECONDS = 600


def upgrade(database: Database, migrations: Migrations) -> None:
    """Create the schema, or bring it to the head after a backup; all of it or nothing.

    Any number of processes may do it at once: one works, the others then find
    nothing to do. Raises CatalogTooNew, CatalogError, WriteFailed or DiskFull; the
    database is then as it was.
    """
    lock = FileLock(database.lock, timeout=_LOCK_SECONDS)
    try:
        _make_folder(database.lock.parent)
        with lock, database.migrator().connect() as connection:
            _upgrade_locked(connection, database, migrations)
    except Timeout as error:
        raise CatalogError(
            database.where,
            f"another process has been upgrading it for over {_LOCK_SECONDS} seconds",
            "Wait until that is done, and try again.",
        ) from error
    except DBAPIError as error:
        raise database.explain(error) from error
    except OSError as error:
        raise write_error(database.lock, error) from error


def _upgrade_locked(connection: Connection, database: Database, migrations: Migrations) -> None:
    connection.begin()
    found = revision(connection, database.where, migrations)
    if found == migrations.head:
        return
    copy = database.backup(found) if found is not None else None
    try:
        before = _row_counts(connection)
        _migrate(connection, migrations)
        faults = [*_lost_rows(before, _row_counts(connection)), *database.faults(connection)]
        if faults:
            raise CatalogError(database.where, "; ".join(faults[:5]))  # noqa: TRY301
        connection.commit()
    except BaseException as error:
        # What was is still there, so the copy of it would only be one more at every try.
        connection.rollback()
        if copy is not None:
            copy.unlink(missing_ok=True)
        if not isinstance(error, Exception):
            raise
        cause = database.explain(error) if isinstance(error, DBAPIError) else error
        if isinstance(cause, WriteFailed):
            raise cause from error
        raise CatalogError(
            database.where,
            f"its schema could not be brought from {found or 'nothing'} to {migrations.head}:"
            f" {cause.reason if isinstance(cause, CatalogError) else cause}",
            "It is as it was before; report this, and use the adreg that wrote it until then.",
        ) from error


def _make_folder(folder: Path) -> None:
    """Create a folder and those above it; a power cut must not take the catalog with its folder."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync_folder(path.parent)


def _migrate(connection: Connection, migrations: Migrations) -> None:
    config = Config(attributes={"connection": connection})
    # Config is a ConfigParser, to which a lone % is the start of a variable.
    config.set_main_option("script_location", str(migrations.folder()).replace("%", "%%"))
    command.upgrade(config, "head")


def _row_counts(connection: Connection) -> dict[str, int]:
    names = [name for name in inspect(connection).get_table_names() if name != VERSION_TABLE]
    count = select(func.count())
    return {name: connection.scalars(count.select_from(table(name))).one() for name in names}


def _lost_rows(before: dict[str, int], after: dict[str, int]) -> list[str]:
    return [
        f"{name} had {rows} rows and has {after[name]}"
        for name, rows in before.items()
        if name in after and after[name] < rows
    ]
