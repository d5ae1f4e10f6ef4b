"""A merge of several files that goes on after a kill, Ctrl-C or an error where it had stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adreg.registry import digest, durable
from adreg.registry.durable import Staging
from adreg.registry.errors import WriteFailed
from adreg.registry.merge.journal import Journal
from adreg.registry.merge.plan import Plan
from adreg.registry.ops.made_models import Made


@dataclass(frozen=True, slots=True)
class Stop:
    """Where an earlier run of a merge stopped: the files that it finished, their bytes."""

    files: int
    bytes: int
    of: int

    @property
    def words(self) -> str:
        """The files, as people are told of them."""
        return f"{self.files} of {self.of} files are done"


def key_of(plan: Plan, recipe_digest: str) -> str | None:
    """Return the digest of all that decides a merge's files; None for a merge of one file.

    One file is written in one go: nothing of it could be gone on with.
    """
    if len(plan.shards) < 2:
        return None
    shards = [
        [
            shard.file,
            [[j.name, j.dtype, j.shape, j.action, j.source, j.weights] for j in shard.jobs],
        ]
        for shard in plan.shards
    ]
    return digest.of_value([recipe_digest, plan.precision, shards])


def stopped_at(plan: Plan, target: Path, key: str | None) -> Stop:
    """Tell where an earlier run stopped; nothing is hashed and nothing changed."""
    seen = {} if key is None else _journal(target, key).seen(plan)
    return Stop(len(seen), sum(one.file.size for one in seen.values()), len(plan.shards))


@contextmanager
def staged(plan: Plan, target: Path, key: str | None) -> Iterator[tuple[Staging, Journal | None]]:
    """Stage a merge anew or where an earlier run of it stopped, with the journal to go on by.

    When it ends early and files are kept for the same merge, a KeyboardInterrupt and a
    WriteFailed say so. Raises what ``Staging`` raises.
    """
    try:
        with Staging(target, key) as staging:
            yield staging, None if key is None else _journal(target, key)
    except (KeyboardInterrupt, WriteFailed) as error:
        stop = stopped_at(plan, target, key)
        if not stop.files:
            raise
        told = f"{stop.words} and kept: the same command goes on there"
        if isinstance(error, WriteFailed):
            error.kept = told
            raise
        raise KeyboardInterrupt(f"stopped; {told}") from None


def _journal(target: Path, key: str) -> Journal:
    folder, file = durable.journal_of(target, key)
    return Journal(file, folder, key)


def remarks_before(made: Made | None, stop: Stop) -> tuple[str, ...]:
    """Say what a merge that is about to be made need not do."""
    if made is not None:
        return (f"{made.key} was made of the same: it would be copied from {made.folder}",)
    return (f"this would go on where it was stopped: {stop.words}",) if stop.files else ()


def remarks_after(copied: Made | None, found: int, of: int) -> tuple[str, ...]:
    """Say what a merge did not make again."""
    if copied is not None:
        place = f"{copied.folder}, each file checked"
        return (f"{copied.key} was made of the same: copied from {place}",)
    return (f"went on where it was stopped: {found} of {of} files were done",) if found else ()
