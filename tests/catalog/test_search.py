"""The search language against the same conditions in Python."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adreg.registry.catalog import adapters, listing, marks
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.grammar import All, Comparison, Either, Not, Word, parse
from adreg.registry.catalog.records import AdapterFacts, Content, ListQuery, Source
from adreg.registry.errors import SearchRefused
from adreg.registry.names import Tag
from adreg.registry.settings import Settings

NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A catalog with 60 adapters that differ in everything a search can ask for."""
    home = tmp_path_factory.mktemp("search")
    catalog = Catalog(Settings.at(home))
    numbers = count()
    with catalog.write() as connection:
        for index in range(60):
            facts = AdapterFacts(
                peft_type="LORA" if index % 5 else "LOHA",
                config="{}",
                targets=("q_proj", "v_proj") if index % 2 else ("down_proj",),
                target_count=2,
                task_type="CAUSAL_LM" if index % 3 else "SEQ_CLS",
                rank=(4, 8, 16, 32)[index % 4],
                alpha=float(index),
                use_dora=index % 7 == 0 and index % 5 != 0,
                base_hint="meta/Llama-3" if index % 3 else "qwen/Qwen3",
            )
            content = Content(
                digest=f"{next(numbers):064x}",
                bytes=1_000_000 * (index + 1),
                parameters=1000 * (index + 1),
                dtype="BF16" if index % 2 else "F32",
                licence="apache-2.0" if index % 4 else None,
                files=(),
            )
            key = adapters.add(
                connection,
                f"team/{'Support' if index % 2 else 'tone'}-{index}",
                content,
                facts,
                Source("path", f"/adapters/{index}", NOW),
                base_id=None,
                at=NOW - timedelta(days=index),
            )
            if index % 3 == 0:
                marks.set_tag(connection, key.id, Tag.parse("old"))
            if index % 4 == 0:
                marks.set_tag(connection, key.id, Tag.parse("lang=de"))
            if index % 6 == 0:
                marks.add_note(connection, key.id, f"Checked by hand, number {index}", NOW)
            if index % 2 == 0:
                marks.add_metric(connection, key.id, "accuracy", index / 60, NOW)
        connection.commit()
    return catalog


def found(catalog: Catalog, text: str) -> list[int]:
    """Return the numbers in the names of what a search finds."""
    with catalog.read() as connection:
        rows = listing.rows(connection, ListQuery(where=text))
    return sorted(int(row.key.name.rpartition("-")[2]) for row in rows)


CASES: dict[str, Callable[[int], bool]] = {
    "rank>=16": lambda i: i % 4 >= 2,
    "rank=8": lambda i: i % 4 == 1,
    "rank!=8": lambda i: i % 4 != 1,
    "alpha<10.5": lambda i: i < 10.5,
    "type:lora": lambda i: bool(i % 5),
    "type=LOHA": lambda i: i % 5 == 0,
    "type:dora": lambda i: i % 7 == 0 and i % 5 != 0,
    "type:model": lambda _: False,
    "target:q_proj": lambda i: bool(i % 2),
    "not target:q_proj": lambda i: i % 2 == 0,
    "base:llama": lambda i: bool(i % 3),
    "base=qwen/qwen3": lambda i: i % 3 == 0,
    "task:seq": lambda i: i % 3 == 0,
    "tag:old": lambda i: i % 3 == 0,
    "tag:lang=de": lambda i: i % 4 == 0,
    "tag:lang=fr": lambda _: False,
    "tag!=old": lambda i: i % 3 != 0,
    "licence:apache": lambda i: bool(i % 4),
    "not licence:apache": lambda i: i % 4 == 0,
    "license!=apache-2.0": lambda i: i % 4 == 0,
    "dtype=bf16": lambda i: bool(i % 2),
    "size>=30MB": lambda i: i + 1 >= 30,
    "size<1.5mb": lambda i: i == 0,
    "parameters>50k": lambda i: i + 1 > 50,
    "version=1": lambda _: True,
    "name:SUPPORT": lambda i: bool(i % 2),
    "name=team/tone-4": lambda i: i == 4,
    "note:hand": lambda i: i % 6 == 0,
    'note:"by hand, number 12"': lambda i: i == 12,
    "metric.accuracy>0.5": lambda i: i % 2 == 0 and i / 60 > 0.5,
    "support": lambda i: bool(i % 2),
    "checked": lambda i: i % 6 == 0,
    '"by hand"': lambda i: i % 6 == 0,
    "created>=7d": lambda i: i < 7,
    f"created:{NOW:%Y-%m-%d}": lambda i: i == 0,
    f"created<{NOW:%Y-%m-%d}": lambda i: i > 0,
    f"created>{NOW:%Y-%m-%d}": lambda _: False,
    "created>2020": lambda _: True,
    "rank>=16 and base:llama and (type:dora or target:q_proj) and not tag:old": lambda i: (
        i % 4 >= 2 and bool(i % 3) and ((i % 7 == 0 and i % 5 != 0) or bool(i % 2)) and i % 3 != 0
    ),
    "support rank>=16": lambda i: bool(i % 2) and i % 4 >= 2,
    "rank=4 or rank=8 and tag:old": lambda i: i % 4 == 0 or (i % 4 == 1 and i % 3 == 0),
    "(rank=4 or rank=8) and tag:old": lambda i: i % 4 in {0, 1} and i % 3 == 0,
    "NOT (tag:old OR tag:lang)": lambda i: bool(i % 3) and bool(i % 4),
    "not not tag:old": lambda i: i % 3 == 0,
    "rank >= 16": lambda i: i % 4 >= 2,
}


@pytest.mark.parametrize("text", CASES)
def test_a_search_finds_what_the_same_condition_holds_for(catalog: Catalog, text: str) -> None:
    """What is found is just what Python's own condition picks out of the 60."""
    assert [i for i in range(60) if CASES[text](i)] == found(catalog, text)


WRONG: dict[str, tuple[int, str]] = {
    "": (0, "nothing is searched for"),
    "rank>>16": (5, "'>16' is not a number"),
    "rank>=many": (6, "'many' is not a number"),
    "(rank=4": (0, "this '(' is not closed"),
    "rank=4)": (6, "this ')' closes nothing"),
    "and rank=4": (0, "'and' has nothing before it"),
    "rank=4 and": (10, "something is missing at the end"),
    "rank=": (5, "a value must follow rank="),
    "rank= and x": (6, "'and' is not a number"),
    "colour:red": (0, "there is no field 'colour'"),
    "name>b": (0, "name is text, which > cannot order"),
    "tag>b": (0, "a tag is there or not"),
    "created>yesterday": (8, "'yesterday' is not a date"),
    "created>2026-13": (8, "'2026-13' is not a date"),
    'note:"open': (5, "this quote is not closed"),
    "not": (3, "something is missing at the end"),
    "metric.loss<low": (12, "'low' is not a number"),
    "(" * 60 + "x" + ")" * 60: (51, "nested too deeply"),
}


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_are_pointed_at(catalog: Catalog, text: str) -> None:
    """A search that cannot be read is an error with the character and the reason."""
    with catalog.read() as connection, pytest.raises(SearchRefused) as caught:
        listing.rows(connection, ListQuery(where=text or " "))

    position, reason = WRONG[text]
    assert reason in caught.value.reason
    assert position == caught.value.position


def test_the_tree() -> None:
    """``and`` binds closer than ``or``, ``not`` closest; side by side means ``and``."""
    assert Either(
        (
            All((Word("a", 0), Not(Word("b", 6)))),
            Comparison("rank", ">=", "4", 11, 17),
        )
    ) == parse("a not b or rank>=4")


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes anything but a tree or SearchRefused, whose place lies in the text."""
    with suppress(SearchRefused):
        parse(text)
        return
    with pytest.raises(SearchRefused) as caught:
        parse(text)
    assert 0 <= caught.value.position <= len(text)


@given(
    st.recursive(
        st.sampled_from(["rank>=16", "tag:old", "support", "type:dora", "licence:apache"]),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda two: f"({two[0]} and {two[1]})"),
            st.tuples(inner, inner).map(lambda two: f"({two[0]} or {two[1]})"),
            inner.map(lambda one: f"not {one}"),
        ),
        max_leaves=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_a_search_and_its_contrary_share_all(catalog: Catalog, text: str) -> None:
    """What a search finds and what its negation finds are all versions, none of them twice."""
    assert list(range(60)) == sorted(found(catalog, text) + found(catalog, f"not ({text})"))


def test_where_the_catalog_is_not_there(tmp_path: Path) -> None:
    """A search in an empty registry finds nothing, and is read all the same."""
    catalog = Catalog(Settings.at(tmp_path / "none"))
    with catalog.read() as connection:
        assert () == listing.rows(connection, ListQuery(where="rank>=16"))
