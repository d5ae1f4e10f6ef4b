"""Listings: every filter, every order, pages, words, and a cost that does not grow."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from typing import get_args

import pytest
from sqlalchemy import Connection, insert

from adreg.registry.catalog import listing, marks
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import BaseRecord, ListQuery, SortKey, VersionKey
from adreg.registry.catalog.schema import adapter, series, tag, target, version
from adreg.registry.names import Tag
from adreg.registry.settings import Settings

Add = Callable[..., VersionKey]
AddBase = Callable[..., BaseRecord]


@pytest.fixture
def filled(
    catalog: Catalog, add_adapter: Add, add_model: Add, add_base: AddBase, now: datetime
) -> Catalog:
    """Fill a catalog with a few of everything."""
    with catalog.write() as connection:
        llama = add_base(connection, "llama", "meta-llama/Llama-3.1-8B")
        qwen = add_base(connection, "qwen")

        def at(hours: int) -> datetime:
            return now + timedelta(hours=hours)

        chat = add_adapter(connection, "chat", rank=64, base_id=llama.id, at=at(0))
        add_adapter(connection, "team/Legal", rank=8, base_id=llama.id, at=at(1))
        legal = add_adapter(connection, "team/Legal", rank=16, base_id=llama.id, at=at(3))
        sql = add_adapter(
            connection,
            "sql_gen",
            peft_type="LOHA",
            rank=4,
            base_id=qwen.id,
            targets=("k_proj",),
            at=at(2),
        )
        hinted = {"base_hint": "meta-llama/Llama-3.1-8B", "targets": ("q_proj", "k_proj")}
        add_adapter(connection, "hinted", rank=8, at=at(4), **hinted)
        merged = add_model(connection, "merged", chat, legal, base_id=llama.id)
        marks.set_tag(connection, chat.id, Tag("Team", "NLP-Berlin"))
        marks.set_tag(connection, legal.id, Tag("team", "law"))
        marks.set_tag(connection, legal.id, Tag("gold"))
        marks.set_tag(connection, merged.id, Tag("gold"))
        marks.add_note(connection, sql.id, "ÄRGER mit 100% der Tabellen", now)
        marks.set_alias(connection, chat, "prod", now)
        marks.set_alias(connection, chat, "canary", now)
        connection.commit()
    return catalog


def names(catalog: Catalog, query: ListQuery) -> list[str]:
    """List the references that a query finds, and check that counting finds as many."""
    with catalog.read() as connection:
        rows = listing.rows(connection, query)
        assert len(rows) == listing.count(connection, query)
    return [str(row.key) for row in rows]


def label(value: object) -> str:
    """Name a query by what it asks for."""
    if not isinstance(value, ListQuery):
        return ""
    asked = {one.name: getattr(value, one.name) for one in fields(value)}
    plain = {one.name: one.default for one in fields(value)}
    return ",".join(f"{key}={asked[key]}" for key in asked if asked[key] != plain[key])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ListQuery(), ["chat@1", "hinted@1", "merged@1", "sql_gen@1", "team/Legal@2"]),
        (ListQuery(kind="adapter"), ["chat@1", "hinted@1", "sql_gen@1", "team/Legal@2"]),
        (ListQuery(kind="model"), ["merged@1"]),
        (ListQuery(base="LLAMA"), ["chat@1", "merged@1", "team/Legal@2"]),
        (
            ListQuery(base="meta-llama/Llama-3.1-8B"),
            ["chat@1", "hinted@1", "merged@1", "team/Legal@2"],
        ),
        (ListQuery(base="nobody"), []),
        (ListQuery(peft_type="loha"), ["sql_gen@1"]),
        (ListQuery(rank=8), ["hinted@1"]),
        (ListQuery(rank_min=16), ["chat@1", "team/Legal@2"]),
        (ListQuery(rank_max=8), ["hinted@1", "sql_gen@1"]),
        (ListQuery(rank_min=8, rank_max=16), ["hinted@1", "team/Legal@2"]),
        (ListQuery(targets=("k_proj",)), ["hinted@1", "sql_gen@1"]),
        (ListQuery(targets=("k_proj", "q_proj")), ["hinted@1"]),
        (ListQuery(tags=(Tag("gold"),)), ["merged@1", "team/Legal@2"]),
        (ListQuery(tags=(Tag("team"),)), ["team/Legal@2"]),
        (ListQuery(tags=(Tag("team", "law"), Tag("gold"))), ["team/Legal@2"]),
        (ListQuery(tags=(Tag("team", "x"),)), []),
        (ListQuery(alias="prod"), ["chat@1"]),
        (ListQuery(text="LEGAL"), ["team/Legal@2"]),
        (ListQuery(text="team"), ["chat@1", "team/Legal@2"]),
        (ListQuery(text="berlin chat"), ["chat@1"]),
        (ListQuery(text="berlin legal"), []),
        (ListQuery(text="team=law"), ["team/Legal@2"]),
        (ListQuery(text="ärger"), ["sql_gen@1"]),
        (ListQuery(text="100%"), ["sql_gen@1"]),
        (ListQuery(text="%"), ["sql_gen@1"]),
        (ListQuery(text="l_g"), ["sql_gen@1"]),
        (ListQuery(text="c_at"), []),
        (ListQuery(text="   "), ["chat@1", "hinted@1", "merged@1", "sql_gen@1", "team/Legal@2"]),
        (ListQuery(rank=8, all_versions=True), ["hinted@1", "team/Legal@1"]),
        (ListQuery(text="legal", all_versions=True), ["team/Legal@1", "team/Legal@2"]),
    ],
    ids=label,
)
def test_filters(filled: Catalog, query: ListQuery, expected: list[str]) -> None:
    """Every filter that is set must hold, for the newest version unless all are asked for."""
    assert expected == names(filled, query)


@pytest.mark.parametrize(
    ("sort", "ascending"),
    [
        ("name", ["chat@1", "hinted@1", "sql_gen@1", "team/Legal@2"]),
        ("created", ["chat@1", "sql_gen@1", "team/Legal@2", "hinted@1"]),
        ("rank", ["sql_gen@1", "hinted@1", "team/Legal@2", "chat@1"]),
        ("bytes", ["chat@1", "team/Legal@2", "sql_gen@1", "hinted@1"]),
        ("parameters", ["chat@1", "team/Legal@2", "sql_gen@1", "hinted@1"]),
    ],
)
def test_orders(filled: Catalog, sort: SortKey, ascending: list[str]) -> None:
    """Each order goes both ways; what is equal keeps the order in which it was added."""
    query = ListQuery(kind="adapter", sort=sort)

    assert ascending == names(filled, query)
    assert ascending[::-1] == names(filled, replace(query, descending=True))


@pytest.mark.parametrize("descending", [False, True])
def test_models_have_no_rank_and_come_last(filled: Catalog, descending: bool) -> None:
    """Whichever way the ranks go, a model stands below all adapters."""
    assert "merged@1" == names(filled, ListQuery(sort="rank", descending=descending))[-1]


def test_pages_follow_each_other(filled: Catalog) -> None:
    """Limit and offset cut the one order into pages."""
    with filled.read() as connection:
        whole = listing.rows(connection, ListQuery())
        pages = [listing.rows(connection, ListQuery(limit=2, offset=at)) for at in (0, 2, 4, 6)]
        rest = listing.rows(connection, ListQuery(offset=3))

    assert [whole[:2], whole[2:4], whole[4:], ()] == pages
    assert whole[3:] == rest


def test_a_row_says_all_that_a_line_needs(filled: Catalog) -> None:
    """A row has the facts, the base, the marks, and how many versions there are."""
    with filled.read() as connection:
        chat, hinted, merged, _, legal = listing.rows(connection, ListQuery())

    assert (64, 16.0, "LORA", ("q_proj", "v_proj"), "llama") == (
        chat.rank,
        chat.alpha,
        chat.peft_type,
        chat.targets,
        chat.base,
    )
    assert (("canary", "prod"), (Tag("Team", "NLP-Berlin"),)) == (chat.aliases, chat.tags)
    assert (None, "meta-llama/Llama-3.1-8B") == (hinted.base, hinted.base_hint)
    assert ("linear", "/models/merged", None) == (merged.method, str(merged.location), merged.rank)
    assert (2, 1) == (legal.versions, chat.versions)


def fill(connection: Connection, count: int) -> None:
    """Put many adapters in at once, with filters that most, few and none of them pass."""
    chance = random.Random(1)  # noqa: S311  # the same rows at every run is the point
    numbers = range(1, count + 1)
    kinds = {"kind": "adapter", "created_at": datetime(2026, 11, 24, tzinfo=timezone.utc)}
    each = [f"{chance.choice(['chat', 'sql', 'legal'])}-{chance.random():.9f}" for _ in numbers]
    connection.execute(
        insert(series),
        [
            {"id": i, "name": name, "name_key": name, "last_number": 1, **kinds}
            for i, name in zip(numbers, each, strict=True)
        ],
    )
    connection.execute(
        insert(version),
        [
            {
                "id": i,
                "series_id": i,
                "name_key": name,
                "number": 1,
                "digest": f"{i:064}",
                "bytes": chance.randrange(10**9),
                "parameters": chance.randrange(10**9),
                "dtype": "BF16",
                "peft_type": "LORA",
                "rank": 77 if i % 100 == 0 else chance.choice([8, 16]),
                **kinds,
            }
            for i, name in zip(numbers, each, strict=True)
        ],
    )
    plain = {
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": [],
        "targets": ["q_proj"],
        "target_count": 1,
        "config": "{}",
    }
    connection.execute(insert(adapter), [{"version_id": i, **plain} for i in numbers])
    connection.execute(insert(target), [{"version_id": i, "name": "q_proj"} for i in numbers])
    connection.execute(
        insert(tag),
        [{"version_id": i, "key": "gold", "value": "", "folded": "gold"} for i in numbers[::100]],
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Connection, Connection]]:
    """Open looks at a catalog of 600 and at one of 6,000 adapters."""
    few, many = (Catalog(Settings.at(tmp_path_factory.mktemp("home"))) for _ in range(2))
    for catalog, count in ((few, 600), (many, 6000)):
        with catalog.write() as connection:
            fill(connection, count)
            connection.commit()
    with few.read() as of_few, many.read() as of_many:
        yield of_few, of_many


def steps(connection: Connection, query: ListQuery) -> int:
    """Return how many tens of steps SQLite's machine takes for one page."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.set_progress_handler(count, 10)
    listing.rows(connection, query)
    driver.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize(
    "query",
    [
        ListQuery(),
        ListQuery(kind="adapter"),
        ListQuery(kind="model"),
        ListQuery(peft_type="LORA"),
        ListQuery(rank=8),
        ListQuery(rank=9),
        ListQuery(targets=("q_proj",)),
        ListQuery(targets=("k_proj",)),
        ListQuery(tags=(Tag("silver"),)),
        ListQuery(base="nobody"),
        ListQuery(peft_type="LORA", rank_min=8, targets=("q_proj",)),
    ],
    ids=label,
)
def test_a_page_costs_the_same_however_many_there_are(
    large: tuple[Connection, Connection], query: ListQuery
) -> None:
    """In every order, a page of 6,000 adapters takes SQLite as many steps as one of 600."""
    dearer = {}
    for sort, descending in itertools.product(get_args(SortKey), [False, True]):
        page = replace(query, sort=sort, descending=descending, limit=20)
        few, many = (steps(connection, page) for connection in large)
        if many > 1.2 * few + 20:
            dearer[sort, descending] = few, many

    assert {} == dearer
