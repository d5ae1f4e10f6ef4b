"""What was done to the registry: writing one line of it, and reading it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from adreg.registry.catalog import history as entries_of
from adreg.registry.catalog import series
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import HistoryEntry
from adreg.registry.errors import NotFound
from adreg.registry.names import Reference
from adreg.registry.ops import resolve
from adreg.registry.ops.context import Context


@dataclass(frozen=True, slots=True)
class History:
    """Entries, newest first; ``more`` tells whether older ones were left out."""

    entries: tuple[HistoryEntry, ...]
    more: bool


def now() -> datetime:
    """Return the time that one use case gives to all that it records."""
    return datetime.now(timezone.utc)


def write(
    connection: Connection,
    at: datetime,
    action: str,
    subject: str,
    **detail: Any,  # noqa: ANN401
) -> None:
    """Add an entry in the transaction that does what it tells; ``detail`` is plain JSON."""
    actor = entries_of.this_actor()
    entries_of.append(connection, HistoryEntry(at, actor, action, subject, detail))


def history(context: Context, reference: str | None = None, limit: int | None = None) -> History:
    """Return what was done, newest first: to everything, to a name, or to one version.

    The history of a name goes back through its renames, and outlives what it tells of.
    Raises NotFound for a name that was never known, NameRefused for no reference.
    """
    asked = None if limit is None else limit + 1
    with context.catalog.read() as connection:
        if reference is None:
            found = entries_of.entries(connection, limit=asked)
        else:
            parsed = resolve.parse(reference)
            subject = _subject(connection, parsed)
            found = _of_subject(connection, subject, asked)
            if not found and parsed.name and series.find(connection, parsed.name) is None:
                close = series.close_names(connection, parsed.name)
                raise NotFound("history of", parsed.name, close, "`adreg list` shows all names.")
    kept = found if limit is None else found[:limit]
    return History(kept, more=len(kept) < len(found))


def _subject(connection: Connection, reference: Reference) -> str:
    if not reference.name:
        return str(resolve.unweighted(connection, reference))
    known = series.find(connection, reference.name)
    name = reference.name if known is None else known.name
    if not reference.selector:
        return name
    if reference.number is not None:  # its history stays when a version goes
        return f"{name}@{reference.number}"
    return str(resolve.unweighted(connection, reference))


def _of_subject(
    connection: Connection, subject: str, limit: int | None
) -> tuple[HistoryEntry, ...]:
    name, at, number = subject.partition("@")
    own = entries_of.entries(connection, subject=subject, limit=limit)
    found = {entry.id: entry for entry in own}
    before: int | None = None
    seen = {name}
    while renamed := next(
        iter(
            entries_of.entries(connection, subject=name, action="rename", before_id=before, limit=1)
        ),
        None,
    ):
        name, before = str(renamed.detail.get("from", "")), renamed.id
        if not name or name in seen:
            break
        seen.add(name)
        older = entries_of.entries(
            connection, subject=f"{name}{at}{number}", before_id=before, limit=limit
        )
        found.update((entry.id, entry) for entry in older)
    newest_first = tuple(found[key] for key in sorted(found, reverse=True))
    return newest_first if limit is None else newest_first[:limit]
