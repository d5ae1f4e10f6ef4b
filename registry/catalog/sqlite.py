"""The catalog in one SQLite file, and all SQL that only SQLite understands."""

from __future__ import annotations

import glob
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from adreg.registry.catalog.schema import metadata
from adreg.registry.errors import AdregError, CatalogError, DiskFull, WriteFailed

BUSY_SECONDS = 30.0
"""How long one process waits for another that writes."""

_SMALLEST = 512
"""Bytes of the smallest page that a database can have."""

# SQLite's primary result codes. Python names them, and gives the code with an
# error, only from 3.11 on; 3.10 has just the sentence of sqlite3_errstr.
_BUSY, _LOCKED, _READONLY, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 11, 13, 14, 26
_PERM, _IOERR, _AUTH = 3, 10, 23
_SENTENCES = {
    "database is locked": _BUSY,
    "database table is locked": _LOCKED,
    "attempt to write a readonly database": _READONLY,
    "disk I/O error": _IOERR,
    "database disk image is malformed": _CORRUPT,
    "database or disk is full": _FULL,
    "unable to open database file": _CANTOPEN,
    "file is not a database": _NOTADB,
}

# The rollback journal for everybody, not WAL: a reader of a WAL database leaves
# -wal and -shm files behind even with mode=ro, so that a look would write; and
# SQLite 3.7.0 to 3.51.2 can corrupt a WAL database that two processes write to, while
# the mode stays in the file for every Python that opens it later. EXTRA syncs the
# folder once the journal is gone: with FULL a power cut can bring the journal back, and
# that undoes the commit (sqlite.org/pragma.html#pragma_synchronous).
_WRITER = ("PRAGMA journal_mode=DELETE", "PRAGMA synchronous=EXTRA", "PRAGMA foreign_keys=ON")
# Alembic's batch operations drop and rename tables; with foreign keys on, that
# deleted the rows of ON DELETE CASCADE children. The pragma is ignored inside
# a transaction, so it must stand here.
_MIGRATOR = (*_WRITER[:2], "PRAGMA foreign_keys=OFF")

_APPEND_ONLY = """
    CREATE TRIGGER IF NOT EXISTS history_refuses_{event} BEFORE {event} ON history
    BEGIN SELECT RAISE(ABORT, 'the history is only ever added to'); END
"""


def protect_history(connection: Connection) -> None:
    """Forbid changing or deleting history, on SQLite; migrations call it, once all is in place."""
    if connection.dialect.name == "sqlite":
        for change in ("update", "delete"):
            connection.exec_driver_sql(_APPEND_ONLY.format(event=change))


def _code(error: BaseException) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return _SENTENCES.get(str(error), 0) if code is None else code & 0xFF


def empty_catalog() -> Connection:
    """Return a connection to an empty catalog in memory that refuses every write."""
    memory = _engine(lambda: sqlite3.connect(":memory:", isolation_level=None), "BEGIN")
    connection = memory.connect()
    metadata.create_all(connection)
    connection.exec_driver_sql("PRAGMA query_only=ON")
    return connection


class SqliteDatabase:
    """One SQLite file; implements ``database.Database``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def where(self) -> str:
        """The path of the file."""
        return str(self._path)

    @property
    def lock(self) -> Path:
        """A file beside the database."""
        return self._path.with_name(f"{self._path.name}.lock")

    def exists(self) -> bool:
        """Tell whether the file exists; raise CatalogError if what is there cannot be one."""
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise CatalogError(self.where, error.strerror or str(error)) from error
        if not stat.S_ISREG(found.st_mode):
            raise CatalogError(self.where, *_REASONS[_CANTOPEN])
        # SQLite takes a file of a few bytes for an empty database, and writes over it.
        if 0 < found.st_size < _SMALLEST:
            raise CatalogError(self.where, *_REASONS[_NOTADB])
        return True

    def reader(self) -> Engine:
        """Return the engine that opens the file for reading only, and never creates it."""
        return _engine(lambda: self._open("ro", ()), "BEGIN")

    def writer(self) -> Engine:
        """Return the engine whose transactions hold the write lock from their begin on.

        A transaction that first reads and then wants to write would be refused at
        once, without waiting, if another process wrote in between.
        """
        return _engine(lambda: self._open("rw", _WRITER), "BEGIN IMMEDIATE")

    def migrator(self) -> Engine:
        """Return an engine like ``writer`` that creates the file and keeps no foreign keys."""
        return _engine(lambda: self._open("rwc", _MIGRATOR), "BEGIN IMMEDIATE")

    def mend(self, error: DBAPIError) -> bool:
        """Roll a killed writer's journal back, which a connection for reading only cannot.

        SQLite answers such a connection SQLITE_READONLY_ROLLBACK, or that it
        cannot open the file; opening for writing and reading anything does it.
        """
        if error.orig is None or _code(error.orig) not in {_READONLY, _CANTOPEN}:
            return False
        with self._explained(), closing(self._open("rw", ())) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return True

    def backup(self, revision: str) -> Path:
        """Copy the file as it was last committed to ``NAME.REVISION.TIME.bak``; raise AdregError.

        Its existence means that it is whole and durable. The copy is made by SQLite:
        closing a file of our own would drop every lock that this process has on it
        (sqlite.org/howtocorrupt.html, POSIX advisory locks).
        """
        # Start-up: 30 ms, and only an upgrade makes a backup.
        from adreg.registry.durable import fsync_folder  # noqa: PLC0415

        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
        target = self._path.with_name(f"{self._path.name}.{revision}.{stamp}.bak")
        part = target.with_name(f"{target.name}.part")
        for left in target.parent.glob(f"{glob.escape(self._path.name)}.*.bak.part"):
            left.unlink(missing_ok=True)  # of a killed upgrade: only one goes on at a time
        try:
            with self._explained():
                self._copy(part)
                part.replace(target)
                fsync_folder(target.parent)
        finally:
            part.unlink(missing_ok=True)
        return target

    @property
    def file(self) -> Path:
        """The file."""
        return self._path

    def is_damaged(self) -> bool:
        """Tell whether there is a file that SQLite cannot read as a database; change nothing."""
        try:
            if not self._path.is_file():
                return False
            if self._path.stat().st_size < _SMALLEST:
                return True
            with closing(self._open("ro", ())) as connection:
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
        except sqlite3.DatabaseError as error:
            return _code(error) in {_CORRUPT, _NOTADB}

    def copy(self, target: Path) -> None:
        """Copy the file as it was last committed into a new, durable one; raise AdregError."""
        with self._explained():
            self._copy(target)

    def _copy(self, target: Path) -> None:
        with (
            closing(self._open("ro", ())) as source,
            closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            source.backup(copy)
        target.chmod(self._path.stat().st_mode & 0o777)
        with target.open("rb+") as file:
            os.fsync(file.fileno())

    def faults(self, connection: Connection) -> list[str]:
        """Return the rows whose foreign keys lead nowhere."""
        rows = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        return [f"row {row[1]} of {row[0]} refers to nothing in {row[2]}" for row in rows]

    def explain(self, error: DBAPIError) -> AdregError:
        """Return the error that fits SQLite's code."""
        return self._error(error.orig or error)

    def _open(
        self, mode: Literal["ro", "rw", "rwc"], pragmas: tuple[str, ...]
    ) -> sqlite3.Connection:
        uri = f"{self._path.as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            for pragma in pragmas:
                connection.execute(pragma)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error
        except OSError as error:
            raise WriteFailed(self._path, error.strerror or str(error)) from error

    def _error(self, error: BaseException) -> AdregError:
        code, reason = _code(error), str(error)
        if code == _FULL:
            return DiskFull(self._path, reason)
        if code in {_READONLY, _IOERR, _PERM, _AUTH}:
            return WriteFailed(self._path, reason)
        return CatalogError(self.where, *_REASONS.get(code, (reason, "")))


_IN_USE = (
    f"another process has been writing to it for over {BUSY_SECONDS:.0f} seconds",
    "Wait until that is done, and try again.",
)
_REASONS = {
    _BUSY: _IN_USE,
    _LOCKED: _IN_USE,
    _CORRUPT: (
        "the file is damaged",
        "Put a backup in its place, or keep what `sqlite3 FILE .recover` can read.",
    ),
    _CANTOPEN: ("it cannot be opened", "Check that it is a file and that you may read it."),
    _NOTADB: (
        "it is not an SQLite database",
        "Move that file away, or set ADREG_HOME or ADREG_DATABASE_URL.",
    ),
}


def _engine(connect: Callable[[], sqlite3.Connection], begin: str) -> Engine:
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    # isolation_level=None stops sqlite3 from beginning transactions of its own, so
    # that DDL is part of them and BEGIN IMMEDIATE is what we say it is
    # (docs.sqlalchemy.org, dialects/sqlite: serializable isolation with pysqlite).
    def send_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "begin", send_begin)

    return engine
