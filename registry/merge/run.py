"""Carry out a plan: one pass over the base, block by block, in constant memory.

Blocks are read and computed by a few threads and written in the order of the file by
one, so the bytes are the same whatever the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.digest import PIECE, FileDigest
from adreg.registry.durable import FileWriter, Staging
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.through_peft import PeftModules
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.exact import exact_tensor, measured, sampled_rows
from adreg.registry.merge.methods.make import make_combination
from adreg.registry.merge.plan import Job, Plan
from adreg.registry.merge.report import TensorReport
from adreg.registry.merge.tensor import Block, Tally, Tensor
from adreg.registry.merge.terms import Module
from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.arrays import (
    Array,
    TensorReader,
    keep_freed_memory,
    single_threaded_blas,
)

_T = TypeVar("_T")


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
class _Run:
    """One execution of a plan."""

    plan: Plan
    base: Base
    opened: Opened
    reader: TensorReader
    dtype: np.dtype[Any]
    pool: ThreadPoolExecutor
    window: int
    modules: PeftModules
    exact: Opened
    """The same inputs in float64, for the rows that are computed again."""
    tallies: list[Tally] = field(default_factory=list)

    def in_order(self, tasks: Iterable[Callable[[], _T]]) -> Iterator[_T]:
        """Run tasks in threads, at most ``window`` ahead; give their results in order."""
        waiting: deque[Future[_T]] = deque()
        try:
            for task in tasks:
                waiting.append(self.pool.submit(task))
                if len(waiting) >= self.window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


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
    threads = threads or min(8, os.cpu_count() or 1)
    keep_freed_memory()
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
        window = 2 * threads + 2
        exact = Opened(specs, reader, np.dtype(np.float64))
        state = _Run(plan, base, opened, reader, dtype, pool, window, modules, exact)
        progress.start("merging", plan.nbytes)
        for shard in plan.shards:
            with FileWriter(staging.folder / shard.file, large=True) as writer:
                header = shard.header()
                writer.write(header)
                progress.advance(len(header))
                for job in shard.jobs:
                    _write(state, job, writer, progress)
            files.append(writer.digest(shard.file))
        progress.finish()
    report = MergeReport(tuple(files), tuple(tally.report() for tally in state.tallies))
    added = any(job.source is None for job in plan.jobs)
    if report.changed == 0 and not added:
        raise MergeRefused(
            ("every element equals the base's: the deltas are zero or too small for the dtype",),
            "Check that the adapter was trained, or keep small deltas with --dtype float32.",
        )
    return report


def check_modules(plan: Plan, base: Base, specs: Sequence[AdapterSpec | Base]) -> None:
    """Raise MergeRefused for an adapter that PEFT does not take in whole; nothing is written."""
    with TensorReader() as reader:
        _modules(plan, base, specs, reader, np.dtype(plan.precision)).check()


def _modules(
    plan: Plan,
    base: Base,
    specs: Sequence[AdapterSpec | Base],
    reader: TensorReader,
    dtype: np.dtype[Any],
) -> PeftModules:
    """Gather what is left to PEFT."""
    modules: dict[int, dict[str, Module]] = {}
    for job in plan.jobs:
        for part in job.contributions:
            for term in part.terms:
                if isinstance(term, Module):
                    modules.setdefault(part.adapter, {})[term.module] = term

    def read(name: str) -> Array:
        info = base.layout[name]
        return base.read(reader, name, 0, info.count).astype(dtype).reshape(info.shape)

    shapes = {info.name: info.shape for info in base.layout}
    adapters = {n: spec for n, spec in enumerate(specs) if isinstance(spec, AdapterSpec)}
    return PeftModules(adapters, modules, shapes, reader, read, dtype)


def _write(state: _Run, job: Job, writer: FileWriter, progress: Progress) -> None:
    tally = Tally(job)
    for block in state.in_order(_tasks(state, job)):
        writer.write(block.data)
        tally.add(block)
        progress.advance(len(block.data))
    if job.contributions:
        state.tallies.append(tally)


def _tasks(state: _Run, job: Job) -> Iterator[Callable[[], Block]]:
    if job.action == "copy" and job.source is not None and job.source not in state.base.decoders:
        yield from _copies(state, job.source)
        return
    tensor = Tensor(job, state.base, state.reader, state.dtype)
    if job.contributions:
        tensor.open(state.opened, state.modules.compute)
    tiles = list(tensor.tiles())
    if tensor.change is not None and tensor.change.needs_norms:
        looks = (lambda tile=tile: tensor.squares(tile) for tile in tiles)
        for tile, squares in zip(tiles, state.in_order(looks), strict=True):
            tensor.change.add_norms(tile, squares)
        tensor.change.close_norms()
    exact = None
    if job.weights:
        _combine(state, tensor, tiles)
    else:
        exact = exact_tensor(job, state.base, state.reader, state.exact, state.modules.compute)
    rows = sampled_rows(job)

    def task(tile: Tile) -> Block:
        block = tensor.block(tile)
        return block if exact is None else measured(block, tile, exact, rows)

    for tile in tiles:
        yield partial(task, tile)


def _combine(state: _Run, tensor: Tensor, tiles: Sequence[Any]) -> None:
    """Let the plan's method look at the whole tensor as often as it must."""
    job = tensor.job
    rows, columns = job.matrix
    combination = make_combination(
        state.plan.method, job.name, rows, columns, job.weights, state.dtype
    )
    tensor.combination = combination
    while combination.passes_left:
        looks = (lambda tile=tile: tensor.look(tile) for tile in tiles)
        for tile, seen in zip(tiles, state.in_order(looks), strict=True):
            combination.take(tile, seen)
        combination.close_pass()


def _copies(state: _Run, source: str) -> Iterator[Callable[[], Block]]:
    file, info = state.base.layout.places[source]

    def piece(offset: int, size: int) -> Block:
        buffer = memoryview(bytearray(size))
        state.reader.read_into(file.path, offset, buffer)
        return Block(buffer)

    for offset in range(info.start, info.end, PIECE):
        size = min(PIECE, info.end - offset)
        yield lambda offset=offset, size=size: piece(offset, size)  # type: ignore[misc]
