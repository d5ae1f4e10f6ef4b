"""Finding the base and the adapters of a lock file here, by what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from adreg.registry.bases.base import CONFIG
from adreg.registry.catalog import bases, show, versions
from adreg.registry.catalog.records import BaseFile
from adreg.registry.digest import FileDigest
from adreg.registry.errors import BaseRefused, NotFound
from adreg.registry.names import Reference
from adreg.registry.ops import base_files
from adreg.registry.ops.bases import OpenedBase, open_base, open_record
from adreg.registry.ops.context import Context
from adreg.registry.ops.specs import OpenedVersion, read_stored
from adreg.registry.release.lock import LockedAdapter, LockedBase

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class FoundBase:
    """The base of a lock file as it lies here; ``files`` are its files with their digests."""

    opened: OpenedBase
    files: tuple[BaseFile, ...]


def find_base(
    context: Context, locked: LockedBase, text: str | None = None, *, dequantize: bool = False
) -> FoundBase:
    """Return the base that has the lock's layout and files: the one named, else any that is known.

    Only the side files that the lock names count. Raises BaseRefused that names what
    differs, NotFound when none is known.
    """
    if text is not None:
        opened = open_base(context, text, dequantize=dequantize)
        found, reasons = _compare(context, locked, opened)
        if found is None:
            raise _refused(opened, reasons)
        return found
    refused: BaseRefused | None = None
    for opened in _candidates(context, locked):
        found, reasons = _compare(context, locked, opened)
        if found is not None:
            return found
        refused = refused or _refused(opened, reasons)
    if refused is not None:
        raise refused
    advice = "Name its folder with --base."
    if locked.repo is not None:
        at = f" --revision {locked.revision}" if locked.revision else ""
        advice = (
            f"Download it with `hf download {locked.repo}{at}`, or name its folder with --base."
        )
    raise NotFound("base", locked.names[0], (), advice)


def find_adapter(context: Context, locked: LockedAdapter) -> OpenedVersion:
    """Return the adapter with the lock's digest, whatever it is called here.

    Its stored files are hashed. Raises NotFound with where to get it, or Damaged.
    """
    with context.catalog.read() as connection:
        key = versions.find_by_digest(connection, "adapter", locked.digest)
        record = None if key is None else show.adapter(connection, key)
    if key is None or record is None:
        raise NotFound(
            "adapter", f"{locked.reference} (digest {locked.digest[:12]})", (), _source(locked)
        )
    return OpenedVersion(read_stored(context, record), record, Reference.parse(str(key)))


def _source(locked: LockedAdapter) -> str:
    if not locked.sources:
        return "Add it from where it came from: adreg add FOLDER."
    source = locked.sources[0]
    at = f"@{source.revision}" if source.revision else ""
    return f"It came from hf://{source.repo}{at}: download that, and adreg add FOLDER."


def _candidates(context: Context, locked: LockedBase) -> Iterator[OpenedBase]:
    with context.catalog.read() as connection:
        records = {one.id: one for name in locked.names for one in bases.known_as(connection, name)}
        for one in bases.find_by_layout(connection, locked.layout_digest):
            records.setdefault(one.id, one)
    for record in records.values():
        if (opened := _opened(partial(open_record, record))) is not None:
            yield opened
    if locked.repo is not None:
        at = f"@{locked.revision}" if locked.revision else ""
        opened = _opened(partial(open_base, context, f"hf://{locked.repo}{at}"))
        if opened is not None:
            yield opened


def _opened(open_it: Callable[[], OpenedBase]) -> OpenedBase | None:
    try:
        return open_it()
    except (NotFound, BaseRefused):
        return None


def _compare(
    context: Context, locked: LockedBase, opened: OpenedBase
) -> tuple[FoundBase | None, list[str]]:
    """Return the base if it is the lock's, else what differs; cheap questions first."""
    if opened.base.layout_digest != locked.layout_digest:
        return None, ["its tensors have other names, dtypes or shapes"]
    if opened.base.config_digest != locked.config_digest:
        return None, [f"its {CONFIG} is another one"]
    wanted = {file.name: file for file in locked.files}
    allowed = opened.base.with_code() if any(n.endswith(".py") for n in wanted) else opened.base
    side_files = tuple(name for name in allowed.side_files if not wanted or name in wanted)
    base = replace(allowed, side_files=side_files)
    there = base_files.names(base)
    if missing := sorted(set(wanted) - set(there)):
        return None, [f"it lacks {name}" for name in missing]
    hashed: tuple[BaseFile, ...] = ()
    if wanted:
        hashed = base_files.hash_files(base, _known(context, opened), context.progress)
    differing = [f"its {one.path} differs" for one in hashed if _differs(one, wanted)]
    return (None, differing) if differing else (FoundBase(replace(opened, base=base), hashed), [])


def _differs(seen: BaseFile, wanted: dict[str, FileDigest]) -> bool:
    file = wanted.get(seen.path)
    return file is None or file.sha256 != seen.sha256


def _known(context: Context, opened: OpenedBase) -> tuple[BaseFile, ...]:
    if opened.record is None:
        return ()
    with context.catalog.read() as connection:
        return bases.files(connection, opened.record.id)


def _refused(opened: OpenedBase, reasons: list[str]) -> BaseRefused:
    rest = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return BaseRefused(
        opened.base.folder,
        f"it is not the base of the lock file: {'; '.join(reasons[:_SHOWN])}{rest}",
        "Name the folder of the very base with --base.",
    )
