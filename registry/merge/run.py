"""Carry out a plan: all its weight files, by any engine, and what was done to their tensors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.journal import Journal
from adreg.registry.merge.plan import Plan, Shard
from adreg.registry.merge.report import TensorReport
from adreg.registry.merge.shards import ShardWriter, WrittenShard
from adreg.registry.progress import SILENT, Progress

ENGINE = 1
"""The version of what computes, part of a merge's key: raised when any byte it writes changes."""


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did: the files it wrote, what it changed, the files it found done before."""

    files: tuple[FileDigest, ...]
    tensors: tuple[TensorReport, ...]
    found: int = 0

    @property
    def changed(self) -> int:
        """Elements that are not the base's, in tensors that the base has."""
        return sum(report.changed for report in self.tensors)


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine is given: a plan with its inputs, and those of its shards to be written.

    ``folder`` holds none of the shards' files yet. ``threads`` None takes the cores.
    """

    plan: Plan
    base: Base
    specs: tuple[AdapterSpec | Base, ...]
    shards: tuple[Shard, ...]
    folder: Path
    threads: int | None


Engine: TypeAlias = Callable[[Work, Progress], Generator[WrittenShard, None, None]]
"""Writes each shard of a work by ``ShardWriter`` and gives it when it is durable, in any order.

It advances the progress by the bytes of what it writes and neither starts nor finishes it;
closing it stops what is under way. It raises what ``ShardWriter.write`` raises.
"""


def local(work: Work, progress: Progress) -> Generator[WrittenShard, None, None]:
    """Write the shards here, one after the other."""
    with ShardWriter(work.plan, work.base, work.specs, work.threads) as writer:
        for shard in work.shards:
            yield writer.write(shard, work.folder, progress)


def run(  # noqa: PLR0913  # the two ends of the engine, and how to run it
    plan: Plan,
    base: Base,
    specs: Sequence[AdapterSpec | Base],
    staging: Staging,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
    journal: Journal | None = None,
    engine: Engine = local,
) -> MergeReport:
    """Write the plan's weight files into ``staging``, each durable when it is closed.

    Those that ``journal`` knows and that are whole are not made again; each that is made is
    written down there. Raises MergeRefused when a result is not finite or nothing changed,
    WriteFailed or DiskFull when the disk refuses, TensorFileBroken when an input became
    shorter.
    """
    done = {} if journal is None else journal.finished(plan, progress)
    found = len(done)
    left = tuple(shard for shard in plan.shards if shard.file not in done)
    going_on = f" (going on: {found} of {len(plan.shards)} files are done)" if found else ""
    progress.start(f"merging{going_on}", sum(shard.nbytes for shard in left))
    if left:
        work = Work(plan, base, tuple(specs), left, staging.folder, threads)
        with closing(engine(work, progress)) as written:
            for one in written:
                done[one.file.name] = one
                if journal is not None:
                    journal.record(one)
    progress.finish()
    parts = [done[shard.file] for shard in plan.shards]
    report = MergeReport(
        tuple(one.file for one in parts), tuple(t for one in parts for t in one.tensors), found
    )
    added = any(job.source is None for job in plan.jobs)
    if report.changed == 0 and not added:
        raise MergeRefused(
            ("every element equals the base's: the deltas are zero or too small for the dtype",),
            "Check that the adapter was trained, or keep small deltas with --dtype float32.",
        )
    return report
