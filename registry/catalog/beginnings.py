"""What a word may become while it is typed: names, references and bases, at once.

A shell asks at each press of a key, and importing SQLAlchemy alone takes 0.2 s: SQLite is
asked here by the module of Python itself. Each question is a range of an index.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from adreg.registry.catalog.folding import fold
from adreg.registry.settings import Settings

MOST = 200
"""Names that are offered at once."""

Ask = Callable[[str, Mapping[str, str]], Sequence[Sequence[Any]]]

_LAST = "\U0010ffff"
_NAMES = "SELECT name FROM series WHERE name_key >= :start AND name_key < :stop ORDER BY name_key"
_BASES = "SELECT name FROM base WHERE name_key >= :start AND name_key < :stop ORDER BY name_key"
_OTHERS = (
    "SELECT name FROM base_alias WHERE name_key >= :start AND name_key < :stop ORDER BY name_key"
)
_NUMBERS = (
    "SELECT number FROM version WHERE series_id = (SELECT id FROM series WHERE name_key = :key)"
    " ORDER BY number"
)
_ALIASES = (
    "SELECT name FROM alias WHERE series_id = (SELECT id FROM series WHERE name_key = :key)"
    " ORDER BY name"
)


def references(settings: Settings, word: str) -> list[str]:
    """Return the names that a word may become; behind an ``@`` its versions and aliases.

    Of more than ``MOST`` the first ones and the last, so that what all of them have in
    common is what those have that are returned. Raises what the database does.
    """
    name, at, _ = word.partition("@")
    if not at:
        return _asked(settings, lambda ask: _range(ask, _NAMES, word))

    def selectors(ask: Ask) -> list[str]:
        rows = [*ask(_NUMBERS, {"key": fold(name)}), *ask(_ALIASES, {"key": fold(name)})]
        return [f"{name}@{row[0]}" for row in rows]

    return [one for one in _asked(settings, selectors) if one.startswith(word)]


def bases(settings: Settings, word: str) -> list[str]:
    """Return the names and other names of bases that a word may become, as ``references`` does."""

    def both(ask: Ask) -> list[str]:
        return sorted({*_range(ask, _BASES, word), *_range(ask, _OTHERS, word)})

    return _asked(settings, both)


def _range(ask: Ask, query: str, word: str) -> list[str]:
    bounds = {"start": fold(word), "stop": fold(word) + _LAST}
    found = [row[0] for row in ask(f"{query} LIMIT {MOST}", bounds)]
    if len(found) == MOST:
        found += [row[0] for row in ask(f"{query} DESC LIMIT 1", bounds)]
    return [one for one in dict.fromkeys(found) if one.startswith(word)]


def _asked(settings: Settings, question: Callable[[Ask], list[str]]) -> list[str]:
    path = settings.home / "catalog.sqlite"
    if settings != Settings.at(settings.home):
        return _asked_of_server(settings, question)
    if not path.is_file():
        return []
    # A busy writer is not waited for: a key was pressed.
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0.2)) as connection:
        return question(lambda query, values: connection.execute(query, dict(values)).fetchall())


def _asked_of_server(settings: Settings, question: Callable[[Ask], list[str]]) -> list[str]:
    from sqlalchemy import text  # noqa: PLC0415  # start-up: not for the default catalog

    from adreg.registry.catalog.engine import Catalog  # noqa: PLC0415

    with Catalog(settings).read() as connection:
        return question(
            lambda query, values: list(map(tuple, connection.execute(text(query), dict(values))))
        )
