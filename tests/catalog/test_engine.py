"""Opening the catalog: what a look leaves alone, what a transaction keeps, who waits for whom."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from adreg.registry.catalog import history, listing, series, sqlite
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import HistoryEntry, ListQuery, VersionKey
from adreg.registry.errors import CatalogError, DiskFull, MissingPackage, WriteFailed
from adreg.registry.settings import Settings

AddAdapter = Callable[..., VersionKey]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the names, times and bytes of all that is in a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python on a piece of code, away from the repository and its bare names."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must succeed; return what it printed."""
    out, err = process.communicate(timeout=120)
    assert 0 == process.returncode, err
    return out


def test_a_missing_catalog_reads_as_empty_and_stays_missing(
    catalog: Catalog, tmp_path: Path
) -> None:
    """Making a catalog and looking into it create nothing, not even the folder."""
    with catalog.read() as connection:
        rows = listing.rows(connection, ListQuery())
        found = series.find(connection, "nobody")

    assert () == rows
    assert found is None
    assert [] == list(tmp_path.iterdir())


def test_an_empty_catalog_refuses_writes(catalog: Catalog, now: datetime) -> None:
    """What is written into a look at nothing would be lost in silence."""
    with pytest.raises(WriteFailed), catalog.read() as connection:
        history.append(connection, HistoryEntry(now, "me@here", "add", "a"))


def test_a_file_that_another_process_is_about_to_fill_reads_as_empty(
    catalog: Catalog, settings: Settings
) -> None:
    """SQLite makes the file before the first commit puts a schema into it."""
    settings.home.mkdir()
    (settings.home / "catalog.sqlite").touch()

    with catalog.read() as connection:
        assert () == listing.rows(connection, ListQuery())

    assert b"" == (settings.home / "catalog.sqlite").read_bytes()


def test_a_look_changes_nothing_on_disk(
    catalog: Catalog, settings: Settings, add_adapter: AddAdapter
) -> None:
    """No byte, no time and no file beside the catalog changes when it is read."""
    with catalog.write() as connection:
        add_adapter(connection, "support")
        connection.commit()
    before = snapshot(settings.home)

    with catalog.read() as connection:
        assert 1 == len(listing.rows(connection, ListQuery()))

    assert before == snapshot(settings.home)


def test_a_look_cannot_write(catalog: Catalog, now: datetime) -> None:
    """The database itself refuses a change in a read, whatever the code does."""
    with catalog.write() as connection:
        connection.commit()

    with pytest.raises(WriteFailed), catalog.read() as connection:
        history.append(connection, HistoryEntry(now, "me@here", "add", "a"))


def test_only_commit_keeps(catalog: Catalog, add_adapter: AddAdapter) -> None:
    """Leaving a write without commit, or by an exception, discards all of it."""
    with catalog.write() as connection:
        add_adapter(connection, "kept")
        connection.commit()
    with catalog.write() as connection:
        add_adapter(connection, "left")
    with suppress(ZeroDivisionError), catalog.write() as connection:
        add_adapter(connection, "thrown")
        raise ZeroDivisionError

    with catalog.read() as connection:
        assert ["kept"] == [row.key.name for row in listing.rows(connection, ListQuery())]


def test_readers_see_the_last_commit_while_somebody_writes(
    catalog: Catalog, add_adapter: AddAdapter
) -> None:
    """An open write transaction neither shows nor blocks."""
    with catalog.write() as connection:
        connection.commit()

    with catalog.write() as writing:
        add_adapter(writing, "soon")
        with catalog.read() as reading:
            assert () == listing.rows(reading, ListQuery())


def test_a_second_writer_that_waited_too_long_is_told_so(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cannot get the write lock hears that another process has it."""
    with catalog.write() as connection:
        connection.commit()
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.01)

    with (
        catalog.write(),
        pytest.raises(CatalogError, match="another process has been writing"),
        catalog.write(),
    ):
        pass


def test_a_full_disk_is_named_and_nothing_is_kept(
    catalog: Catalog, add_adapter: AddAdapter
) -> None:
    """SQLite's own "full" becomes DiskFull, and what was there is all there is."""
    with catalog.write() as connection:
        add_adapter(connection, "before")
        connection.commit()

    def fill() -> None:
        with catalog.write() as connection:
            connection.exec_driver_sql(
                "PRAGMA max_page_count=1"
            )  # SQLite raises it to what is used
            add_adapter(connection, "after", config="x" * 100_000)

    with pytest.raises(DiskFull):
        fill()

    with catalog.read() as connection:
        assert ["before"] == [row.key.name for row in listing.rows(connection, ListQuery())]


INSERT = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from adreg.registry.catalog import adapters
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import AdapterFacts, Content, Source
from adreg.registry.digest import of_bytes
from adreg.registry.settings import Settings
home, who, count = sys.argv[1:]
catalog = Catalog(Settings.at(Path(home)))
print("ready", flush=True)
sys.stdin.readline()
now = datetime.now(timezone.utc)
for number in range(int(count)):
    with catalog.write() as connection:
        content = Content(of_bytes(f"{who} {number}".encode()), 1, 1, "F32", ())
        facts = AdapterFacts("LORA", "{}", ("q_proj",), 1, rank=8)
        source = Source("path", "/x", now)
        adapters.add(connection, "shared", content, facts, source, base_id=None, at=now)
        connection.commit()
"""


def test_processes_that_create_and_insert_at_once_lose_nothing(
    catalog: Catalog, settings: Settings
) -> None:
    """Four processes begin with no catalog at all; every version is there, numbered once."""
    processes = [start(INSERT, str(settings.home), str(who), "8") for who in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        finish(process)

    with catalog.read() as connection:
        shared = series.get(connection, "shared")
        numbers = [key.number for key in series.versions(connection, shared)]
    assert list(range(1, 33)) == numbers
    assert ["catalog.sqlite", "catalog.sqlite.lock"] == sorted(snapshot(settings.home))


DIE = """
import os, signal, sys
from datetime import datetime, timezone
from pathlib import Path
from adreg.registry.catalog import history
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import HistoryEntry
from adreg.registry.settings import Settings
catalog = Catalog(Settings.at(Path(sys.argv[1])))
with catalog.write() as connection:
    connection.exec_driver_sql("PRAGMA cache_size=5")  # so that pages reach the file unasked
    for number in range(2000):
        entry = HistoryEntry(datetime.now(timezone.utc), "me@here", "add", f"{number}" * 40)
        history.append(connection, entry)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_and_the_next_look_works(
    catalog: Catalog, settings: Settings, add_adapter: AddAdapter
) -> None:
    """After kill -9 in mid-write the file holds halves; a plain read undoes them and answers."""
    with catalog.write() as connection:
        add_adapter(connection, "before")
        connection.commit()
    before = (settings.home / "catalog.sqlite").read_bytes()
    killed = start(DIE, str(settings.home))
    killed.communicate(timeout=120)
    assert -signal.SIGKILL == killed.returncode
    assert before != (settings.home / "catalog.sqlite").read_bytes()
    assert (settings.home / "catalog.sqlite-journal").exists()

    with catalog.read() as connection:
        assert ["before"] == [row.key.name for row in listing.rows(connection, ListQuery())]
        assert () == history.entries(connection)

    assert before == (settings.home / "catalog.sqlite").read_bytes()
    assert not (settings.home / "catalog.sqlite-journal").exists()


@pytest.mark.parametrize("change", ["read", "write"])
@pytest.mark.parametrize("data", [b"x", b"not a database\n" * 1000], ids=["short", "long"])
def test_a_file_that_is_no_database_is_refused_untouched(
    catalog: Catalog, settings: Settings, change: str, data: bytes
) -> None:
    """Whatever stands in the catalog's place stays as it is."""
    settings.home.mkdir()
    (settings.home / "catalog.sqlite").write_bytes(data)

    with pytest.raises(CatalogError, match="not an SQLite database"), getattr(catalog, change)():
        pass

    assert data == (settings.home / "catalog.sqlite").read_bytes()


@pytest.mark.parametrize("change", ["read", "write"])
@pytest.mark.parametrize(
    "table", ["series (id INTEGER)", "alembic_version (version_num TEXT)"], ids=["foreign", "bare"]
)
def test_a_database_of_something_else_is_refused_untouched(
    catalog: Catalog, settings: Settings, change: str, table: str
) -> None:
    """A database with tables that are not the catalog's is nobody's to upgrade."""
    settings.home.mkdir()
    path = settings.home / "catalog.sqlite"
    with sqlite3.connect(path) as other:
        other.execute(f"CREATE TABLE {table}")
    other.close()
    before = path.read_bytes()

    with pytest.raises(CatalogError, match="not adreg's"), getattr(catalog, change)():
        pass

    assert before == path.read_bytes()


def test_a_folder_in_the_place_of_the_file_is_refused(catalog: Catalog, settings: Settings) -> None:
    """A folder called catalog.sqlite is an error, not an empty catalog."""
    (settings.home / "catalog.sqlite").mkdir(parents=True)

    with pytest.raises(CatalogError, match="cannot be opened"), catalog.read():
        pass


@pytest.mark.parametrize("name", ["a b", "100%25", "what?", "a#b", "ä@b:1", "'"])
def test_any_folder_can_be_home(tmp_path: Path, add_adapter: AddAdapter, name: str) -> None:
    """No character of the home's path is taken for a part of a URL."""
    catalog = Catalog(Settings.at(tmp_path / name))

    with catalog.write() as connection:
        add_adapter(connection, "support")
        connection.commit()
    with catalog.read() as connection:
        assert 1 == len(listing.rows(connection, ListQuery()))

    assert {f"{name}/catalog.sqlite", f"{name}/catalog.sqlite.lock"} == set(snapshot(tmp_path))


def test_a_url_of_a_file_elsewhere_is_obeyed(tmp_path: Path) -> None:
    """ADREG_DATABASE_URL may put the SQLite file into another folder, made if need be."""
    other = tmp_path / "elsewhere" / "my.db"
    catalog = Catalog(Settings.at(tmp_path / "home", f"sqlite:///{other}"))

    with catalog.write() as connection:
        connection.commit()

    assert str(other) == catalog.where
    assert other.is_file()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/x.db?mode=ro",
        "sqlite+aiosqlite:////tmp/x.db",
    ],
)
def test_a_url_that_cannot_be_a_catalogs_is_refused(tmp_path: Path, url: str) -> None:
    """A URL that would lose the catalog, or be taken for another, is an error at once."""
    with pytest.raises(CatalogError):
        Catalog(Settings.at(tmp_path, url))


def test_a_server_needs_its_driver(tmp_path: Path) -> None:
    """A database whose driver is not installed says what is missing, and not its password."""
    catalog = Catalog(Settings.at(tmp_path, "postgresql+nosuchdriver://me:secret@host/db"))

    with pytest.raises((CatalogError, MissingPackage)) as caught, catalog.read():
        pass

    assert "secret" not in f"{caught.value} {catalog.where}"


LOOK = """
import json, sys
from pathlib import Path
from adreg.registry.catalog import listing, show, versions
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import ListQuery
from adreg.registry.names import Reference
from adreg.registry.settings import Settings
with Catalog(Settings.at(Path(sys.argv[1]))).read() as connection:
    listing.rows(connection, ListQuery(text="support", limit=50))
    show.adapter(connection, versions.resolve(connection, Reference.parse("support")))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_look_imports_nothing_heavy(
    catalog: Catalog, settings: Settings, add_adapter: AddAdapter
) -> None:
    """Listing and showing start without Alembic, filelock, numpy and the rest."""
    with catalog.write() as connection:
        add_adapter(connection, "support")
        connection.commit()

    imported = set(json.loads(finish(start(LOOK, str(settings.home)))))

    heavy = {"alembic", "filelock", "huggingface_hub", "mako", "numpy", "torch", "transformers"}
    assert "sqlalchemy" in imported
    assert set() == heavy & imported
