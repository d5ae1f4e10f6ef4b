"""What people say of versions: tags, aliases, notes and metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adreg.registry.catalog import marks
from adreg.registry.catalog import series as catalog_series
from adreg.registry.catalog.records import VersionKey
from adreg.registry.errors import NameRefused
from adreg.registry.names import Tag, check_alias, check_name
from adreg.registry.ops import history, resolve
from adreg.registry.ops.context import Context

_METRIC_NAME = 96


@dataclass(frozen=True, slots=True)
class Tagged:
    """What became of the tags of a version; ``replaced`` are those with the same key before."""

    key: VersionKey
    added: tuple[Tag, ...]
    replaced: tuple[Tag, ...]
    removed: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class Aliased:
    """What an alias named ``before`` and names now; ``key`` is None once it was removed."""

    alias: str
    key: VersionKey | None
    before: VersionKey | None


@dataclass(frozen=True, slots=True)
class Noted:
    """The note that was left on a version."""

    key: VersionKey
    text: str


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics that were recorded for a version."""

    key: VersionKey
    metrics: Mapping[str, float]


def tag(context: Context, reference: str, tags: Iterable[str]) -> Tagged:
    """Tag a version with ``KEY`` or ``KEY=VALUE``; a key that it has already gets the new value.

    Raises NameRefused or NotFound; then no tag was set.
    """
    wanted = tuple({one.key: one for one in map(Tag.parse, tags)}.values())
    at = history.now()
    with context.catalog.write() as connection:
        key = resolve.unweighted(connection, reference)
        before = [marks.set_tag(connection, key.id, one) for one in wanted]
        added = tuple(one for one, old in zip(wanted, before, strict=True) if one != old)
        replaced = tuple(
            old for one, old in zip(wanted, before, strict=True) if old is not None and one != old
        )
        if added:
            history.write(
                connection,
                at,
                "tag",
                str(key),
                added=[str(one) for one in added],
                replaced=[str(one) for one in replaced],
            )
            connection.commit()
    return Tagged(key, added, replaced, ())


def untag(context: Context, reference: str, tags: Iterable[str]) -> Tagged:
    """Remove tags from a version, each named by its key or as ``KEY=VALUE``.

    Raises NameRefused, or NotFound for a tag that it does not have; then none was removed.
    """
    wanted = tuple(dict.fromkeys(Tag.parse(one).key for one in tags))
    at = history.now()
    with context.catalog.write() as connection:
        key = resolve.unweighted(connection, reference)
        removed = tuple(marks.remove_tag(connection, key, name) for name in wanted)
        gone = [str(one) for one in removed]
        history.write(connection, at, "untag", str(key), removed=gone)
        connection.commit()
    return Tagged(key, (), (), removed)


def alias(context: Context, reference: str, name: str) -> Aliased:
    """Let an alias name this version of its series, and no other any more.

    Raises NameRefused or NotFound.
    """
    check_alias(name)
    at = history.now()
    with context.catalog.write() as connection:
        key = resolve.unweighted(connection, reference)
        before = marks.set_alias(connection, key, name, at)
        if before is None or before.id != key.id:
            was = None if before is None else str(before)
            history.write(connection, at, "alias", str(key), alias=name, before=was)
            connection.commit()
    return Aliased(name, key, before)


def unalias(context: Context, reference: str, name: str) -> Aliased:
    """Remove an alias of the series that a reference names. Raises NameRefused or NotFound."""
    check_alias(name)
    at = history.now()
    with context.catalog.write() as connection:
        key = resolve.unweighted(connection, reference)
        before = marks.remove_alias(connection, catalog_series.get(connection, key.name), name)
        history.write(connection, at, "unalias", str(before), alias=name)
        connection.commit()
    return Aliased(name, None, before)


def note(context: Context, reference: str, text: str) -> Noted:
    """Leave a remark on a version; several stay side by side. Raises NameRefused or NotFound."""
    text = text.strip()
    if not text:
        raise NameRefused("the note", text, "it is empty", "Say something in it.")
    at = history.now()
    with context.catalog.write() as connection:
        key = resolve.unweighted(connection, reference)
        marks.add_note(connection, key.id, text, at)
        history.write(connection, at, "note", str(key), text=text)
        connection.commit()
    return Noted(key, text)


def metric(context: Context, reference: str, metrics: Mapping[str, float]) -> Measured:
    """Record measured numbers of a version; earlier ones of the same name stay.

    A name is read like an adapter's (``eval/loss``). Raises NameRefused, also for a
    number that is not finite, or NotFound; then none was recorded.
    """
    for name, value in metrics.items():
        check_name(name, "the metric")
        if len(name) > _METRIC_NAME:
            reason = f"it is longer than {_METRIC_NAME} characters"
            raise NameRefused("the metric", name, reason, "Choose a shorter name.")
        if not math.isfinite(value):
            reason = "it is not a finite number"
            raise NameRefused("the metric", f"{name}={value}", reason, "Write it as loss=0.7.")
    at = history.now()
    with context.catalog.write() as connection:
        key = resolve.unweighted(connection, reference)
        for name, value in metrics.items():
            marks.add_metric(connection, key.id, name, value, at)
        history.write(connection, at, "metric", str(key), metrics=dict(metrics))
        connection.commit()
    return Measured(key, dict(metrics))
