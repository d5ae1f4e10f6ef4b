"""What a worker of another machine does: one shard, of the very inputs that the driver saw."""

from __future__ import annotations

import platform
import shutil
import socket
import uuid
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.durable import write_error
from adreg.registry.errors import AdregError, EngineFailed
from adreg.registry.merge.plan import Plan, Shard
from adreg.registry.merge.shards import ShardWriter, WrittenShard
from adreg.registry.merge.terms import Module


@dataclass(frozen=True, slots=True)
class Sent:
    """What all tasks of a work are sent once: pure data, and where to find the tensors."""

    plan: Plan
    base: Base
    specs: tuple[AdapterSpec | Base, ...]
    threads: int
    folder: Path
    stamps: tuple[tuple[Path, int, int], ...]
    computing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Done:
    """A shard that was written as ``path``."""

    written: WrittenShard
    path: Path
    host: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An error of ours as its facts: an exception with keyword arguments does not unpickle."""

    kind: type[AdregError]
    facts: dict[str, Any]


def write(sent: Sent, shard: Shard) -> Done | Refused:
    """Write one shard; this runs on the worker, once more for each time that it is lost."""
    own = sent.folder / uuid.uuid4().hex
    try:
        _check(sent)
        try:
            own.mkdir()
        except OSError as error:
            raise write_error(own, error) from error
        with ShardWriter(sent.plan, sent.base, sent.specs, sent.threads) as writer:
            written = writer.write(shard, own)
        return Done(written, own / shard.file, socket.gethostname())
    except AdregError as error:
        shutil.rmtree(own, ignore_errors=True)
        facts = {one.name: getattr(error, one.name) for one in fields(error)}  # type: ignore[arg-type]  # see AdregError.facts
        return Refused(type(error), facts)


def _check(sent: Sent) -> None:
    """Raise EngineFailed on a worker whose result could differ from the driver's."""
    host, here = socket.gethostname(), computing(sent.plan)
    there = sent.computing
    if other := [name for name in there if here.get(name) != there[name]]:
        said = ", ".join(f"{name} {here.get(name)} (not {there[name]})" for name in other)
        raise EngineFailed(
            "ray",
            f"{host} computes with {said}",
            "Install the same versions on all machines; OPENBLAS_CORETYPE, set where adreg and"
            " Ray are started, makes their kernels the same.",
        )
    advice = "Put the base and the output on storage that all machines see under the same path."
    if not sent.folder.is_dir():
        raise EngineFailed("ray", f"{host} does not see {sent.folder.parent}", advice)
    for known in sent.stamps:
        if stamp(known[0]) != known:
            raise EngineFailed("ray", f"{host} sees another {known[0]}, or none", advice)


def stamp(path: Path) -> tuple[Path, int, int]:
    """Return a file with its bytes and the time of its last change, -1 for one not there."""
    try:
        seen = path.stat()
    except OSError:
        return path, -1, -1
    return path, seen.st_size, seen.st_mtime_ns


def computing(plan: Plan) -> dict[str, str]:
    """Return what decides the last bits here: versions, the processor, numpy's kernels."""
    from threadpoolctl import threadpool_info  # noqa: PLC0415  # as in tensors.arrays

    packages = ["adreg", "numpy", "ml_dtypes"]
    terms = (term for job in plan.jobs for part in job.contributions for term in part.terms)
    if any(isinstance(term, Module) for term in terms):
        packages += ["peft", "torch", "transformers"]
    found = {name: _version(name) for name in packages} | {"machine": platform.machine()}
    # Others that happen to be loaded, torch's or scipy's, take no part.
    numpy_home = str(Path(np.__file__).parent)
    for one in threadpool_info():
        if one["filepath"].startswith(numpy_home) and "architecture" in one:
            found["OpenBLAS kernels"] = f"{one['architecture']} of {one['version']}"
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
