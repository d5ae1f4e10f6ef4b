"""Filling a catalog with all that another one holds, in one transaction."""

# ruff: noqa: S608  # the names in the statements are those of the schema

from __future__ import annotations

from sqlalchemy import Connection, select

from adreg.registry.catalog.schema import base, history, metadata, series
from adreg.registry.catalog.sqlite import protect_history
from adreg.registry.errors import CatalogError

_AT_ONCE = 1000
_ADVICE = "Take another backup."


def is_empty(connection: Connection) -> bool:
    """Tell whether nothing was ever done to a catalog."""
    questions = (select(history.c.id), select(series.c.id), select(base.c.id))
    return not any(connection.execute(one.limit(1)).first() for one in questions)


def replace_all(connection: Connection, source: Connection, where: str) -> dict[str, int]:
    """Replace every row by those of ``source``; return how many each table has now.

    Both are SQLite catalogs of the newest schema, ``connection`` in a write transaction
    with foreign keys on. Values are copied as they are stored, and numbers that were given
    in either stay given. Raises CatalogError for a source that is damaged.
    """
    _check(source, where)
    for change in ("update", "delete"):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS history_refuses_{change}")
    for table in reversed(metadata.sorted_tables):
        connection.exec_driver_sql(f'DELETE FROM "{table.name}"')
    counts = {}
    for table in metadata.sorted_tables:
        names = ", ".join(f'"{column.name}"' for column in table.columns)
        marks = ", ".join("?" * len(table.columns))
        rows = source.exec_driver_sql(f'SELECT {names} FROM "{table.name}"')
        counts[table.name] = 0
        while part := [tuple(row) for row in rows.fetchmany(_AT_ONCE)]:
            statement = f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})'
            connection.exec_driver_sql(statement, part)
            counts[table.name] += len(part)
    for name, number in source.exec_driver_sql("SELECT name, seq FROM sqlite_sequence"):
        change = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?"
        if not connection.exec_driver_sql(change, (number, name)).rowcount:
            insert = "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)"
            connection.exec_driver_sql(insert, (name, number))
    protect_history(connection)
    return counts


def _check(source: Connection, where: str) -> None:
    """Raise CatalogError for a catalog that is damaged, or not of this schema."""
    found = source.exec_driver_sql("PRAGMA integrity_check(5)").scalars().all()
    if found != ["ok"]:
        raise CatalogError(where, "; ".join(found), _ADVICE)
    if orphan := source.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise CatalogError(where, f"a row of its table {orphan[0]} refers to nothing", _ADVICE)
    for table in metadata.sorted_tables:  # SQLite takes "x" for a text where no column is x
        has = {row[1] for row in source.exec_driver_sql(f'PRAGMA table_info("{table.name}")')}
        if lost := sorted({column.name for column in table.columns} - has):
            raise CatalogError(where, f"its table {table.name} lacks {lost[0]}", _ADVICE)
