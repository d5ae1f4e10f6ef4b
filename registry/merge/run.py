"""Carry out a plan: all its weight files, and what was done to their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.plan import Plan
from adreg.registry.merge.report import TensorReport
from adreg.registry.merge.shards import ShardWriter
from adreg.registry.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did: the files it wrote and what it changed."""

    files: tuple[FileDigest, ...]
    tensors: tuple[TensorReport, ...]

    @property
    def changed(self) -> int:
        """Elements that are not the base's, in tensors that the base has."""
        return sum(report.changed for report in self.tensors)


def run(  # noqa: PLR0913  # the two ends of the engine, and how to run it
    plan: Plan,
    base: Base,
    specs: Sequence[AdapterSpec | Base],
    staging: Staging,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> MergeReport:
    """Write the plan's weight files into ``staging``, each durable when it is closed.

    Raises MergeRefused when a result is not finite or nothing changed, WriteFailed or
    DiskFull when the disk refuses, TensorFileBroken when an input became shorter.
    """
    progress.start("merging", plan.nbytes)
    with ShardWriter(plan, base, specs, threads) as writer:
        written = [writer.write(shard, staging.folder, progress) for shard in plan.shards]
    progress.finish()
    report = MergeReport(
        tuple(one.file for one in written), tuple(t for one in written for t in one.tensors)
    )
    added = any(job.source is None for job in plan.jobs)
    if report.changed == 0 and not added:
        raise MergeRefused(
            ("every element equals the base's: the deltas are zero or too small for the dtype",),
            "Check that the adapter was trained, or keep small deltas with --dtype float32.",
        )
    return report
