"""The record of everything that was done: it is only ever added to."""

from __future__ import annotations

import getpass
import socket
from datetime import datetime

from sqlalchemy import Connection, insert, or_, select

from adreg.registry.catalog.records import HistoryEntry
from adreg.registry.catalog.schema import history

_AFTER_AT = "A"
"""The character after ``@``, so that a range holds all that begins with ``NAME@``."""


def this_actor() -> str:
    """Return who is at work here: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name; OSError from Python 3.13 on
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def append(connection: Connection, *entries: HistoryEntry) -> None:
    """Add what was done, in the transaction that did it; an entry's ``id`` is not used."""
    rows = [
        {
            "at": one.at,
            "actor": one.actor,
            "action": one.action,
            "subject": one.subject,
            "detail": dict(one.detail),
        }
        for one in entries
    ]
    if rows:
        connection.execute(insert(history), rows)


def entries(  # noqa: PLR0913  # one filter each
    connection: Connection,
    *,
    subject: str = "",
    action: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    before_id: int | None = None,
    limit: int | None = None,
) -> tuple[HistoryEntry, ...]:
    """Return what was done, newest first; every filter that is set must hold.

    A ``subject`` that is a name also finds what was done to its versions
    (``name@3``). ``since`` is inclusive, ``until`` is not. ``before_id`` goes on
    after the last entry of an earlier answer.
    """
    query = select(
        history.c.at,
        history.c.actor,
        history.c.action,
        history.c.subject,
        history.c.detail,
        history.c.id,
    ).order_by(history.c.id.desc())
    if subject:
        of_versions = history.c.subject >= f"{subject}@", history.c.subject < subject + _AFTER_AT
        query = query.where(or_(history.c.subject == subject, of_versions[0] & of_versions[1]))
    if action:
        query = query.where(history.c.action == action)
    if since is not None:
        query = query.where(history.c.at >= since)
    if until is not None:
        query = query.where(history.c.at < until)
    if before_id is not None:
        query = query.where(history.c.id < before_id)
    rows = connection.execute(query if limit is None else query.limit(limit))
    return tuple(HistoryEntry(*row) for row in rows)
