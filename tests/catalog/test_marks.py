"""Aliases, tags, notes and metrics: setting, moving and removing them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from adreg.registry.catalog import marks, series
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import Metric, Note, VersionKey
from adreg.registry.errors import NotFound
from adreg.registry.names import Tag

Add = Callable[..., VersionKey]


def test_an_alias_moves_and_tells_where_it_was(
    catalog: Catalog, add_adapter: Add, now: datetime
) -> None:
    """Setting an alias again moves it; each series has its own of one name."""
    with catalog.write() as connection:
        first, second = add_adapter(connection, "a"), add_adapter(connection, "a")
        other = add_adapter(connection, "b")

        assert marks.set_alias(connection, first, "prod", now) is None
        assert marks.set_alias(connection, other, "prod", now) is None
        assert first == marks.set_alias(connection, second, "prod", now)
        assert second == marks.set_alias(connection, second, "prod", now)

        aliases = marks.aliases(connection, [first.id, second.id, other.id])
        assert {second.id: ("prod",), other.id: ("prod",)} == aliases


def test_an_alias_is_removed_or_the_nearest_named(
    catalog: Catalog, add_adapter: Add, now: datetime
) -> None:
    """Removing gives back what it named; one that is not there gets a suggestion."""
    with catalog.write() as connection:
        key = add_adapter(connection, "a")
        marks.set_alias(connection, key, "prod", now)
        parent = series.get(connection, "a")

        with pytest.raises(NotFound) as caught:
            marks.remove_alias(connection, parent, "prd")

        assert ("prod",) == caught.value.close
        assert key == marks.remove_alias(connection, parent, "prod")
        assert {} == marks.aliases(connection, [key.id])


def test_a_tag_is_replaced_by_key_and_removed(catalog: Catalog, add_adapter: Add) -> None:
    """One version has one value for a key; a plain tag is a key without one."""
    with catalog.write() as connection:
        key = add_adapter(connection, "a")

        assert marks.set_tag(connection, key.id, Tag("team", "nlp")) is None
        assert marks.set_tag(connection, key.id, Tag("gold")) is None
        assert Tag("team", "nlp") == marks.set_tag(connection, key.id, Tag("team", "Vision"))
        assert (Tag("gold"), Tag("team", "Vision")) == marks.of(connection, key.id).tags

        with pytest.raises(NotFound) as caught:
            marks.remove_tag(connection, key, "teem")
        assert ("team",) == caught.value.close
        assert Tag("team", "Vision") == marks.remove_tag(connection, key, "team")
        assert (Tag("gold"),) == marks.of(connection, key.id).tags


def test_notes_and_metrics_are_kept_in_order(
    catalog: Catalog, add_adapter: Add, now: datetime
) -> None:
    """Notes stand in the order of writing, metrics by name and then in that order."""
    later = now + timedelta(hours=1)
    with catalog.write() as connection:
        key = add_adapter(connection, "a")
        marks.add_note(connection, key.id, "second thoughts\nin two lines", later)
        marks.add_note(connection, key.id, "first", now)
        for name, value in (("loss", 0.5), ("bleu", 31.25), ("loss", 0.1)):
            marks.add_metric(connection, key.id, name, value, now)

        known = marks.of(connection, key.id)
        assert (Note("second thoughts\nin two lines", later), Note("first", now)) == known.notes
        assert (
            Metric("bleu", 31.25, now),
            Metric("loss", 0.5, now),
            Metric("loss", 0.1, now),
        ) == known.metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_is_a_finite_number(
    catalog: Catalog, add_adapter: Add, now: datetime, value: float
) -> None:
    """NaN would become NULL in SQLite; it and the infinities are refused."""
    with catalog.write() as connection:
        key = add_adapter(connection, "a")

        with pytest.raises(ValueError, match="finite"):
            marks.add_metric(connection, key.id, "loss", value, now)
