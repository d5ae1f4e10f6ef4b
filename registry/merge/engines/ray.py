"""Write weight files on the machines of a Ray cluster, over storage that all of them see.

A task writes one file into a folder of its own; the driver alone takes it to its place. So
what a lost task left, or still writes, is in nobody's way. Ray 2.60.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.durable import copy_file, fsync_folder, write_error
from adreg.registry.errors import EngineFailed, InputRefused, MissingPackage
from adreg.registry.merge.engines.worker import Done, Refused, Sent, computing, stamp, write
from adreg.registry.merge.plan import Shard
from adreg.registry.merge.run import Engine, Work
from adreg.registry.merge.shards import WrittenShard
from adreg.registry.progress import Progress

RETRIES = 4
"""How often a shard is sent again when its worker or machine died."""

_THREADS = 2
"""A task's threads unless asked: many small tasks fill a machine better than one wide one."""


def ray_engine(address: str | None = None) -> Engine:
    """Return the engine that sends each shard to a Ray cluster as a task of its own.

    ``address`` is HOST:PORT, "local" for a Ray of this machine that ends with the merge;
    None is what RAY_ADDRESS says, else the cluster that this machine belongs to. A Ray
    that the caller has connected to is used as it is. ``Work.threads`` is a task's CPUs.

    The base and the output lie on storage that all machines see under the same path; each
    worker refuses files of another size or time, and other versions or kernels of what
    computes. The engine raises MissingPackage, EngineFailed, and what ``ShardWriter`` does.
    """
    return partial(_run, address)


def _run(
    address: str | None, work: Work, progress: Progress
) -> Generator[WrittenShard, None, None]:
    """Be the driver: send all shards, take their files in as they come."""
    try:
        import ray  # noqa: PLC0415  # an optional package
    except ImportError as error:
        raise MissingPackage("adreg[ray]", "--engine ray") from error
    with ExitStack() as exit_:
        exit_.enter_context(_connected(ray, address))
        threads = _threads(ray, work.threads)
        folder = exit_.enter_context(_folder(work.folder))
        specs = tuple(_carried(spec, folder, n) for n, spec in enumerate(work.specs))
        stamps = tuple(stamp(path) for path in _sources((work.base, *specs)))
        sent = ray.put(
            Sent(work.plan, work.base, specs, threads, folder, stamps, computing(work.plan))
        )
        task = ray.remote(write).options(num_cpus=threads, max_retries=RETRIES, name="adreg")
        waiting = {task.remote(sent, shard): shard for shard in work.shards}
        exit_.callback(_cancel, ray, waiting)
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=1)  # Ctrl-C is heard in between
            for one in ready:
                shard = waiting.pop(one)
                written = _take(_result(ray, one, shard), shard, work.folder)
                progress.advance(written.file.size)
                yield written


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:  # noqa: ANN401  # a module
    if ray.is_initialized():
        yield
        return
    where = address or os.environ.get("RAY_ADDRESS") or "auto"
    if where == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray prints of lost workers to sys.stdout, which is for data (worker.py, print_to_stdstream).
    with redirect_stdout(sys.stderr):
        try:
            _knock(where)
            ray.init(
                where,
                log_to_driver=False,
                configure_logging=False,
                **({"include_dashboard": False} if where == "local" else {}),
            )
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise EngineFailed(
                "ray",
                f"no connection to {where!r}: {reason}",
                "Start a cluster with `ray start --head`, and name it with --ray-address or"
                " RAY_ADDRESS; --ray-address local makes do with this machine.",
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _knock(where: str) -> None:
    """Raise OSError where nothing listens; Ray would try for minutes."""
    host, _, port = where.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _threads(ray: Any, wanted: int | None) -> int:  # noqa: ANN401  # a module
    """Return a task's CPUs; a task that no machine can hold would wait for ever."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    largest = max(1, *(int(node["Resources"].get("CPU", 0)) for node in nodes))
    if wanted is not None and wanted > largest:
        raise EngineFailed(
            "ray",
            f"no machine of the cluster has {wanted} CPUs",
            f"Pass --threads {largest} or fewer: they are those of one task.",
        )
    return wanted or min(_THREADS, largest)


@contextmanager
def _folder(staging: Path) -> Iterator[Path]:
    """Make the folder that tasks write below, and take it away with all that is left there."""
    folder = staging / f".ray-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        yield folder
    finally:
        for _ in range(3):  # a task that is ending may put something there meanwhile
            shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(folder)


def _carried(spec: AdapterSpec | Base, folder: Path, number: int) -> AdapterSpec | Base:
    """Copy an adapter's weights to where all machines see them: a registry is often one's own."""
    if isinstance(spec, Base):
        return spec
    source = spec.weights.path
    target = folder / f"{number}{source.suffix}"
    try:
        copy_file(source, target, target.name)
    except OSError as error:
        raise InputRefused(source, error.strerror or str(error)) from error
    return replace(spec, weights=replace(spec.weights, path=target))


def _sources(inputs: tuple[AdapterSpec | Base, ...]) -> Iterator[Path]:
    for one in inputs:
        if isinstance(one, Base):
            yield from (file.path for file in one.layout.files)
        else:
            yield one.weights.path


def _result(ray: Any, one: Any, shard: Shard) -> Done:  # noqa: ANN401  # Ray's own
    """Return what a task gave; raise its error as one of ours."""
    try:
        result: Done | Refused = ray.get(one)
    except ray.exceptions.RayTaskError as error:
        reason = f"{type(error.cause).__name__}: {error.cause}".partition("\n")[0]
        advice = "See that adreg is installed on all machines in this version, and their memory."
        raise EngineFailed("ray", f"a worker failed at {shard.file}: {reason}", advice) from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineFailed(
            "ray",
            f"{shard.file} was lost {RETRIES + 1} times: {reason}",
            "`ray status` shows the machines; with more --threads fewer tasks share one's memory.",
        ) from error
    if isinstance(result, Refused):
        raise result.kind(**result.facts)
    return result


def _take(done: Done, shard: Shard, folder: Path) -> WrittenShard:
    """Take a file to its place, durably, once this machine sees it as it was reported."""
    header = shard.header()
    try:
        with done.path.open("rb") as file:
            size, begin = os.fstat(file.fileno()).st_size, file.read(len(header))
        if size != done.written.file.size or size != shard.nbytes or begin != header:
            raise EngineFailed(
                "ray",
                f"{shard.file} looks other here than on {done.host}, which wrote it",
                "See that the storage shows a file on all machines once it is closed.",
            )
        done.path.rename(folder / shard.file)
        fsync_folder(folder)
    except OSError as error:
        raise write_error(folder / shard.file, error) from error
    return done.written


def _cancel(ray: Any, waiting: dict[Any, Shard]) -> None:  # noqa: ANN401  # Ray's own
    for one in waiting:
        ray.cancel(one, force=True)
