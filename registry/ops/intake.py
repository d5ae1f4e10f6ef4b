"""Taking adapters in together: staged one by one, then made durable and recorded at once.

A commit and its fsyncs cost as much for thirty adapters as for one. Each is still taken
in whole or not at all, and none is told of before it is durable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import final

from adreg.registry import digest
from adreg.registry.adapters.files import CONFIG, WEIGHTS
from adreg.registry.adapters.foreign.form import BaseView, Said
from adreg.registry.adapters.peft_folder import Unread, look_at
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.adapters.values import PassingValues
from adreg.registry.bases.verdict import Grade, judge
from adreg.registry.catalog import adapters, versions
from adreg.registry.catalog import bases as catalog_bases
from adreg.registry.catalog import history as entries_of
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import BaseRecord, VersionKey
from adreg.registry.digest import FileDigest
from adreg.registry.errors import (
    AdapterRefused,
    AdregError,
    AlreadyExists,
    CatalogError,
    Incompatible,
    InputRefused,
    WriteFailed,
)
from adreg.registry.names import suggest_name
from adreg.registry.ops import history
from adreg.registry.ops.adding import Added, Adding, Wishes
from adreg.registry.ops.bases import OpenedBase, open_base, open_record, record_base
from adreg.registry.ops.context import Context
from adreg.registry.ops.converting import incoming, view_of
from adreg.registry.ops.leftovers import take_back
from adreg.registry.ops.readings import content_of
from adreg.registry.progress import SILENT, Progress
from adreg.registry.store.copying import CHANGED, See, read_through
from adreg.registry.store.publication import Publication
from adreg.registry.tensors.header import read_header

_TOGETHER = 32
"""Adapters in one transaction."""
_BYTES_TOGETHER = 256 << 20


def befalls_all(error: AdregError) -> bool:
    """Tell whether an error is of the disk or the catalog, and not of one adapter."""
    return isinstance(error, WriteFailed | CatalogError)


@final
class Intake:
    """Adapters on their way in together: ``put`` each, then ``commit``, and so on.

    Leaving by an exception leaves nothing of what was not committed.
    """

    def __init__(self, context: Context, *, dry_run: bool = False) -> None:
        """Touch no disk yet; a dry run never does."""
        self._context = context
        self._dry_run = dry_run
        self._publication: Publication | None = None
        self._adding: list[Adding] = []
        self._named: dict[tuple[str, str | None], OpenedBase | None] = {}
        self._view: tuple[OpenedBase | None, BaseView | None] = (None, None)
        self._records: dict[Path, BaseRecord] = {}

    def __enter__(self) -> Intake:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what is staged; what a failed commit moved into the store is taken back."""
        if self._publication is None:
            return
        self._publication.__exit__(kind, error, traceback)
        if kind is not None:
            # What cannot be taken back now, the next add takes back.
            with contextlib.suppress(AdregError):
                take_back(self._context)

    @property
    def is_full(self) -> bool:
        """Whether it is time to ``commit``."""
        together = sum(one.content.bytes for one in self._adding)
        return len(self._adding) >= _TOGETHER or together >= _BYTES_TOGETHER

    def put(
        self, path: Path, wishes: Wishes, opened: OpenedBase | None, progress: Progress = SILENT
    ) -> None:
        """Read and check an adapter, and stage its files in the same pass; raise as ``ops.add``."""
        if self._view[0] is not opened:
            self._view = opened, view_of(None if opened is None else opened.base)
        said = Said(wishes.alpha, wishes.component, wishes.convert_pickle, self._view[1])
        context = replace(self._context, progress=progress)
        with incoming(context, path.absolute(), said, dry_run=self._dry_run) as came:
            unread = look_at(came.folder, progress)
            opened = opened or self._named_base(unread.spec)
            verdict = None
            if opened is not None:
                verdict = judge(unread.spec, opened.base, opened.known_names)
                if verdict.grade is Grade.INCOMPATIBLE:
                    raise Incompatible(str(came.origin), opened.name, verdict.reasons)
            spec = replace(unread.spec, files=self._read(unread, progress))
        content = content_of(spec, wishes.licence)
        self._adding.append(Adding(came, spec, content, wishes, opened, verdict))

    def commit(self) -> list[Added | AdregError]:
        """Record all that was put, and return what became of each, in order.

        What is refused is returned too, and is in the way of no other. Raises what
        befalls all, WriteFailed, DiskFull and CatalogError: nothing is recorded then.
        """
        adding, self._adding = self._adding, []
        done: dict[int, Added | AdregError] = {}
        if self._dry_run:
            return [self._looked_at(one) for one in adding]
        while rest := [index for index in range(len(adding)) if index not in done]:
            # Of equal ones the first is new; the others are known once it is recorded.
            first = {adding[index].content.digest: index for index in reversed(rest)}
            now = sorted(first.values())
            done.update(zip(now, self._recorded([adding[index] for index in now]), strict=True))
        if self._publication is not None:
            self._publication.__exit__(None, None, None)
            self._publication = None
        return [done[index] for index in range(len(adding))]

    def _looked_at(self, one: Adding) -> Added:
        with self._context.catalog.read() as connection:
            known = versions.find_by_digest(connection, "adapter", one.content.digest)
        return one.added(known, new=known is None)

    def _recorded(self, several: Sequence[Adding]) -> Sequence[Added | AdregError]:
        try:
            return self._record(several)
        except AdregError as error:
            if befalls_all(error):
                raise
            if len(several) == 1:
                return [error]
        return [outcome for one in several for outcome in self._recorded([one])]

    def _record(self, several: Sequence[Adding]) -> list[Added | AdregError]:
        """Record adapters of different bytes in one transaction, or raise what one is refused."""
        ours = {one.content.digest: one for one in several}
        damaged, idle = self._known(ours)
        if len(idle) == len(ours):
            return [one.added(idle[sha], new=False) for sha, one in ours.items()]
        publication = self._staging()
        for sha, one in ours.items():  # the known too: another process may remove them meanwhile
            publication.draw(sha, one.content.files)
        publication.sync()
        at, records, outcomes = history.now(), dict(self._records), {}
        with self._context.catalog.write() as connection:
            # Asked again: another process may have been faster.
            known = versions.find_by_digests(connection, "adapter", ours)
            bases = {sha: _record_of(connection, one, records) for sha, one in ours.items()}
            new = [sha for sha in ours if sha not in known]
            rows = [ours[sha].new(bases[sha], at) for sha in new]
            keys = adapters.add_all(connection, rows, at=at) if rows else []
            entries = []
            for sha, key in zip(new, keys, strict=True):
                ours[sha].mark(connection, key, at)
                entries.append(ours[sha].entry(key, "add", at))
                outcomes[sha] = ours[sha].added(key, new=True, base=bases[sha])
            for sha, key in known.items():
                repaired = damaged.get(sha, False)
                if repaired or (sha not in idle and ours[sha].has_news(connection, key, at)):
                    ours[sha].annotate(connection, key, bases[sha], at)
                    action = "repair" if repaired else "add again"
                    entries.append(ours[sha].entry(key, action, at))
                outcomes[sha] = ours[sha].added(key, new=False, repaired=repaired)
            entries_of.append(connection, *entries)
            if settled := [sha for sha in ours if sha in new or damaged.get(sha, False)]:
                publication.settle(*settled)
            connection.commit()
        publication.committed()
        self._records = records
        return [outcomes[sha] for sha in ours]

    def _known(self, ours: dict[str, Adding]) -> tuple[dict[str, bool], dict[str, VersionKey]]:
        """Return which versions are known and whether damaged, and those with nothing to do."""
        at = history.now()
        with self._context.catalog.read() as connection:
            known = versions.find_by_digests(connection, "adapter", ours)
            news = {sha: ours[sha].has_news(connection, key, at) for sha, key in known.items()}
        store = self._context.store
        damaged = {sha: bool(store.verify(sha, ours[sha].content.files)) for sha in known}
        idle = {sha: key for sha, key in known.items() if not damaged[sha] and not news[sha]}
        return damaged, idle

    def _read(self, unread: Unread, progress: Progress) -> tuple[FileDigest, ...]:
        """Read the files once: stage them, unless nothing is written, and check the values."""
        spec, kept = unread.spec, unread.kept
        values = PassingValues(spec.tensors)
        verb = "Reading" if self._dry_run else "Copying"
        progress.start(f"{verb} {spec.folder.name}", sum(map(_size, kept.values())))
        try:
            if self._dry_run:
                files = tuple(
                    read_through(path, name, *_seeing(name, values), _hearing(progress))
                    for name, path in sorted(kept.items())
                )
            else:
                see = {WEIGHTS: values.see}
                files = self._staging().take(kept, see, progress.advance)
        finally:
            progress.finish()
        if reasons := values.reasons():
            raise AdapterRefused(spec.folder, tuple(reasons))
        named = {file.name: file for file in files}
        weights = spec.weights.path
        if not self._dry_run:
            weights = self._staging().place(named[WEIGHTS])
        header = read_header(weights)
        # What was checked and what was read are two readings of one file.
        for name, same in (
            (WEIGHTS, header.tensors == spec.weights.tensors),
            (CONFIG, digest.of_bytes(spec.config_text.encode()) == named[CONFIG].sha256),
        ):
            if not same:
                raise InputRefused(spec.folder / name, *CHANGED)
        return files

    def _staging(self) -> Publication:
        if self._publication is None:
            self._publication = self._context.store.publication()
        return self._publication

    def _named_base(self, spec: AdapterSpec) -> OpenedBase | None:
        """Open the base that an adapter names, if it is at hand; each is looked for once."""
        if spec.base_hint is None:
            return None
        key = spec.base_hint, spec.base_revision
        if key not in self._named:
            self._named[key] = _named_base(self._context, *key)
        return self._named[key]


def _named_base(context: Context, hint: str, wanted: str | None) -> OpenedBase | None:
    """Open the base of this name and revision; that it is not at hand is no fault."""
    with context.catalog.read() as connection:
        known = catalog_bases.known_as(connection, hint)
    if wanted is not None and len(known) > 1:
        known = tuple(one for one in known if one.facts.revision == wanted)
    try:
        if len(known) == 1:
            return open_record(known[0], hint)
        if known:
            return None
        # A relative path in a file of somebody else's means nothing here.
        text = hint if Path(hint).is_absolute() else f"hf://{hint}"
        revision = f"@{wanted}" if wanted and text != hint else ""
        return open_base(context, text + revision)
    except AdregError:
        return None


def _record_of(
    connection: Connection, one: Adding, records: dict[Path, BaseRecord]
) -> BaseRecord | None:
    """Return the base's record; a base that was named by --base gets one, if need be."""
    opened = one.opened
    if opened is None or opened.record is not None:
        return None if opened is None else opened.record
    if one.wishes.base is None:
        return None
    folder = opened.base.folder
    if folder not in records:
        try:
            records[folder] = record_base(connection, opened.base).record
        except AlreadyExists:  # its default name is another base's
            marked = f"{suggest_name(folder.name)[:80]}-{opened.base.layout_digest[:8]}"
            records[folder] = record_base(connection, opened.base, name=marked).record
    return records[folder]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it tells
        return 0


def _seeing(name: str, values: PassingValues) -> Iterator[See]:
    if name == WEIGHTS:
        yield values.see


def _hearing(progress: Progress) -> See:
    return lambda piece: progress.advance(len(piece))
