"""Taking an adapter in: read, checked, copied into the store, recorded."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adreg.registry import digest
from adreg.registry.adapters.config import rank_of
from adreg.registry.adapters.foreign.form import Said
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.adapters.spec import AdapterSpec, Part
from adreg.registry.bases import hf_cache
from adreg.registry.bases.verdict import Grade, Verdict, judge
from adreg.registry.catalog import adapters, marks, sources, versions
from adreg.registry.catalog import bases as catalog_bases
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import (
    AdapterFacts,
    BaseRecord,
    Content,
    Source,
    VersionKey,
)
from adreg.registry.errors import AdregError, AlreadyExists, Incompatible
from adreg.registry.names import Tag, check_alias, check_name, suggest_name
from adreg.registry.ops import history
from adreg.registry.ops.bases import OpenedBase, open_base, open_record, record_base
from adreg.registry.ops.context import Context
from adreg.registry.ops.converting import Incoming, incoming, view_of
from adreg.registry.ops.leftovers import take_back

_CHECKPOINT = re.compile(r"checkpoint-\d+")


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


def add(  # noqa: PLR0913  # one argument for each thing that can be said of an adapter
    context: Context,
    path: Path,
    *,
    name: str | None = None,
    base: str | None = None,
    tags: Sequence[Tag] = (),
    aliases: Sequence[str] = (),
    note: str | None = None,
    licence: str | None = None,
    convert_pickle: bool = False,
    alpha: float | None = None,
    component: str | None = None,
    dry_run: bool = False,
) -> Added:
    """Take in the adapter at ``path``: a new one, or the next version of a known name.

    A PEFT folder is taken as it is; what ``adapters/foreign`` reads is converted to one,
    a pickle only with ``convert_pickle``. ``alpha`` and ``component`` are for formats that
    do not hold the one, or hold several of the other.

    The same bytes again make no second version; what is said of them is noted all the
    same. ``base`` is what ``open_base`` takes, and is recorded too; without it the base
    that the adapter names is looked for in the catalog and the Hugging Face cache. On
    any error nothing is recorded and nothing is left in the store. Raises NameRefused,
    what ``read_adapter`` and ``incoming`` raise, Incompatible, NotFound, BaseRefused,
    AlreadyExists for the name of a model, InputRefused, WriteFailed, DiskFull, CatalogError.
    """
    marked = (tuple(tags), tuple(aliases), note, licence)
    wishes = Wishes(name, base, *marked, convert_pickle, alpha, component)
    if name is not None:
        check_name(name)
    for alias in aliases:
        check_alias(alias)
    if not dry_run:
        take_back(context)
    opened = open_base(context, base) if base is not None else None
    return add_read(context, path, wishes, opened, dry_run=dry_run)


def add_read(
    context: Context, path: Path, wishes: Wishes, opened: OpenedBase | None, *, dry_run: bool
) -> Added:
    """Do what ``add`` does once its wishes are checked and its base is open."""
    view = view_of(None if opened is None else opened.base)
    said = Said(wishes.alpha, wishes.component, wishes.convert_pickle, view)
    with incoming(context, path.absolute(), said, dry_run=dry_run) as came:
        return _add_incoming(context, came, wishes, opened, dry_run=dry_run)


def _add_incoming(
    context: Context, came: Incoming, wishes: Wishes, opened: OpenedBase | None, *, dry_run: bool
) -> Added:
    spec = read_adapter(came.folder, progress=context.progress)
    content = _content(spec, wishes.licence)
    opened = opened or _named_base(context, spec)
    verdict = None if opened is None else judge(spec, opened.base, opened.known_names)
    if opened is not None and verdict is not None and verdict.grade is Grade.INCOMPATIBLE:
        raise Incompatible(str(came.origin), opened.name, verdict.reasons)
    adding = _Adding(context, came, spec, content, wishes, opened, verdict)
    with context.catalog.read() as connection:
        known = versions.find_by_digest(connection, "adapter", content.digest)
    if known is not None:
        return adding.again(known, dry_run=dry_run)
    if dry_run:
        return adding.added(None, new=True)
    return adding.take_in()


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
class _Adding:
    """One adapter that was read and judged, on its way into the catalog."""

    context: Context
    came: Incoming
    spec: AdapterSpec
    content: Content
    wishes: Wishes
    opened: OpenedBase | None
    verdict: Verdict | None

    def take_in(self) -> Added:
        """Copy the files into the store and record them, or neither."""
        store = self.context.store
        try:
            with store.publication(self.content.digest, self.content.files) as publication:
                publication.copy(self.spec.folder, self.context.progress)
                with self.context.catalog.write() as connection:
                    known = versions.find_by_digest(connection, "adapter", self.content.digest)
                    if known is None:
                        base = self._base(connection)
                        key = self._record(connection, base)
                        publication.settle()
                        connection.commit()
                        return self.added(key, new=True, base=base)
        except BaseException:
            # After a failed commit; what cannot be taken back now, the next add takes back.
            with contextlib.suppress(AdregError):
                take_back(self.context)
            raise
        return self.again(known, dry_run=False)  # another process was faster

    def again(self, known: VersionKey, *, dry_run: bool) -> Added:
        """Note what is said of bytes that are known, and mend the stored ones if need be."""
        store, files = self.context.store, self.content.files
        damaged = bool(store.verify(self.content.digest, files))
        if dry_run:
            return self.added(known, new=False)
        if damaged:
            with store.publication(self.content.digest, files) as publication:
                publication.copy(self.spec.folder, self.context.progress)
                with self.context.catalog.write() as connection:
                    self._annotate(connection, known, "repair")
                    publication.settle()
                    connection.commit()
        elif self._has_news(known):
            with self.context.catalog.write() as connection:
                self._annotate(connection, known, "add again")
                connection.commit()
        return self.added(known, new=False, repaired=damaged)

    def added(
        self,
        key: VersionKey | None,
        *,
        new: bool,
        repaired: bool = False,
        base: BaseRecord | None = None,
    ) -> Added:
        called = None if self.opened is None else self.opened.name
        return Added(
            path=self.came.origin,
            name=key.name if key is not None else self._name(),
            key=key,
            new=new,
            repaired=repaired,
            digest=self.content.digest,
            bytes=self.content.bytes,
            parameters=self.content.parameters,
            peft_type=self.spec.peft_type,
            rank=_facts(self.spec).rank,
            targets=self.spec.targets,
            left_out=self.spec.left_out + self.came.left_out,
            base=called if base is None else base.name,
            verdict=self.verdict,
            converted=self.came.converted,
            remarks=self.came.remarks,
        )

    def _name(self) -> str:
        return self.wishes.name or default_name(self.came.origin)

    def _record(self, connection: Connection, base: BaseRecord | None) -> VersionKey:
        at = history.now()
        key = adapters.add(
            connection,
            self._name(),
            self.content,
            _facts(self.spec),
            self._source(at),
            base_id=None if base is None else base.id,
            at=at,
        )
        self._mark(connection, key, at)
        self._tell(connection, key, "add", at)
        return key

    def _annotate(self, connection: Connection, key: VersionKey, action: str) -> None:
        at = history.now()
        sources.add(connection, key.id, self._source(at))
        base = self._base(connection)
        if base is not None:
            versions.set_base(connection, key.id, base.id)
        self._mark(connection, key, at)
        self._tell(connection, key, action, at)

    def _mark(self, connection: Connection, key: VersionKey, at: datetime) -> None:
        for tag in self.wishes.tags:
            marks.set_tag(connection, key.id, tag)
        for alias in self.wishes.aliases:
            marks.set_alias(connection, key, alias, at)
        if self.wishes.note and self.wishes.note not in {
            note.text for note in marks.of(connection, key.id).notes
        }:
            marks.add_note(connection, key.id, self.wishes.note, at)

    def _has_news(self, key: VersionKey) -> bool:
        wishes = self.wishes
        if wishes.tags or wishes.aliases or wishes.note or wishes.base:
            return True
        mine = self._source(history.now())
        with self.context.catalog.read() as connection:
            known = sources.of(connection, key.id)
        return (mine.kind, mine.location, mine.revision) not in {
            (one.kind, one.location, one.revision) for one in known
        }

    def _source(self, at: datetime) -> Source:
        origin = self.came.origin
        known = hf_cache.identify(origin if origin.is_dir() else origin.parent)
        if known is not None:
            return Source("hub", known[0], at, known[1])
        return Source("path", str(origin.resolve()), at)

    def _base(self, connection: Connection) -> BaseRecord | None:
        """Return the base's record; a base that was named by --base gets one, if need be."""
        if self.opened is None:
            return None
        if self.opened.record is not None:
            return self.opened.record
        if self.wishes.base is None:
            return None
        try:
            return record_base(connection, self.opened.base).record
        except AlreadyExists:  # its default name is another base's
            marked = f"{suggest_name(self.opened.base.folder.name)[:80]}-"
            marked += self.opened.base.layout_digest[:8]
            return record_base(connection, self.opened.base, name=marked).record

    def _tell(self, connection: Connection, key: VersionKey, action: str, at: datetime) -> None:
        history.write(
            connection,
            at,
            action,
            str(key),
            source=str(self.came.origin),
            converted=self.came.converted,
            digest=key.digest,
            base=None if self.opened is None else self.opened.name,
            verdict=None if self.verdict is None else self.verdict.grade.value,
            tags=[str(tag) for tag in self.wishes.tags],
            aliases=list(self.wishes.aliases),
        )


def _named_base(context: Context, spec: AdapterSpec) -> OpenedBase | None:
    """Open the base that an adapter names, if it is at hand; that it is not is no fault."""
    hint = spec.base_hint
    if hint is None:
        return None
    with context.catalog.read() as connection:
        known = catalog_bases.known_as(connection, hint)
    if spec.base_revision is not None and len(known) > 1:
        known = tuple(one for one in known if one.facts.revision == spec.base_revision)
    try:
        if len(known) == 1:
            return open_record(known[0], hint)
        if known:
            return None
        # A relative path in a file of somebody else's means nothing here.
        text = hint if Path(hint).is_absolute() else f"hf://{hint}"
        revision = f"@{spec.base_revision}" if spec.base_revision and text != hint else ""
        return open_base(context, text + revision)
    except AdregError:
        return None


def _content(spec: AdapterSpec, licence: str | None) -> Content:
    return Content(
        digest=digest.of_files(spec.files),
        bytes=sum(file.size for file in spec.files),
        parameters=spec.parameters,
        dtype=spec.dtype,
        files=spec.files,
        licence=licence or spec.licence,
    )


def _facts(spec: AdapterSpec) -> AdapterFacts:
    parts = {Part.FULL, Part.ROWS}
    modules = {tensor.module for tensor in spec.tensors if tensor.part not in parts}
    ranks = {rank_of(spec.lora, module) for module in modules} or {spec.lora.rank}
    return AdapterFacts(
        peft_type=spec.peft_type,
        config=spec.config_text,
        targets=spec.targets,
        target_count=spec.target_count,
        task_type=spec.task_type,
        rank=max(ranks) or None,
        rank_min=min(ranks) or None,
        alpha=spec.lora.alpha,
        dropout=spec.lora.dropout,
        use_rslora=spec.lora.use_rslora,
        use_dora=spec.lora.use_dora,
        bias=spec.lora.bias,
        fan_in_fan_out=spec.lora.fan_in_fan_out,
        rank_pattern=spec.lora.rank_pattern,
        alpha_pattern=spec.lora.alpha_pattern,
        modules_to_save=spec.modules_to_save,
        base_hint=spec.base_hint,
        base_revision=spec.base_revision,
        peft_version=spec.peft_version,
    )
