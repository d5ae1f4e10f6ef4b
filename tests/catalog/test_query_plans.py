"""No listing, search, look or question of fit reads a table through: SQLite says how it would."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, event

from adreg.registry.catalog import bases as catalog_bases
from adreg.registry.catalog import keys, listing, marks, series, show
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import BaseRecord, ListQuery, VersionKey
from adreg.registry.names import Tag
from adreg.registry.settings import Settings

_WORDS = {"note", "tag"}
"""What people wrote: a word that stands anywhere in it is looked for in all of it."""
_SMALL = {"base", "base_alias", "model"}
"""Some hundred rows beside 100,000 adapters."""

_QUERIES = {
    "list": ListQuery(limit=50),
    "by date": ListQuery(limit=50, sort="created", descending=True),
    "by size": ListQuery(limit=50, sort="bytes"),
    "by rank": ListQuery(limit=50, sort="rank"),
    "fits": ListQuery(base="org/base-3", limit=50),
    "type": ListQuery(peft_type="LORA", limit=50),
    "three filters": ListQuery(base="org/base-3", rank=16, tags=(Tag("lang"),), limit=50),
    "target": ListQuery(targets=("q_proj",), rank_min=8, limit=50),
    "alias": ListQuery(alias="prod", limit=50),
    "search": ListQuery(
        where="rank>=16 and base:base-3 and (type:dora or target:o_proj) and not tag:old tickets",
        limit=50,
    ),
    "dates": ListQuery(where="created>2026-12-01 size<50MB parameters>1", limit=50),
    "dora": ListQuery(where="type:dora", limit=50),
    "a word": ListQuery(text="support", limit=50),
}


@pytest.fixture(scope="module")
def _module_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings.at(tmp_path_factory.mktemp("plans"))


@pytest.fixture
def filled(
    _module_settings: Settings,
    add_adapter: Callable[..., VersionKey],
    add_base: Callable[..., BaseRecord],
    now: datetime,
) -> Catalog:
    """600 adapters on 20 bases, with tags, notes and aliases."""
    catalog = Catalog(_module_settings)
    with catalog.read() as connection:
        if listing.count(connection, ListQuery()):
            return catalog
    draw = random.Random(5)  # noqa: S311  # only to make them differ
    with catalog.write() as connection:
        bases = [add_base(connection, f"org/base-{number}") for number in range(20)]
        for number in range(600):
            key = add_adapter(
                connection,
                f"team{number % 9}/{draw.choice(['support', 'chat'])}-{number}",
                base_id=draw.choice(bases).id,
                rank=draw.choice([4, 8, 16, 32]),
                targets=("q_proj", *(["o_proj"] if number % 7 == 0 else [])),
                use_dora=number % 20 == 0,
                at=now + timedelta(minutes=number),
            )
            if number % 3 == 0:
                marks.set_tag(connection, key.id, Tag(draw.choice(["old", "lang"])))
                marks.add_note(connection, key.id, f"tickets of week {number}", now)
            if number % 50 == 0:
                marks.set_alias(connection, key, "prod", now)
        connection.commit()
    return catalog


def plans(connection: Connection, ask: Callable[[], object]) -> Iterator[tuple[str, str]]:
    """Give every step of the plan of every statement that a question sends, with the statement."""
    sent: list[tuple[str, object]] = []

    def note(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        sent.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    ask()
    event.remove(connection, "before_cursor_execute", note)
    assert sent
    for statement, parameters in sent:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]  # as they were sent
        for step in plan:
            yield step[-1], statement


def scanned(connection: Connection, ask: Callable[[], object]) -> dict[str, str]:
    """Return the tables that are read through row by row, with the statement that does so."""
    found = {}
    for step, statement in plans(connection, ask):
        scan = re.match(r"SCAN (?:TABLE )?(\w+)(?! .*USING)", step)
        if scan and re.search(rf"\b{scan[1]}\b", statement) and "subquery" not in step.lower():
            found[scan[1]] = statement
    return found


@pytest.mark.parametrize("name", _QUERIES)
def test_no_listing_scans_a_table(filled: Catalog, name: str) -> None:
    """A page and its total walk indexes; only words are looked for in all notes and tags."""
    query = _QUERIES[name]
    words = bool(query.text or "tickets" in query.where)
    with filled.read() as connection:
        found = scanned(connection, lambda: listing.page(connection, query))

    allowed = _SMALL | (_WORDS if words else set())
    assert {} == {
        table: sql
        for table, sql in found.items()
        if table not in allowed and not (table.startswith("anon"))
    }


def test_no_look_at_one_version_scans_a_table(filled: Catalog) -> None:
    """Neither finding a name, nor all that is shown of its newest version."""
    with filled.read() as connection:
        (row,) = listing.rows(connection, ListQuery(limit=1))

        def look() -> None:
            known = series.get(connection, row.key.name)
            newest = keys.newest(connection, known.id)
            assert newest is not None
            show.either(connection, newest)
            catalog_bases.resolve(connection, "org/base-3")

        found = scanned(connection, look)

    assert {} == {table: sql for table, sql in found.items() if table not in _SMALL}


def test_a_scan_is_seen(filled: Catalog) -> None:
    """The check itself: a question that no index serves is found out."""
    with filled.read() as connection:
        found = scanned(
            connection,
            lambda: connection.exec_driver_sql("SELECT * FROM version WHERE dtype = 'F32'"),
        )

    assert {"version"} == found.keys()
