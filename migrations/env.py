"""What Alembic runs: on the connection that adreg gives it, or on a scratch one for a developer.

Alembic loads this file by its path, so every import is absolute.
"""

from __future__ import annotations

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from adreg.registry.catalog.schema import Moment, metadata
from adreg.registry.catalog.sqlite import protect_history


def migrate(connection: Connection) -> None:
    """Run the command that Alembic was given, in the transaction that the connection is in."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_item=written_out,
        # SQLite cannot change a column: a table is copied and takes the old one's name.
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def written_out(kind: str, item: object, context: AutogenContext) -> str | Literal[False]:
    """Write a type of ours as what it is in SQL, since a revision imports nothing of ours."""
    del context
    return "sa.String(27)" if kind == "type" and isinstance(item, Moment) else False


def scratch() -> Connection:
    """Return a database in memory at the head, for ``revision --autogenerate`` to compare with."""
    script = ScriptDirectory.from_config(context.config)
    connection = create_engine("sqlite://", poolclass=NullPool).connect()
    migration = MigrationContext.configure(connection)
    with Operations.context(migration):
        for revision in reversed(list(script.walk_revisions())):
            revision.module.upgrade()
    migration.stamp(script, "head")
    return connection


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
    # Not in a revision: a batch operation drops a table with its triggers.
    protect_history(given)
else:
    with scratch() as opened:
        migrate(opened)
