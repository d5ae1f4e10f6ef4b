"""What a merge reads and writes: one pass over the base, however many adapters."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import Base, read_base
from adreg.registry.durable import Staging
from adreg.registry.merge.plan import Input, Plan, make_plan
from adreg.registry.merge.run import MergeReport, run
from adreg.registry.tensors.arrays import TensorReader

_SAMPLED = 4
"""Rows of a tensor that are read once more, to be computed in float64."""

ADAPTERS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"target_modules": "all-linear"}],
    "dora": [{"target_modules": "all-linear", "use_dora": True}],
    "eight": [{"target_modules": "all-linear", "r": 2, "seed": seed} for seed in range(8)],
}


class Reads:
    """Every read of a file's bytes, by path: how often each byte was asked for."""

    def __init__(self) -> None:
        """Start from none."""
        self.counts: dict[Path, Counter[int]] = {}
        self.bytes: Counter[Path] = Counter()

    def saw(self, path: Path, offset: int, size: int) -> None:
        """Count one read."""
        self.bytes[path] += size
        self.counts.setdefault(path, Counter()).update(range(offset, offset + size))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Every read of a tensor's bytes from here on."""
    seen, read_into = Reads(), TensorReader.read_into

    def recorded(self: TensorReader, path: Path, offset: int, buffer: memoryview) -> None:
        seen.saw(path, offset, len(buffer))
        read_into(self, path, offset, buffer)

    monkeypatch.setattr(TensorReader, "read_into", recorded)
    return seen


def merged(tmp_path: Path, kinds: list[dict[str, Any]]) -> tuple[Base, Plan, MergeReport, int]:
    """Merge adapters of these kinds into a base; return also the bytes this process wrote."""
    factory.make_base(tmp_path / "base", "llama")
    inputs = []
    for number, kind in enumerate(kinds):
        folder = tmp_path / f"adapter{number}"
        factory.make_adapter(tmp_path / "base", folder, **kind)
        inputs.append(Input(f"a{number}", read_adapter(folder), 1 / len(kinds)))
    base = read_base(tmp_path / "base")
    plan = make_plan(base, inputs)
    before = written()
    with Staging(tmp_path / "out") as staging:
        report = run(plan, base, [one.spec for one in inputs], staging, threads=2)
    return base, plan, report, written() - before


def written() -> int:
    """Return the bytes that this process has written by system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts written bytes")
@pytest.mark.parametrize("kind", ADAPTERS)
def test_each_byte_of_the_base_is_read_once_and_each_of_the_output_written_once(
    kind: str, tmp_path: Path, reads: Reads
) -> None:
    """A merge is one pass whatever the adapters: only the sampled rows are read twice."""
    base, plan, report, wrote = merged(tmp_path, ADAPTERS[kind])
    assert report.changed > 0
    file = base.folder / "model.safetensors"
    counts = reads.counts[file]
    sampled = sum(
        min(_SAMPLED, job.matrix[0]) * job.matrix[1] * 2 for job in plan.jobs if job.contributions
    )
    assert all(counts[place] >= 1 for info in base.layout for place in range(info.start, info.end))
    assert sum(base_bytes(base)) <= reads.bytes[file] <= sum(base_bytes(base)) + sampled
    twice = np.fromiter((count > 1 for count in counts.values()), bool)
    assert int(twice.sum()) <= sampled
    assert wrote == plan.nbytes


@pytest.mark.parametrize("kind", ADAPTERS)
def test_each_byte_of_an_adapter_is_read_three_times_at_most(
    kind: str, tmp_path: Path, reads: Reads
) -> None:
    """A small factor is read to be checked, to be merged and for the rows in float64, once each."""
    merged(tmp_path, ADAPTERS[kind])
    adapters = [path for path in reads.counts if path.parent.name.startswith("adapter")]
    assert len(adapters) == len(ADAPTERS[kind])
    assert max(max(reads.counts[path].values()) for path in adapters) <= 3


def base_bytes(base: Base) -> list[int]:
    """Return the size of each of the base's tensors."""
    return [info.end - info.start for info in base.layout]
