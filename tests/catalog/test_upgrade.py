"""The schema's way from one revision to the next: all of it or nothing, and no row is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from adreg.registry.catalog import history, listing, marks, show, versions
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import HistoryEntry, ListQuery, VersionKey
from adreg.registry.catalog.revisions import REVISIONS, Migrations, shipped
from adreg.registry.catalog.schema import metadata
from adreg.registry.catalog.sqlite import empty_catalog
from adreg.registry.errors import CatalogError, CatalogTooNew
from adreg.registry.names import Reference, Tag
from adreg.registry.settings import Settings

AddAdapter = Callable[..., VersionKey]

NEXT = '''
"""One revision more."""

import os

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    """Go there."""
{body}
'''

# A batch operation copies the table, drops it and renames the copy: with foreign keys
# on, that empties every table that refers to it with ON DELETE CASCADE.
HARMLESS = """
    with op.batch_alter_table("version") as batch:
        batch.add_column(sa.Column("colour", sa.String(8), nullable=True))
        batch.alter_column("dtype", type_=sa.String(32))
    with op.batch_alter_table("history") as batch:
        batch.alter_column("actor", type_=sa.String(300))
    with op.batch_alter_table("series") as batch:
        batch.alter_column("name", type_=sa.String(200))
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Callable[[str], Migrations]:
    """Make the migrations of an adreg that has one more, whose upgrade() is given."""

    def make(body: str) -> Migrations:
        folder = tmp_path / "migrations"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(shipped().folder(), folder, dirs_exist_ok=True, ignore=ignore)
        code = NEXT.format(head=REVISIONS[-1], body=body)
        (folder / "versions" / "9999_more.py").write_text(code)
        return Migrations((*REVISIONS, "9999"), lambda: folder)

    return make


@pytest.fixture
def filled(
    catalog: Catalog,
    settings: Settings,
    add_adapter: AddAdapter,
    add_model: AddAdapter,
    now: datetime,
) -> Path:
    """Fill a catalog with something in every table that hangs on a version; return its file."""
    with catalog.write() as connection:
        keys = [add_adapter(connection, "support") for _ in range(3)]
        for number, key in enumerate(keys):
            marks.set_tag(connection, key.id, Tag("number", str(number)))
            marks.add_note(connection, key.id, f"note {number}", now)
            marks.add_metric(connection, key.id, "loss", 0.1 * number, now)
        marks.set_alias(connection, keys[-1], "prod", now)
        add_model(connection, "merged", keys[-1])
        history.append(connection, HistoryEntry(now, "me@here", "add", "support@3"))
        connection.commit()
    return settings.home / "catalog.sqlite"


def rows_of(path: Path) -> dict[str, int]:
    """Return how many rows each table of a database has."""
    with closing(sqlite3.connect(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
            for (name,) in names
            if name != "sqlite_sequence"
        }


def backups(path: Path) -> list[Path]:
    """Return the backups beside a catalog, finished or not."""
    return sorted(path.parent.glob("*.bak*"))


def test_the_list_of_revisions_is_the_folder() -> None:
    """REVISIONS names every migration in order, and each file begins with its number."""
    config = Config()
    config.set_main_option("script_location", str(shipped().folder()))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())[::-1]

    assert list(REVISIONS) == [script.revision for script in scripts]
    assert [None, *REVISIONS[:-1]] == [script.down_revision for script in scripts]
    assert all(Path(script.path).name.startswith(f"{script.revision}_") for script in scripts)


def test_the_migrations_make_what_the_schema_says(catalog: Catalog, settings: Settings) -> None:
    """Autogenerate finds no difference, and the SQL of every table and index has the same parts."""

    def parts(sql: str | None) -> set[str]:
        return {line.strip(", \t") for line in (sql or "").splitlines()}

    with catalog.write() as connection:
        assert [] == compare_metadata(MigrationContext.configure(connection), metadata)
        connection.commit()

    made = (
        "SELECT name, sql FROM sqlite_master WHERE type != 'trigger' AND name != 'alembic_version'"
    )
    with closing(sqlite3.connect(settings.home / "catalog.sqlite")) as migrated:
        got = {name: parts(sql) for name, sql in migrated.execute(made)}
    with empty_catalog() as connection:
        expected = {row.name: parts(row.sql) for row in connection.exec_driver_sql(made)}
    got.pop("sqlite_autoindex_alembic_version_1")
    assert expected == got


def test_a_developer_can_ask_alembic_itself() -> None:
    """Alembic's own command works with alembic.ini, needs no database and leaves none."""
    folder = shipped().folder()
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}

    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(folder / "alembic.ini"), "check"],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )

    assert "No new upgrade operations detected" in done.stdout, done.stderr
    assert before == {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("how", ["read", "write"])
def test_an_upgrade_keeps_every_row_and_a_copy(
    filled: Path, settings: Settings, migrations: Callable[[str], Migrations], how: str
) -> None:
    """The first use after an upgrade of adreg, even a look, upgrades a filled catalog whole."""
    before = rows_of(filled)
    (filled.parent / "catalog.sqlite.0000.then.bak.part").touch()  # left by a killed upgrade

    with getattr(Catalog(settings, migrations(HARMLESS)), how)() as connection:
        key = versions.resolve(connection, Reference.parse("support@prod"))
        known = show.adapter(connection, key)

    assert before == rows_of(filled)
    assert ("note 2", "prod") == (known.marks.notes[0].text, known.marks.aliases[0])
    assert ["merged"] == [model.name for model in known.models]
    (copy,) = backups(filled)
    assert copy.name.startswith(f"catalog.sqlite.{REVISIONS[-1]}.")
    assert copy.name.endswith(".bak")
    assert before == rows_of(copy)
    with closing(sqlite3.connect(copy)) as database:
        found = database.execute("SELECT version_num FROM alembic_version").fetchall()
        assert [(REVISIONS[-1],)] == found
        assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()


def test_a_catalog_that_is_up_to_date_is_not_copied(filled: Path, settings: Settings) -> None:
    """Nothing to do makes no backup."""
    with Catalog(settings).write() as connection:
        connection.commit()

    assert [] == backups(filled)


@pytest.mark.parametrize("change", ["UPDATE history SET actor = 'you'", "DELETE FROM history"])
@pytest.mark.parametrize("upgraded", [False, True])
def test_the_history_is_only_ever_added_to(
    filled: Path,
    settings: Settings,
    migrations: Callable[[str], Migrations],
    change: str,
    upgraded: bool,
) -> None:
    """The database refuses to change or delete history, also after its table was copied."""
    catalog = Catalog(settings, migrations(HARMLESS) if upgraded else None)
    with catalog.write() as connection, pytest.raises(DBAPIError, match="only ever added to"):
        connection.exec_driver_sql(change)

    assert 1 == rows_of(filled)["history"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            '    op.drop_table("tag")\n    op.execute("SELECT colour FROM series")',
            "no such column: colour",
        ),
        ('    op.execute("DELETE FROM tag")', "tag had 3 rows and has 0"),
        ('    op.execute("UPDATE alias SET version_id = 77")', "refers to nothing in version"),
        ('    op.drop_table("tag")\n    raise RuntimeError("of its own")', "of its own"),
    ],
    ids=["sql", "rows", "keys", "python"],
)
def test_a_migration_that_fails_changes_nothing(
    filled: Path,
    settings: Settings,
    migrations: Callable[[str], Migrations],
    body: str,
    reason: str,
) -> None:
    """Bad SQL, lost rows and broken keys all leave the file as it was, to the byte, and no copy."""
    before = filled.read_bytes()
    catalog = Catalog(settings, migrations(body))

    for open_it in (catalog.read, catalog.write):
        with pytest.raises(CatalogError, match=reason), open_it():
            pass

    assert before == filled.read_bytes()
    assert [] == backups(filled)
    with Catalog(settings).read() as connection:
        assert 2 == len(listing.rows(connection, ListQuery()))


@pytest.mark.parametrize("how", ["read", "write"])
def test_a_catalog_of_a_newer_adreg_is_left_alone(
    filled: Path, settings: Settings, migrations: Callable[[str], Migrations], how: str
) -> None:
    """An older adreg says that the schema is newer than it, and touches no byte."""
    with Catalog(settings, migrations(HARMLESS)).write() as connection:
        connection.commit()
    before = filled.read_bytes()
    copies = backups(filled)

    with pytest.raises(CatalogTooNew, match="9999"), getattr(Catalog(settings), how)():
        pass

    assert before == filled.read_bytes()
    assert copies == backups(filled)


USE = """
import sys
from pathlib import Path
from adreg.registry.catalog import series
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.revisions import REVISIONS, Migrations
from adreg.registry.settings import Settings
home, folder = map(Path, sys.argv[1:])
catalog = Catalog(Settings.at(home), Migrations((*REVISIONS, "9999"), lambda: folder))
print("ready", flush=True)
sys.stdin.readline()
with catalog.read() as connection:
    print(len(series.versions(connection, series.get(connection, "support"))))
"""


def start(settings: Settings, folder: Path, **environ: str) -> subprocess.Popen[str]:
    """Start a process that looks into the catalog, and wait until it is about to."""
    process = subprocess.Popen(
        [sys.executable, "-c", USE, str(settings.home), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=os.environ | environ,
    )
    assert process.stdout is not None
    assert "ready\n" == process.stdout.readline()
    return process


def test_processes_that_upgrade_at_once_all_succeed(
    filled: Path, settings: Settings, migrations: Callable[[str], Migrations]
) -> None:
    """One of them upgrades, once; the others wait and go on."""
    folder = migrations(HARMLESS).folder()
    processes = [start(settings, folder) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in processes]

    assert [("3\n", "")] * 4 == results
    assert 1 == len(backups(filled))


def test_an_upgrade_that_is_killed_is_done_again(
    filled: Path, settings: Settings, migrations: Callable[[str], Migrations]
) -> None:
    """After kill -9 in mid-migration the next look finds the old schema, and upgrades it."""
    body = f"{HARMLESS}    if 'DIE' in os.environ:\n        os.kill(os.getpid(), {signal.SIGKILL})"
    folder = migrations(body).folder()
    before = rows_of(filled)
    killed = start(settings, folder, DIE="1")
    killed.communicate("go\n", timeout=120)
    assert -signal.SIGKILL == killed.returncode

    out, _ = start(settings, folder).communicate("go\n", timeout=120)

    assert "3\n" == out
    assert before == rows_of(filled)
