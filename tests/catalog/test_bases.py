"""Bases: their names, their identity, and what is remembered of their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from adreg.registry.catalog import bases
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import BaseFile, BaseRecord
from adreg.registry.errors import AlreadyExists, NotFound

AddBase = Callable[..., BaseRecord]


def test_a_base_comes_back_as_it_went_in(
    catalog: Catalog, add_base: AddBase, now: datetime
) -> None:
    """All facts, other names and files are kept, sizes beyond 32 bits too."""
    with catalog.write() as connection:
        made = add_base(connection, "llama", "meta-llama/Llama-3.1-8B", "/old/path", "LLAMA-8B")
        connection.commit()

    with catalog.read() as connection:
        assert (made,) == bases.every(connection)
        assert made == bases.get(connection, made.id)
        assert made == bases.find(connection, "LLAMA")
        assert (8_030_261_248, "llama3", now) == (
            made.facts.parameters,
            made.facts.licence,
            made.created_at,
        )
        assert {"meta-llama/Llama-3.1-8B", "/old/path", "LLAMA-8B"} == set(made.aliases)
        assert (16_060_556_376, None) == (
            bases.files(connection, made.id)[0].size,
            bases.files(connection, made.id)[0].sha256,
        )


def test_a_base_is_found_by_identity_and_place(catalog: Catalog, add_base: AddBase) -> None:
    """Bases of one layout are all found, and the one that lies in a folder."""
    with catalog.write() as connection:
        tuned = add_base(connection, "tuned", layout="same")
        base = add_base(connection, "base", layout="same", location="/there")
        add_base(connection, "other")

        assert (base, tuned) == bases.find_by_layout(connection, base.facts.layout_digest)
        assert (base,) == bases.find_by_location(connection, Path("/there"))
        assert () == bases.find_by_layout(connection, "0" * 64)


def test_a_name_means_a_base_or_the_only_one_known_by_it(
    catalog: Catalog, add_base: AddBase
) -> None:
    """The very name goes first; another name must belong to one base only."""
    with catalog.write() as connection:
        one = add_base(connection, "one", "org/model", "mine")
        two = add_base(connection, "two", "org/model", "ONE")

        assert one == bases.resolve(connection, "One")
        assert one == bases.resolve(connection, "MINE")
        assert (one, two) == bases.known_as(connection, "one")
        with pytest.raises(NotFound) as several:
            bases.resolve(connection, "org/model")
        with pytest.raises(NotFound) as none:
            bases.resolve(connection, "onee")

    assert ("one", "two") == several.value.close
    assert ("one",) == none.value.close


def test_names_are_given_once(catalog: Catalog, add_base: AddBase) -> None:
    """A taken name is refused in any case; other names are added once."""
    with catalog.write() as connection:
        made = add_base(connection, "llama", "a")

        with pytest.raises(AlreadyExists):
            add_base(connection, "Llama")
        bases.add_aliases(connection, made.id, ["A", "b", "B"])

        assert ("a", "b") == bases.get(connection, made.id).aliases


def test_a_digest_is_remembered_while_the_file_looks_the_same(
    catalog: Catalog, add_base: AddBase
) -> None:
    """Hashing 100 GB again is spared unless the size or the time of change differs."""
    with catalog.write() as connection:
        made = add_base(connection, "llama")
        hashed = BaseFile("model.safetensors", 10, 1_764_000_000_123_456_789, "a" * 64)
        unknown = replace(hashed, sha256=None)

        bases.set_files(connection, made.id, [hashed])
        bases.set_files(connection, made.id, [unknown, BaseFile("new", 1, 1)])
        assert (hashed, BaseFile("new", 1, 1)) == bases.files(connection, made.id)

        touched = replace(unknown, mtime_ns=unknown.mtime_ns + 1)
        bases.set_files(connection, made.id, [touched])
        assert (touched,) == bases.files(connection, made.id)


def test_a_base_that_moved_keeps_its_name(catalog: Catalog, add_base: AddBase) -> None:
    """What a base is and where it lies can be recorded anew."""
    with catalog.write() as connection:
        made = add_base(connection, "llama", "mine")
        facts = replace(made.facts, location=Path("/new"), licence=None)

        bases.replace_facts(connection, made.id, facts)

        assert replace(made, facts=facts) == bases.get(connection, made.id)
