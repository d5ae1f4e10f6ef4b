"""The same bytes again, from a lock file."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from adreg.registry import digest
from adreg.registry.catalog import bases, history
from adreg.registry.catalog.records import HistoryEntry
from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging, check_target, require_space
from adreg.registry.errors import AdregError, BaseRefused, Damaged, NotFound, NotReproduced
from adreg.registry.ops.context import Context
from adreg.registry.ops.locked_parts import FoundAdapter, FoundBase, find_adapter, find_base
from adreg.registry.release.card import CARD, model_card
from adreg.registry.release.checksums import SUMS, sums
from adreg.registry.release.lock import LOCK, Lock, card_facts, read_lock
from adreg.registry.release.pack import write_text

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Part:
    """A base or adapter of the lock file: what it is called here, or why it is missing."""

    what: str
    found: str | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A release that was built again, or could be if ``ready``.

    ``files`` are those of the folder, empty after a dry run.
    """

    name: str
    folder: Path
    parts: tuple[Part, ...]
    files: tuple[FileDigest, ...]
    dry_run: bool

    @property
    def ready(self) -> bool:
        """Whether every part is there."""
        return all(part.found is not None for part in self.parts)


def rebuild(
    context: Context,
    lockfile: Path,
    output: Path,
    *,
    base: str | None = None,
    dry_run: bool = False,
) -> Rebuilt:
    """Build the release of a lock file in a new folder; every file must be what the lock says.

    The base is found by its names, layout and Hub revision, or is what ``base`` names; its
    files must have the digests in the lock. Adapters are found by digest, whatever they
    are called here. All or nothing; with ``dry_run`` nothing is written, and what is
    missing is told, not raised.

    Raises LockBroken, OutputRefused, NotFound, BaseRefused, Damaged, NotReproduced,
    WriteFailed, DiskFull.
    """
    output = output.absolute()
    lock = read_lock(lockfile)
    check_target(output)
    found_base = _attempt(partial(find_base, context, lock.base, base))
    adapters = [_attempt(partial(find_adapter, context, one)) for one in lock.adapters]
    parts = _parts(lock, found_base, adapters)
    if dry_run:
        return Rebuilt(lock.model.name, output, parts, (), dry_run=True)
    files = _build(context, lock, _or_raise(found_base), list(map(_or_raise, adapters)), output)
    _record(context, lock, output, _or_raise(found_base))
    return Rebuilt(lock.model.name, output, parts, files, dry_run=False)
