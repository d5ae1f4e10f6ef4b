"""Write one weight file of a plan: one pass over its tensors, block by block.

Blocks are read and computed by a few threads and written in the order of the file by
one, so the bytes are the same whatever the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, final

import numpy as np

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.digest import PIECE, FileDigest
from adreg.registry.durable import FileWriter
from adreg.registry.merge.deltas.opened import Opened
from adreg.registry.merge.deltas.through_peft import PeftModules
from adreg.registry.merge.exact import Again, Exact
from adreg.registry.merge.methods.make import make_combination
from adreg.registry.merge.plan import Job, Plan, Shard
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
class WrittenShard:
    """One weight file that was written, and what was done to the tensors that inputs touch."""

    file: FileDigest
    tensors: tuple[TensorReport, ...]


@final
class ShardWriter:
    """Writes the weight files of a plan, in any order, each by itself.

    Every engine uses it, so that a file has the same bytes wherever it is made.
    """

    def __init__(
        self,
        plan: Plan,
        base: Base,
        specs: Sequence[AdapterSpec | Base],
        threads: int | None = None,
    ) -> None:
        """Open nothing yet; ``threads`` None takes the cores, at most eight."""
        self._plan, self._base, self._specs = plan, base, specs
        self._threads = threads or min(8, os.cpu_count() or 1)
        self._exit = ExitStack()

    def __enter__(self) -> ShardWriter:
        """Start the threads. Raises MergeRefused for an adapter that PEFT does not take whole."""
        keep_freed_memory()
        dtype = np.dtype(self._plan.precision)
        with ExitStack() as exit_:
            reader = exit_.enter_context(TensorReader())
            exit_.enter_context(single_threaded_blas())
            pool = ThreadPoolExecutor(self._threads, thread_name_prefix="adreg-merge")
            exit_.enter_context(pool)
            modules = _modules(self._plan, self._base, self._specs, reader, dtype)
            modules.check()
            opened = Opened(self._specs, reader, dtype)
            wide = Opened(self._specs, reader, np.dtype(np.float64))
            again = Again(self._base, reader, wide, modules, self._plan.method)
            window = 2 * self._threads + 2
            self._state = _State(
                self._plan, self._base, opened, reader, dtype, pool, window, modules, again
            )
            self._exit = exit_.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the threads and close all files."""
        self._exit.__exit__(kind, error, traceback)

    def write(self, shard: Shard, folder: Path, progress: Progress = SILENT) -> WrittenShard:
        """Write a shard into ``folder``, durable when this returns.

        Raises MergeRefused when a result is not finite, WriteFailed or DiskFull when the
        disk refuses, TensorFileBroken when an input became shorter; the file is then gone.
        """
        tensors = []
        with FileWriter(folder / shard.file, large=True) as writer:
            header = shard.header()
            writer.write(header)
            progress.advance(len(header))
            for job in shard.jobs:
                tally = _write(self._state, job, writer, progress)
                if job.contributions:
                    tensors.append(tally.report())
        return WrittenShard(writer.digest(shard.file), tuple(tensors))


@dataclass
class _State:
    """What the tensors of a plan are computed with."""

    plan: Plan
    base: Base
    opened: Opened
    reader: TensorReader
    dtype: np.dtype[Any]
    pool: ThreadPoolExecutor
    window: int
    modules: PeftModules
    again: Again
    """What rows are computed again from, in float64."""

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


def _write(state: _State, job: Job, writer: FileWriter, progress: Progress) -> Tally:
    tally = Tally(job)
    for block in state.in_order(_tasks(state, job)):
        writer.write(block.data)
        tally.add(block)
        progress.advance(len(block.data))
    return tally


def _tasks(state: _State, job: Job) -> Iterator[Callable[[], Block]]:
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
    if job.weights:
        _combine(state, tensor, tiles)
    exact = Exact(tensor, state.again, state.in_order)
    for tile in tiles:
        yield partial(exact.block, tile)


def _combine(state: _State, tensor: Tensor, tiles: Sequence[Any]) -> None:
    """Let the plan's method look at the whole tensor as often as it must."""
    job = tensor.job
    rows, columns = job.matrix
    combination = make_combination(
        state.plan.method, job.name, rows, columns, job.weights, tensor.dtype
    )
    tensor.combination = combination
    while combination.passes_left:
        looks = (lambda tile=tile: tensor.look(tile) for tile in tiles)
        for tile, seen in zip(tiles, state.in_order(looks), strict=True):
            combination.take(tile, seen)
        combination.close_pass()


def _copies(state: _State, source: str) -> Iterator[Callable[[], Block]]:
    file, info = state.base.layout.places[source]

    def piece(offset: int, size: int) -> Block:
        buffer = memoryview(bytearray(size))
        state.reader.read_into(file.path, offset, buffer)
        return Block(buffer)

    for offset in range(info.start, info.end, PIECE):
        size = min(PIECE, info.end - offset)
        yield lambda offset=offset, size=size: piece(offset, size)  # type: ignore[misc]
