"""Copies of versions on the Hub, and a catalog from before there was a place for them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from adreg.registry.catalog import remotes, versions
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import Remote, VersionKey
from adreg.registry.catalog.revisions import REVISIONS, Migrations, shipped
from adreg.registry.catalog.schema import metadata
from adreg.registry.names import Reference
from adreg.registry.settings import Settings

Add = Callable[..., VersionKey]


@pytest.fixture
def remote(now: datetime) -> Remote:
    """A copy that was pushed."""
    return Remote("push", "me/support", "model", "main", "c" * 40, "d" * 64, now, "http://hub/c")


def test_what_is_recorded_comes_back(
    catalog: Catalog, add_adapter: Add, add_model: Add, remote: Remote
) -> None:
    """Every fact of a push or pull comes back with its version, in the order of recording."""
    pulled = replace(remote, direction="pull", subfolder="a/b", url=None)
    with catalog.write() as connection:
        adapter = add_adapter(connection, "support")
        model = add_model(connection, "merged", adapter)
        remotes.record(connection, model, remote)
        remotes.record(connection, adapter, pulled)
        remotes.record(connection, adapter, remote)
        connection.commit()

    with catalog.read() as connection:
        assert (pulled, remote) == remotes.of(connection, adapter)
        assert ((model, remote), (adapter, pulled), (adapter, remote)) == remotes.every(connection)
        assert ((model, remote),) == remotes.every(connection, model)


def test_the_same_again_is_one_record(catalog: Catalog, add_adapter: Add, remote: Remote) -> None:
    """A push that found the commit there already adds nothing; another commit does."""
    with catalog.write() as connection:
        key = add_adapter(connection, "support")
        later = replace(remote, at=remote.at.replace(year=2027), url="elsewhere")
        other = replace(remote, commit="e" * 40)
        told = [remotes.record(connection, key, one) for one in (remote, later, other)]

        assert [True, False, True] == told
        assert (remote, other) == remotes.of(connection, key)


def test_a_removed_version_takes_its_copies_along(
    catalog: Catalog, add_adapter: Add, remote: Remote
) -> None:
    """Removing a version forgets where its copies are, and no other's."""
    with catalog.write() as connection:
        gone, stays = add_adapter(connection, "one"), add_adapter(connection, "two")
        remotes.record(connection, gone, remote)
        remotes.record(connection, stays, remote)
        versions.remove(connection, gone)

        assert ((stays, remote),) == remotes.every(connection)


@pytest.mark.parametrize("released", REVISIONS[:-1])
def test_a_catalog_of_every_older_schema_is_upgraded_whole(
    settings: Settings, tmp_path: Path, add_adapter: Add, remote: Remote, released: str
) -> None:
    """A filled catalog of an older adreg keeps each row, and can then hold copies too."""
    older = REVISIONS[: REVISIONS.index(released) + 1]
    folder = tmp_path / "older"
    shutil.copytree(shipped().folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "versions").glob("[0-9]*.py"):
        if path.name.partition("_")[0] not in older:
            path.unlink()
    with Catalog(settings, Migrations(older, lambda: folder)).write() as connection:
        add_adapter(connection, "support")
        add_adapter(connection, "support")
        connection.commit()
    before = _rows(settings)

    with Catalog(settings).write() as connection:
        key = versions.resolve(connection, Reference.parse("support"))
        remotes.record(connection, key, remote)
        connection.commit()

    after = _rows(settings)
    assert [(released,)] == before.pop("alembic_version")
    assert [(REVISIONS[-1],)] == after.pop("alembic_version")
    assert set(metadata.tables) == set(after)
    assert 1 == len(after["remote"])
    before.pop("remote", None)
    assert before == {name: after[name] for name in before}


def _rows(settings: Settings) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(settings.home / "catalog.sqlite")) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: database.execute(f'SELECT * FROM "{name}"').fetchall()  # noqa: S608
            for (name,) in names
            if name != "sqlite_sequence"
        }
