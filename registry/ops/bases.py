"""Bases: taking one in, listing and showing them, and opening one to work with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adreg.registry.bases.base import Base, read_base
from adreg.registry.bases.locate import locate
from adreg.registry.catalog import bases
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import BaseFacts, BaseFile, BaseRecord
from adreg.registry.errors import AlreadyExists, BaseRefused, NotFound
from adreg.registry.names import check_name, suggest_name
from adreg.registry.ops import base_files, history
from adreg.registry.ops.context import Context


@dataclass(frozen=True, slots=True)
class BaseAdded:
    """A base in the catalog: ``new`` in it, or known and perhaps ``moved`` to another folder."""

    record: BaseRecord
    new: bool
    moved: bool
    tensors: int


@dataclass(frozen=True, slots=True)
class BaseShown:
    """All that is known of a base; ``present`` tells whether its folder is there now."""

    record: BaseRecord
    files: tuple[BaseFile, ...]
    present: bool


@dataclass(frozen=True, slots=True)
class Away:
    """A base that is on the Hub: where the cache would keep it, and its files with their sizes."""

    location: Path
    files: tuple[BaseFile, ...]


@dataclass(frozen=True, slots=True)
class OpenedBase:
    """A base as it lies on disk now, and its record if the catalog knows it.

    Of one that is ``away`` only what its headers say is here.
    """

    base: Base
    record: BaseRecord | None
    text: str
    away: Away | None = None

    @property
    def name(self) -> str:
        """What to call it: its name in the catalog, on the Hub, or its folder."""
        if self.record is not None:
            return self.record.name
        return self.base.hub_repo or str(self.base.folder)

    @property
    def known_names(self) -> frozenset[str]:
        """All that an adapter may call it: name, other names, Hub id, folder."""
        folder = self.base.folder
        names = {self.text.removeprefix("hf://"), str(folder), str(folder.resolve())}
        if self.base.hub_repo is not None:
            names.add(self.base.hub_repo)
        if self.record is not None:
            names.update((self.record.name, *self.record.aliases))
        return frozenset(names)


def add_base(  # noqa: PLR0913  # one argument for each thing that can be said of a base
    context: Context,
    text: str,
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    licence: str | None = None,
    dequantize: bool = False,
) -> BaseAdded:
    """Record a base: a checkpoint's folder, or OWNER/REPO[@REVISION] of the Hugging Face cache.

    With ``dequantize`` a quantised one is recorded as the checkpoint that it decodes to.
    Nothing is copied. Raises NameRefused, NotFound, BaseRefused, and AlreadyExists when
    the name is another base's or the folder holds another one than was recorded.
    """
    if name is not None:
        check_name(name)
    base = read_base(_absolute(locate(text).folder), dequantize=dequantize)
    with context.catalog.write() as connection:
        added = record_base(connection, base, name=name, aliases=aliases, licence=licence)
        connection.commit()
    return added


def record_base(  # noqa: PLR0913  # as ``add_base``
    connection: Connection,
    base: Base,
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    licence: str | None = None,
    files: tuple[BaseFile, ...] | None = None,
) -> BaseAdded:
    """Record a base that was read, in a transaction of the caller's; see ``add_base``.

    ``files`` are those of a base that is not in its folder.
    """
    at = history.now()
    files = _seen(base) if files is None else files
    facts = _facts(base, licence)
    others = [*([base.hub_repo] if base.hub_repo else []), *aliases]
    tensors = len(base.layout.places)
    known = _known(connection, base, name)
    if known is None:
        wanted = name or _default_name(connection, base)
        record = bases.add(connection, wanted, facts, aliases=others, files=files, at=at)
        _tell(connection, "base add", record, at)
        return BaseAdded(record, new=True, moved=False, tensors=tensors)
    moved = known.facts.location != facts.location
    if licence is None:  # what a person said before counts more than the card
        facts = _facts(base, known.facts.licence)
    if moved or facts != known.facts:
        bases.replace_facts(connection, known.id, facts)
        _tell(connection, "base update", known, at)
    bases.set_files(connection, known.id, files)
    bases.add_aliases(connection, known.id, others)
    record = bases.get(connection, known.id)
    return BaseAdded(record, new=False, moved=moved, tensors=tensors)


def free_name(connection: Connection, base: Base, wanted: str | None = None) -> str:
    """Return a name, a base's default one, with a number behind it if another base has it."""
    name = wanted or _default_name(connection, base)
    numbered = (f"{name[:90]}-{number}" for number in itertools.count(2))
    names = itertools.chain([name], numbered)
    return next(one for one in names if not bases.known_as(connection, one))


def list_bases(context: Context) -> tuple[BaseRecord, ...]:
    """Return all bases, by name."""
    with context.catalog.read() as connection:
        return bases.every(connection)


def show_base(context: Context, name: str) -> BaseShown:
    """Return all that is known of a base by its name or another name of it; raise NotFound."""
    with context.catalog.read() as connection:
        record = bases.resolve(connection, name)
        files = bases.files(connection, record.id)
    return BaseShown(record, files, record.facts.location.is_dir())


def open_base(context: Context, text: str, *, dequantize: bool = False) -> OpenedBase:
    """Find a base and read its headers as they are now.

    ``text`` is a name or other name in the catalog, a folder, or OWNER/REPO[@REVISION] of
    the Hugging Face cache. Raises NotFound, and BaseRefused when a recorded base is gone
    or has other tensors than were recorded.
    """
    is_path = text.startswith((".", "/", "~", "hf://")) or "\\" in text
    if not is_path:
        with context.catalog.read() as connection:
            if bases.known_as(connection, text):
                return open_record(bases.resolve(connection, text), text)
    try:
        base = read_base(_absolute(locate(text).folder), dequantize=dequantize)
    except NotFound as error:
        if is_path or error.close:
            raise
        with context.catalog.read() as connection:
            close = _close(connection, text)
        raise NotFound("base", text, close, error.advice) from error
    with context.catalog.read() as connection:
        return OpenedBase(base, same_record(connection, base), text)


def open_record(record: BaseRecord, text: str = "") -> OpenedBase:
    """Read the headers of a recorded base, and make sure that it is still what was recorded."""
    folder = record.facts.location
    again = f"If it lies elsewhere now: adreg base add FOLDER --name {record.name}"
    if not folder.is_dir() and folder.name == record.facts.revision:  # of the cache
        fetch = f"`hf download {record.facts.hub_repo} --revision {record.facts.revision}`"
        reason = f"the base {record.name} is not in the Hugging Face cache"
        raise BaseRefused(folder, reason, f"Fetch it with {fetch}, or merge with --stream.")
    if not folder.is_dir():
        raise BaseRefused(folder, f"the folder of the base {record.name} is gone", again)
    # A quantised base is recorded only by one who asked to decode it.
    base = read_base(folder, dequantize=True)
    if base.layout_digest != record.facts.layout_digest:
        reason = f"it no longer holds the tensors that were recorded as the base {record.name}"
        raise BaseRefused(folder, reason, again)
    return OpenedBase(base, record, text or record.name)


def _known(connection: Connection, base: Base, name: str | None) -> BaseRecord | None:
    """Return the record that this very base has already; raise AlreadyExists for another one."""
    if name is None:
        there = bases.find_by_location(connection, base.folder)
        same = same_record(connection, base)
        if same is None and there:
            advice = "What lies in its folder has changed: choose another name with --name."
            raise AlreadyExists("base", there[0].name, advice)
        return same
    found = bases.find(connection, name)
    if found is not None and not _is_same(base, found):
        raise AlreadyExists("base", found.name, "It has other tensors: choose another name.")
    return found


def same_record(connection: Connection, base: Base) -> BaseRecord | None:
    """Return the record of the base in this folder, None when it holds another one by now."""
    there = bases.find_by_location(connection, base.folder)
    return next((one for one in there if _is_same(base, one)), None)


def _is_same(base: Base, record: BaseRecord) -> bool:
    return record.facts.layout_digest == base.layout_digest


def _default_name(connection: Connection, base: Base) -> str:
    if base.hub_repo is None:
        return suggest_name(base.folder.resolve().name)
    name = "/".join(suggest_name(part) for part in base.hub_repo.split("/"))
    if base.revision is not None and bases.find(connection, name) is not None:
        return f"{name[:180]}-{base.revision[:7]}"  # another revision of the same repository
    return name


def _facts(base: Base, licence: str | None) -> BaseFacts:
    return BaseFacts(
        source_kind="path" if base.hub_repo is None else "hub",
        location=base.folder,
        architecture=base.architecture or "",
        model_type=base.model_type or "",
        dtype=base.dtype,
        parameters=base.parameters,
        bytes=base.nbytes,
        layout_digest=base.layout_digest,
        config_digest=base.config_digest,
        hub_repo=base.hub_repo,
        revision=base.revision,
        licence=licence or base.licence,
    )


def _seen(base: Base) -> tuple[BaseFile, ...]:
    return tuple(base_files.look(base.folder, name) for name in base_files.names(base))


def _close(connection: Connection, text: str) -> tuple[str, ...]:
    try:
        bases.resolve(connection, text)
    except NotFound as error:
        return error.close
    return ()


def _tell(connection: Connection, action: str, record: BaseRecord, at: datetime) -> None:
    history.write(
        connection,
        at,
        action,
        record.name,
        location=str(record.facts.location),
        layout_digest=record.facts.layout_digest,
        hub_repo=record.facts.hub_repo,
        revision=record.facts.revision,
    )


def _absolute(folder: Path) -> Path:
    # Not resolve(): the cache's snapshots are told by their names.
    return folder.absolute()
