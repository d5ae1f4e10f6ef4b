"""One adapter on its way into the catalog: what is said of it, and what becomes of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases import hf_cache
from adreg.registry.bases.verdict import Verdict
from adreg.registry.catalog import history as entries_of
from adreg.registry.catalog import marks, sources, versions
from adreg.registry.catalog.adapters import NewAdapter
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import BaseRecord, Content, HistoryEntry, Source, VersionKey
from adreg.registry.names import Tag, suggest_name
from adreg.registry.ops import beside
from adreg.registry.ops.bases import OpenedBase
from adreg.registry.ops.converting import Incoming
from adreg.registry.ops.readings import facts_of

_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a folder truly came from: a place on the Hub, ``OWNER/REPO[/FOLDER]`` at a commit.

    ``record`` writes what more there is to say, in the transaction that records the version.
    """

    location: str
    commit: str
    record: Callable[[Connection, VersionKey, datetime], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller says of an adapter; see ``add``."""

    name: str | None = None
    base: str | None = None
    tags: tuple[Tag, ...] = ()
    aliases: tuple[str, ...] = ()
    note: str | None = None
    licence: str | None = None
    convert_pickle: bool = False
    alpha: float | None = None
    component: str | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """An adapter that is in the catalog now, or would be after a dry run.

    ``key`` is None for what a dry run would add. ``new`` is false when these very bytes
    were there already; ``repaired`` tells that the stored ones were damaged and are whole
    again. ``left_out`` are files of the folder that were not taken in, each with the
    reason. ``verdict`` is None when no base was at hand. ``converted`` says what it was
    before, None when PEFT wrote it; ``remarks`` tell what was special about that.
    """

    path: Path
    name: str
    key: VersionKey | None
    new: bool
    repaired: bool
    digest: str
    bytes: int
    parameters: int
    peft_type: str
    rank: int | None
    targets: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    base: str | None
    verdict: Verdict | None
    converted: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """How to name it from now on."""
        return self.name if self.key is None else str(self.key)


def default_name(folder: Path) -> str:
    """Make a name of a folder's; a snapshot has its repository's, a checkpoint its run's too."""
    if folder.is_file():
        return suggest_name(folder.stem)
    known = hf_cache.identify(folder)
    if known is not None:
        return "/".join(suggest_name(part) for part in known[0].split("/"))
    real = folder.resolve()
    if _CHECKPOINT.fullmatch(real.name) and real.parent.name:
        return suggest_name(f"{real.parent.name}-{real.name}")
    return suggest_name(real.name)


@dataclass(frozen=True, slots=True)
class Adding:
    """One adapter that was read and judged, and is not recorded yet."""

    came: Incoming
    spec: AdapterSpec
    content: Content
    wishes: Wishes
    opened: OpenedBase | None
    verdict: Verdict | None

    @property
    def name(self) -> str:
        """What it is called if its bytes are new."""
        return self.wishes.name or default_name(self.came.origin)

    def new(self, base: BaseRecord | None, at: datetime) -> NewAdapter:
        """Return it as the catalog records it."""
        base_id = None if base is None else base.id
        return NewAdapter(self.name, self.content, facts_of(self.spec), self._source(at), base_id)

    def _remarks(self) -> Iterator[str]:
        return beside.of_adapter(self.spec, None if self.opened is None else self.opened.base)

    def added(
        self,
        key: VersionKey | None,
        *,
        new: bool,
        repaired: bool = False,
        base: BaseRecord | None = None,
    ) -> Added:
        """Return what became of it."""
        called = None if self.opened is None else self.opened.name
        return Added(
            path=self.came.origin,
            name=key.name if key is not None else self.name,
            key=key,
            new=new,
            repaired=repaired,
            digest=self.content.digest,
            bytes=self.content.bytes,
            parameters=self.content.parameters,
            peft_type=self.spec.peft_type,
            rank=facts_of(self.spec).rank,
            targets=self.spec.targets,
            left_out=self.spec.left_out + self.came.left_out,
            base=called if base is None else base.name,
            verdict=self.verdict,
            converted=self.came.converted,
            remarks=(*self.came.remarks, *self._remarks()),
        )

    def has_news(self, connection: Connection, key: VersionKey, at: datetime) -> bool:
        """Tell whether something is said of a known version that is not recorded of it."""
        wishes = self.wishes
        if wishes.tags or wishes.aliases or wishes.note or wishes.base:
            return True
        mine = self._source(at)
        return (mine.kind, mine.location, mine.revision) not in {
            (one.kind, one.location, one.revision) for one in sources.of(connection, key.id)
        }

    def annotate(
        self, connection: Connection, key: VersionKey, base: BaseRecord | None, at: datetime
    ) -> None:
        """Record what is said of a version that is known."""
        sources.add(connection, key.id, self._source(at))
        if base is not None:
            versions.set_base(connection, key.id, base.id)
        self.mark(connection, key, at)

    def mark(self, connection: Connection, key: VersionKey, at: datetime) -> None:
        """Record the tags, the aliases and the note that were wished for."""
        if self.wishes.origin is not None:
            self.wishes.origin.record(connection, key, at)
        for tag in self.wishes.tags:
            marks.set_tag(connection, key.id, tag)
        for alias in self.wishes.aliases:
            marks.set_alias(connection, key, alias, at)
        if self.wishes.note and self.wishes.note not in {
            note.text for note in marks.of(connection, key.id).notes
        }:
            marks.add_note(connection, key.id, self.wishes.note, at)

    def entry(self, key: VersionKey, action: str, at: datetime) -> HistoryEntry:
        """Return the line of the history that tells of it."""
        path = str(self.came.origin)
        detail = {
            "source": path if self.wishes.origin is None else self._source(at).location,
            "converted": self.came.converted,
            "digest": key.digest,
            "base": None if self.opened is None else self.opened.name,
            "verdict": None if self.verdict is None else self.verdict.grade.value,
            "tags": [str(tag) for tag in self.wishes.tags],
            "aliases": list(self.wishes.aliases),
        }
        return HistoryEntry(at, entries_of.this_actor(), action, str(key), detail)

    def _source(self, at: datetime) -> Source:
        if (hub := self.wishes.origin) is not None:
            return Source("hub", hub.location, at, hub.commit)
        origin = self.came.origin
        known = hf_cache.identify(origin if origin.is_dir() else origin.parent)
        if known is not None:
            return Source("hub", known[0], at, known[1])
        return Source("path", str(origin.resolve()), at)
