"""Bases that are on the Hub and not here, opened to be merged into without their weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from adreg.registry import digest
from adreg.registry.bases import hf_cache
from adreg.registry.bases.base import CONFIG, LEFT_BEHIND, TEMPLATES, Base, read_base
from adreg.registry.catalog import bases
from adreg.registry.catalog.records import BaseFile, BaseRecord
from adreg.registry.durable import require_space, write_error
from adreg.registry.errors import HubError
from adreg.registry.hub import headers
from adreg.registry.hub.answers import Entry
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.download import Downloads
from adreg.registry.names import file_fault
from adreg.registry.ops import base_files
from adreg.registry.ops.bases import Away, OpenedBase, same_record
from adreg.registry.ops.context import Context
from adreg.registry.tensors.checkpoint import INDEX

_CARD = "README.md"


@dataclass(frozen=True, slots=True)
class OnHub:
    """A base of the Hub at a commit, opened; its weight files by name, and what else came."""

    opened: OpenedBase
    repo: str
    commit: str
    weights: Mapping[str, Entry]
    small: tuple[Entry, ...]


def hub_id(context: Context, text: str) -> tuple[str, str | None] | None:
    """Return the repository and revision on the Hub that a base's name means, None for a path."""
    if not text.startswith("hf://"):
        with context.catalog.read() as connection:
            if bases.known_as(connection, text):
                facts = bases.resolve(connection, text).facts
                return (facts.hub_repo, facts.revision) if facts.hub_repo else None
        if text.startswith((".", "/", "~")) or "\\" in text:
            return None
    repo, _, revision = text.removeprefix("hf://").partition("@")
    return repo, revision or None


def open_on_hub(  # noqa: PLR0913  # whom to ask, for what, and where to put it
    context: Context,
    client: HubClient,
    downloads: Downloads,
    name: tuple[str, str | None],
    text: str,
    *,
    dequantize: bool = False,
) -> OnHub:
    """Read a base of the Hub by its name (``hub_id``): all of its small files, and headers.

    They lie below ``downloads``, in a folder whose name tells the repository and the
    commit. A weight file there is its header alone, so that reading on fails; what is
    fetched later takes its place. The catalog knows the base, if it does, by where the
    Hugging Face cache would keep it, or by its commit.

    Raises HubError, what ``read_base`` raises, WriteFailed, DiskFull.
    """
    repo, revision = name
    info = client.info(repo, revision or "main")
    entries = info.files if info.files is not None else client.tree(repo, info.commit)
    by_name = {entry.path: entry for entry in entries}
    folder = downloads.folder.parent / "snapshots" / info.commit
    sides = _sides(f"{repo}@{info.commit[:12]}", by_name)
    taken = [by_name[side] for side in sides if not side.endswith(".py")]
    require_space(downloads.folder, downloads.missing(taken) + sum(one.size for one in taken))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for side in sides:
            place = folder / side
            place.parent.mkdir(exist_ok=True)
            if side.endswith(".py"):  # named to the user, never taken over
                place.touch()
                continue
            whole = downloads.fetch(client, repo, info.commit, by_name[side], _nobody)
            shutil.copyfile(whole, place)
        sizes = headers.fetch(client, repo, info.commit, tuple(entries), folder)
        base = read_base(folder, dequantize=dequantize, sizes=sizes)
        files = tuple(_file(folder, by_name[one]) for one in base_files.names(base))
    except OSError as error:
        raise write_error(folder, error) from error
    away = Away(_cached_at(repo, info.commit), files)
    record = _record_of(context, base, away, (repo, info.commit))
    weights = {file.path: by_name[file.path] for file in files if file.path in sizes}
    small = tuple(by_name[side] for side in sides)
    return OnHub(OpenedBase(base, record, text, away), repo, info.commit, weights, small)


def _nobody(_: int) -> None:
    pass


def _sides(target: str, names: Iterable[str]) -> list[str]:
    """Return the files beside the weights that are taken over, looked at or named.

    Raises HubError for a name that must not be written.
    """
    found = []
    for name in names:
        folder, _, leaf = name.rpartition("/")
        if folder and not (folder == TEMPLATES and leaf.endswith(".jinja")):
            continue
        left = any(fnmatchcase(name, pattern) for pattern in LEFT_BEHIND)
        if name in {CONFIG, INDEX} or (left and name != _CARD and not name.endswith(".py")):
            continue
        if fault := file_fault(leaf):
            advice = "Do not use this repository; tell its owner or the Hub."
            raise HubError(target, f"the file name {name!r} {fault}", advice)
        found.append(name)
    return found


def _file(folder: Path, entry: Entry) -> BaseFile:
    """Return a file as the catalog keeps it; the Hub knows no time of change."""
    return BaseFile(entry.path, entry.size, 0, entry.sha256 or digest.of_file(folder / entry.path))


def _record_of(
    context: Context, base: Base, away: Away, commit: tuple[str, str]
) -> BaseRecord | None:
    with context.catalog.read() as connection:
        if record := same_record(connection, replace(base, folder=away.location)):
            return record
        alike = bases.find_by_layout(connection, base.layout_digest)
    return next((one for one in alike if (one.facts.hub_repo, one.facts.revision) == commit), None)


def _cached_at(repo: str, commit: str) -> Path:
    """Return where the Hugging Face cache keeps a snapshot, or would."""
    home = hf_cache.default_cache().absolute() / f"models--{repo.replace('/', '--')}"
    return home / "snapshots" / commit
