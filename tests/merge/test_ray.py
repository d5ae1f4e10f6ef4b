"""Merges on a Ray of this machine with two workers, and what becomes of workers that die."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import factory
import pytest
import torch

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import read_base
from adreg.registry.durable import Staging
from adreg.registry.errors import (
    AdregError,
    EngineFailed,
    MergeRefused,
    MissingPackage,
)
from adreg.registry.merge.engines import choose
from adreg.registry.merge.engines.worker import Refused, Sent, computing, stamp, write
from adreg.registry.merge.plan import Input, make_plan
from adreg.registry.merge.run import MergeReport, Work, local, run
from adreg.registry.progress import SILENT, Progress

ray: Any = pytest.importorskip("ray", reason="the extra adreg[ray] is not installed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two workers, whose Ray keeps its token in a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("ray-home")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """LoRA and DoRA on a base of several shards, planned."""
    root = tmp_path_factory.mktemp("ray")
    base = factory.make_base(root / "base", shard_size=7_000)
    one = factory.make_adapter(base, root / "one")
    two = factory.make_adapter(base, root / "two", seed=2, use_dora=True)
    return planned(base, [one, two], root)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A base with two embeddings of 32 MB, whose files take long enough to be killed at."""
    root = tmp_path_factory.mktemp("large")
    base = factory.make_base(root / "base", dtype=torch.float32, shard_size=20_000)
    index = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        grown = torch.randn((250_000, factory.HIDDEN), generator=torch.Generator().manual_seed(3))
        grow = partial(lambda new, tensors: tensors.update(new), {name: grown})
        factory.edit_tensors(base, grow, index[name])
    factory.edit_config(base, vocab_size=250_000)
    targets = ["q_proj", "lm_head", "embed_tokens"]
    return planned(base, [factory.make_adapter(base, root / "one", target_modules=targets)], root)


def planned(base: Path, adapters: list[Path], folder: Path, **how: Any) -> Work:
    """Plan adapters on a base, a CPU a task; ``folder`` is no place to write yet."""
    opened, specs = read_base(base), tuple(read_adapter(one) for one in adapters)
    inputs = [Input(str(n), one, 0.5) for n, one in enumerate(specs)]
    plan = make_plan(opened, inputs, **how)
    return Work(plan, opened, specs, plan.shards, folder, 1)


def carried_out(
    work: Work, target: Path, engine: str = "ray", progress: Progress = SILENT
) -> tuple[MergeReport, dict[str, bytes]]:
    """Run a work into a new folder; return its report and all that is there then."""
    chosen = choose("ray") if engine == "ray" else local
    with Staging(target) as staging:
        report = run(
            work.plan, work.base, work.specs, staging, threads=1, progress=progress, engine=chosen
        )
        return report, {p.name: p.read_bytes() for p in staging.folder.iterdir()}


class Killer(threading.Thread):
    """Kills workers with SIGKILL while they write a file of at least 1 MB, so many times."""

    def __init__(self, output: Path, times: int) -> None:
        super().__init__(daemon=True)
        self.output, self.times, self.over = output, times, False
        self.killed: list[int] = []
        """How many bytes stood in the file."""

    def run(self) -> None:
        """Look until all are killed, or ``over``."""
        while len(self.killed) < self.times and not self.over:
            with suppress(OSError):  # what is looked at comes and goes
                for path in self.output.glob("**/.ray-*/*/*.safetensors"):
                    if len(self.killed) < self.times:
                        self._kill_writer(path)
            time.sleep(0.001)

    def _kill_writer(self, path: Path) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                writes = any(one.readlink() == path for one in (process / "fd").iterdir())
                size = path.stat().st_size
                if writes and size > 1_000_000 and int(process.name) != os.getpid():
                    os.kill(int(process.name), signal.SIGKILL)
                    self.killed.append(size)
                    return


class Reaper(Killer):
    """Kills workers as soon as they have a shard: those of this process's own Ray alone."""

    def run(self) -> None:
        """Look until all are killed, or ``over``."""
        while len(self.killed) < self.times and not self.over:
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    # Ray names a process by the task that it carries out.
                    titled = (process / "cmdline").read_bytes().startswith(b"ray::adreg")
                    if titled and os.getpid() in _ancestors(int(process.name)):
                        os.kill(int(process.name), signal.SIGKILL)
                        self.killed.append(0)
            time.sleep(0.01)


def _ancestors(process: int) -> Iterator[int]:
    while process > 1:
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])
        yield process


class Heard(Progress):
    """Adds up what is told."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, title: str, total: int, unit: str = "bytes") -> None:
        """Take the total."""
        del title, unit
        self.total = total

    def advance(self, amount: int = 1) -> None:
        """Add."""
        self.done += amount


@pytest.mark.usefixtures("cluster")
def test_same_bytes(work: Work, tmp_path: Path) -> None:
    """Files, digests and report are those of the local run, and nothing else is left."""
    heard = Heard()

    there = carried_out(work, tmp_path / "ray", progress=heard)

    assert len(work.shards) > 4
    assert carried_out(work, tmp_path / "local", "local") == there
    assert (work.plan.nbytes, work.plan.nbytes) == (heard.total, heard.done)


@pytest.mark.usefixtures("cluster")
def test_killed_worker(large: Work, tmp_path: Path) -> None:
    """A shard whose worker is killed in the middle of its file is made by another, the same."""
    killer = Killer(tmp_path, times=1)
    killer.start()

    there = carried_out(large, tmp_path / "ray")

    killer.join(10)
    assert [True] == [1_000_000 < size < large.shards[0].nbytes for size in killer.killed]
    assert carried_out(large, tmp_path / "local", "local") == there


@pytest.mark.usefixtures("cluster")
def test_lost_for_good(large: Work, tmp_path: Path) -> None:
    """A shard whose workers all die is given up, by its name, and nothing of it is left."""
    killer = Reaper(tmp_path, times=100)
    killer.start()
    alone = replace(large, shards=large.shards[:1], folder=tmp_path)

    with pytest.raises(EngineFailed) as raised:
        list(choose("ray")(alone, SILENT))

    killer.over = True
    assert f"the engine ray failed: {alone.shards[0].file} was lost 5 times: The worker died" in (
        str(raised.value)
    )
    assert raised.value.hint == (
        "`ray status` shows the machines; with more --threads fewer tasks share one's memory."
    )
    assert [] == list(tmp_path.iterdir())


@pytest.mark.usefixtures("cluster")
def test_refusal_of_a_worker(work: Work, tmp_path: Path) -> None:
    """What a worker refuses is the error that the local run raises, word for word."""
    huge = tmp_path / "huge"
    shutil.copytree(work.specs[0].folder, huge)
    factory.edit_config(huge, lora_alpha=1e43)
    # In one file: of several, the first to come back would tell.
    broken = planned(work.base.folder, [huge], tmp_path, max_shard_size=1 << 30)

    told = []
    for engine in ("local", "ray"):
        with pytest.raises(MergeRefused) as raised:
            carried_out(broken, tmp_path / engine, engine)
        told.append((raised.value.sentence, raised.value.hint, raised.value.facts()))

    assert "not finite" in told[0][0]
    assert told[0] == told[1]


@pytest.mark.usefixtures("cluster")
def test_stopped(work: Work, tmp_path: Path) -> None:
    """Who stops an engine after one file has that file and nothing half-written."""
    with closing(choose("ray")(replace(work, folder=tmp_path), SILENT)) as written:
        first = next(written).file.name

    assert [first] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.usefixtures("cluster")
def test_too_many_threads(work: Work, tmp_path: Path) -> None:
    """Tasks that no machine can hold are refused, where Ray would wait for ever."""
    with pytest.raises(EngineFailed) as raised:
        list(choose("ray")(replace(work, folder=tmp_path, threads=64), SILENT))

    assert "the engine ray failed: no machine of the cluster has 64 CPUs" == str(raised.value)
    assert raised.value.hint == "Pass --threads 2 or fewer: they are those of one task."


def test_no_cluster(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens is refused at once, with how to start a cluster."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")

    with pytest.raises(EngineFailed) as raised:
        list(choose("ray")(work, SILENT))

    assert str(raised.value).startswith(
        "the engine ray failed: no connection to '127.0.0.1:9': [Errno 111]"
    )
    assert "`ray start --head`" in raised.value.hint


def test_no_ray(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra it says which to install."""
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(MissingPackage) as raised:
        list(choose("ray")(work, SILENT))

    assert "--engine ray needs the package adreg[ray]" == str(raised.value)
    assert raised.value.hint == "pip install adreg[ray]"


def sent(work: Work, folder: Path) -> Sent:
    """Return what workers are sent, of a folder that is there."""
    stamps = tuple(stamp(file.path) for file in work.base.layout.files)
    return Sent(work.plan, work.base, work.specs, 1, folder, stamps, computing(work.plan))


def refused(task: Sent, shard: Any) -> AdregError:
    """Write a shard here as a worker does; return its refusal, raised again from its facts."""
    result = write(task, shard)
    assert isinstance(result, Refused)
    return result.kind(**result.facts)


def test_worker_sees_other_bytes(work: Work, tmp_path: Path) -> None:
    """A worker whose base has another size or time refuses, and so does one without the base."""
    task = sent(work, tmp_path)
    path, size, changed = task.stamps[0]
    stamps = [(path, size + 1, changed), (path, size, changed + 1), (tmp_path / "none", 1, 1)]

    told = [refused(replace(task, stamps=(one,)), work.shards[0]) for one in stamps]

    host = socket.gethostname()
    for error, (path, _, _) in zip(told, stamps, strict=True):
        assert f"the engine ray failed: {host} sees another {path}, or none" == str(error)
        assert error.hint == (
            "Put the base and the output on storage that all machines see under the same path."
        )
    assert [] == list(tmp_path.iterdir())


def test_worker_without_the_storage(work: Work, tmp_path: Path) -> None:
    """A worker that does not see the output says so."""
    error = refused(sent(work, tmp_path / "out" / ".ray-1"), work.shards[0])

    assert f"the engine ray failed: {socket.gethostname()} does not see {tmp_path / 'out'}" == (
        str(error)
    )


def test_worker_computes_otherwise(work: Work, tmp_path: Path) -> None:
    """A worker with other versions or kernels refuses: its bytes could differ."""
    task = sent(work, tmp_path)
    numpy = task.computing["numpy"]
    other = {**task.computing, "numpy": "1.0", "machine": "vax"}

    error = refused(replace(task, computing=other), work.shards[0])

    assert f"computes with numpy {numpy} (not 1.0), machine" in str(error)
    assert "OPENBLAS_CORETYPE" in error.hint
    assert "kernels" in "".join(task.computing), "numpy's own OpenBLAS is not found any more"
