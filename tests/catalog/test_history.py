"""The history: who did what to what, newest first."""

from __future__ import annotations

from datetime import datetime, timedelta

from adreg.registry.catalog import history
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import HistoryEntry


def test_entries_come_back_newest_first_and_in_pages(catalog: Catalog, now: datetime) -> None:
    """The order is that of writing, whatever the clocks said; a page goes on where one ended."""
    with catalog.write() as connection:
        for number in range(5):
            at = now - timedelta(hours=number)
            detail = {"number": number, "list": [1.5, None, "ü"]}
            history.append(connection, HistoryEntry(at, "me@here", "add", f"a@{number}", detail))
        connection.commit()

    with catalog.read() as connection:
        first = history.entries(connection, limit=2)
        rest = history.entries(connection, before_id=first[-1].id)

    assert ["a@4", "a@3"] == [entry.subject for entry in first]
    assert ["a@2", "a@1", "a@0"] == [entry.subject for entry in rest]
    assert {"number": 4, "list": [1.5, None, "ü"]} == first[0].detail
    assert now == rest[-1].at


def test_entries_are_found_by_subject_action_and_time(catalog: Catalog, now: datetime) -> None:
    """A name finds its versions, not names that begin with it; a time range is half open."""
    with catalog.write() as connection:
        for hour, (action, subject) in enumerate(
            [("add", "a"), ("alias", "a@1"), ("add", "ab@1"), ("add", "a/b"), ("remove", "a")]
        ):
            at = now + timedelta(hours=hour)
            history.append(connection, HistoryEntry(at, "me@here", action, subject))

        def subjects(**filters: object) -> list[str]:
            found = history.entries(connection, **filters)  # type: ignore[arg-type]
            return [entry.subject for entry in found]

        one = timedelta(hours=1)
        assert ["a", "a@1", "a"] == subjects(subject="a")
        assert ["a/b", "ab@1", "a"] == subjects(action="add")
        assert ["ab@1", "a@1"] == subjects(since=now + one, until=now + 3 * one)
        assert ["a"] == subjects(subject="a", action="remove")


def test_the_actor_is_a_user_at_a_host() -> None:
    """Who is at work here has a name and a place."""
    user, at, host = history.this_actor().partition("@")

    assert (True, "@", True) == (bool(user), at, bool(host))
