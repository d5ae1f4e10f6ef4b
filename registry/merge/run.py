"""Carry out a plan: one pass over the base, block by block, in constant memory.

Blocks are read and computed by a few threads and written in the order of the file by
one, so the bytes are the same whatever the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.digest import PIECE, FileDigest
from adreg.registry.durable import FileWriter, Staging
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.deltas.change import TensorChange
from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.through_peft import PeftModules
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.plan import Job, Plan
from adreg.registry.merge.terms import Module
from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.arrays import LARGEST, NUMPY, Array, TensorReader, single_threaded_blas

_BLOCK = 512 << 10
"""Bytes of W in one block: its float32 copy and the product then stay in a core's cache.
Part of the result's bits, so it is no setting (a product is cut by it)."""

_LONGEST_ROW = 8 * _BLOCK
"""Bytes of a row beyond which a row is cut too."""


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What happened to one tensor: how many of its elements are not the base's."""

    name: str
    action: str
    elements: int
    changed: int


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did: the files it wrote and what it changed."""

    files: tuple[FileDigest, ...]
    tensors: tuple[TensorReport, ...]

    @property
    def changed(self) -> int:
        """Elements that are not the base's, in tensors that the base has."""
        return sum(report.changed for report in self.tensors)


@dataclass
class _Tally:
    """What the blocks of one tensor add up to."""

    job: Job
    changed: int = 0


@dataclass
class _Run:
    """One execution of a plan."""

    base: Base
    opened: Opened
    reader: TensorReader
    dtype: np.dtype[Any]
    pool: ThreadPoolExecutor
    window: int
    modules: PeftModules
    tallies: list[_Tally] = field(default_factory=list)


_Block = tuple[bytes | memoryview, int]
"""Bytes to write, and how many elements differ from the base's."""


def run(  # noqa: PLR0913  # the two ends of the engine, and how to run it
    plan: Plan,
    base: Base,
    specs: Sequence[AdapterSpec],
    staging: Staging,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> MergeReport:
    """Write the plan's weight files into ``staging``, each durable when it is closed.

    Raises MergeRefused when a result is not finite or nothing changed, WriteFailed or
    DiskFull when the disk refuses, TensorFileBroken when an input became shorter.
    """
    threads = threads or min(8, os.cpu_count() or 1)
    dtype = np.dtype(plan.precision)
    files = []
    with (
        TensorReader() as reader,
        single_threaded_blas(),
        ThreadPoolExecutor(threads, thread_name_prefix="adreg-merge") as pool,
    ):
        modules = _modules(plan, base, specs, reader, dtype)
        modules.check()
        opened = Opened(specs, reader, dtype)
        state = _Run(base, opened, reader, dtype, pool, 2 * threads + 2, modules)
        progress.start("merging", plan.nbytes)
        for shard in plan.shards:
            with FileWriter(staging.folder / shard.file) as writer:
                header = shard.header()
                writer.write(header)
                progress.advance(len(header))
                for job in shard.jobs:
                    _write(state, job, writer, progress)
            files.append(writer.digest(shard.file))
        progress.finish()
    reports = tuple(
        TensorReport(
            t.job.name, t.job.action, t.job.entry.nbytes // NUMPY[t.job.dtype].itemsize, t.changed
        )
        for t in state.tallies
    )
    report = MergeReport(tuple(files), reports)
    added = any(job.action == "add" for job in plan.jobs)
    if report.changed == 0 and not added:
        raise MergeRefused(
            ("every element equals the base's: the deltas are zero or too small for the dtype",),
            "Check that the adapter was trained, or keep small deltas with --dtype float32.",
        )
    return report


def _modules(
    plan: Plan,
    base: Base,
    specs: Sequence[AdapterSpec],
    reader: TensorReader,
    dtype: np.dtype[Any],
) -> PeftModules:
    """Gather what is left to PEFT."""
    modules: list[dict[str, Module]] = [{} for _ in specs]
    for job in plan.jobs:
        for part in job.contributions:
            for term in part.terms:
                if isinstance(term, Module):
                    modules[part.adapter][term.module] = term

    def read(name: str) -> Array:
        info = base.layout[name]
        return base.read(reader, name, 0, info.count).astype(dtype).reshape(info.shape)

    shapes = {info.name: info.shape for info in base.layout}
    return PeftModules(specs, modules, shapes, reader, read, dtype)


def _write(state: _Run, job: Job, writer: FileWriter, progress: Progress) -> None:
    """Compute a tensor's blocks ahead of the writer, at most ``window`` of them."""
    tally = _Tally(job)
    if job.contributions:
        state.tallies.append(tally)
    waiting: deque[Future[_Block]] = deque()
    tasks = _tasks(state, job)
    try:
        for task in tasks:
            waiting.append(state.pool.submit(task))
            if len(waiting) >= state.window:
                _take(waiting, tally, writer, progress)
        while waiting:
            _take(waiting, tally, writer, progress)
    finally:
        for future in waiting:
            future.cancel()


def _take(
    waiting: deque[Future[_Block]], tally: _Tally, writer: FileWriter, progress: Progress
) -> None:
    data, changed = waiting.popleft().result()
    writer.write(data)
    tally.changed += changed
    progress.advance(len(data))


def _tasks(state: _Run, job: Job) -> Iterator[Callable[[], _Block]]:
    if job.action == "copy" and job.source is not None and job.source not in state.base.decoders:
        yield from _copies(state, job.source)
        return
    change = None
    if job.contributions:
        rows, columns = job.matrix
        compute = state.modules.compute
        change = TensorChange(job.contributions, rows, columns, state.opened, compute)
    tiles = list(_tiles(job))
    if change is not None and change.needs_norms:
        for tile, squares in zip(
            tiles,
            state.pool.map(lambda tile: change.squares(_load(state, job, tile), tile), tiles),
            strict=True,
        ):
            change.add_norms(tile, squares)
        change.close_norms()
    for tile in tiles:
        yield lambda tile=tile: _block(state, job, change, tile)  # type: ignore[misc]


def _copies(state: _Run, source: str) -> Iterator[Callable[[], _Block]]:
    file, info = state.base.layout.places[source]

    def piece(offset: int, size: int) -> _Block:
        buffer = memoryview(bytearray(size))
        state.reader.read_into(file.path, offset, buffer)
        return buffer, 0

    for offset in range(info.start, info.end, PIECE):
        size = min(PIECE, info.end - offset)
        yield lambda offset=offset, size=size: piece(offset, size)  # type: ignore[misc]


def _tiles(job: Job) -> Iterator[Tile]:
    """Cut a tensor in blocks: whole rows, or pieces of one row where rows are huge."""
    rows, columns = job.matrix
    if rows * columns == 0:
        return
    size = NUMPY[job.dtype].itemsize
    if columns * size > _LONGEST_ROW:
        step = _BLOCK // size
        for row in range(rows):
            for column in range(0, columns, step):
                yield Tile(row, row + 1, column, min(columns, column + step))
        return
    step = max(1, _BLOCK // (columns * size))
    for row in range(0, rows, step):
        yield Tile(row, min(rows, row + step), 0, columns)


def _load(state: _Run, job: Job, tile: Tile) -> Array:
    """Read W's block (rows, columns) in the precision of the sums; zeros where there is no W."""
    rows, columns = tile.shape
    if job.source is None:
        return np.zeros((rows, columns), state.dtype)
    start = tile.start(job.matrix[1])
    raw = state.base.read(state.reader, job.source, start, start + rows * columns)
    # By way of float32, a float64 that is cast would be rounded twice.
    dtype = raw.dtype if raw.dtype == np.float64 else state.dtype
    return raw.astype(dtype).reshape(rows, columns)


@np.errstate(all="ignore")  # what is not finite is refused by name, not warned of
def _block(state: _Run, job: Job, change: TensorChange | None, tile: Tile) -> _Block:
    base = _load(state, job, tile)
    result = base if change is None else change.apply(base, tile)
    out = NUMPY[job.dtype]
    _check_finite(job, base, result)
    rounded = np.ascontiguousarray(result.astype(out))
    changed = 0
    if change is not None and job.source is not None:
        changed = int(np.count_nonzero(_bits(rounded) != _bits(base.astype(out))))
    return rounded.view(np.uint8).data.cast("B"), changed


def _bits(array: Array) -> Array:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _check_finite(job: Job, base: Array, block: Array) -> None:
    # The sums may be narrower than the output: then infinities come from them.
    largest = min(LARGEST[job.dtype], float(np.finfo(block.dtype).max))
    # A NaN fails both comparisons, so this finds it too.
    if block.max() <= largest and block.min() >= -largest:
        return
    # A base may hold infinities of its own (masks); only what adapters touch must be finite.
    if not job.contributions and not np.isfinite(base[~(np.abs(block) <= largest)]).any():
        return
    raise MergeRefused(
        (f"{job.name!r} would hold values that are not finite in {job.dtype}",),
        "The base or an adapter is broken, or a weight is too large;"
        " --dtype bfloat16 has more range than float16.",
    )
