"""A tree is taken in by batches: few commits, each byte read once, and no promise less."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import Engine, event

from adreg.registry import Registry
from adreg.registry.catalog import series
from adreg.registry.catalog.engine import Catalog
from adreg.registry.errors import AdapterRefused, InputRefused
from adreg.registry.ops import history
from adreg.registry.ops.intake import Intake
from adreg.registry.progress import Progress

_NAME = "base_model.model.layers.0.q_proj.lora_"


def write(folder: Path, seed: int, width: int = 8, rank: int = 4, bad: float = 0.0) -> Path:
    """Write an adapter; ``bad`` takes the place of its last value."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    values = np.random.default_rng(seed).standard_normal((2, rank, width), dtype=np.float32)
    if bad:
        values[1, -1, -1] = bad
    tensors = {f"{_NAME}A.weight": values[0], f"{_NAME}B.weight": values[1].T.copy()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def commits() -> Iterator[list[None]]:
    """Grow by one at each commit of a transaction of the catalog."""
    seen: list[None] = []

    def note(_: object) -> None:
        seen.append(None)

    event.listen(Engine, "commit", note)
    yield seen
    event.remove(Engine, "commit", note)


def test_seventy_adapters_are_three_commits(
    home: Path, tmp_path: Path, commits: list[None]
) -> None:
    """Each is reported in order, under its name, whole in the store, with its history."""
    del home
    for number in range(70):
        write(tmp_path / f"runs/a{number:02}", number)
    registry = Registry()
    registry.add(write(tmp_path / "first", 999))  # makes the schema
    commits.clear()

    done = registry.add_tree(tmp_path / "runs", tags=["imported"])

    assert 3 == len(commits)
    assert [f"a{number:02}@1" for number in range(70)] == [one.reference for one in done.added]
    assert ((), ()) == (registry.verify().faults, registry.verify().unknown)
    assert [[("imported", "")]] * 70 == [
        [(tag.key, tag.value) for tag in row.tags]
        for row in registry.list().rows
        if row.key.name != "first"
    ]
    assert 71 == len(registry.history(limit=100).entries)


@pytest.mark.parametrize("beside", [False, True], ids=["with a note", "beside a new one"])
def test_what_is_removed_while_it_is_added_again_is_whole(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """One that was known when it was looked up, and is removed before it is recorded, is new."""
    del home
    registry = Registry()
    registry.add(write(tmp_path / "runs/a", 1), name="a")
    if beside:
        write(tmp_path / "runs/b", 2)
    look = Intake._known

    def look_and_lose(self: Intake, ours: dict[str, Any]) -> Any:
        found = look(self, ours)
        Registry().remove("a")
        return found

    monkeypatch.setattr(Intake, "_known", look_and_lose)
    if beside:
        registry.add_tree(tmp_path / "runs")
    else:
        registry.add(tmp_path / "runs/a", name="a", note="again")

    assert (2 if beside else 1) == registry.list().total
    assert () == registry.verify().faults


def test_what_is_refused_is_in_the_way_of_no_other(home: Path, tmp_path: Path) -> None:
    """In one batch: a bad value, a lie, a name that is a model's, and the same bytes twice."""
    del home
    registry = Registry()
    registry.add(write(tmp_path / "first", 999))
    with Catalog(registry.settings).write() as connection:
        series.claim(connection, "taken", "model", history.now())
        connection.commit()
    write(tmp_path / "runs/a", 1)
    write(tmp_path / "runs/bad", 2, bad=float("nan"))
    write(tmp_path / "runs/lie", 3, rank=8)
    write(tmp_path / "runs/taken", 4)
    write(tmp_path / "runs/twin", 1)
    write(tmp_path / "runs/z", 5)

    done = registry.add_tree(tmp_path / "runs")

    assert ["a@1", "z@1"] == [one.reference for one in done.added]
    assert ["a@1"] == [one.reference for one in done.known]
    assert [
        ("bad", "AdapterRefused"),
        ("lie", "AdapterRefused"),
        ("taken", "AlreadyExists"),
    ] == [(one.path.name, one.error) for one in done.refused]
    assert ((), ()) == (registry.verify().faults, registry.verify().unknown)


_CHILD = """
import os, signal, sys
from pathlib import Path
from adreg.registry import Registry
from adreg.registry.catalog import engine
from adreg.registry.store.publication import Publication

moment, root = sys.argv[1], Path(sys.argv[2])
settle, commit, times = Publication.settle, engine.Connection.commit, []

def settle_and_die(self, *digests):
    settle(self, *digests)
    times.append(True)
    if moment == "settled" and len(times) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

def commit_and_die(self):
    commit(self)
    if moment == "committed" and len(times) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Publication.settle, engine.Connection.commit = settle_and_die, commit_and_die
Registry().add_tree(root)
"""


@pytest.mark.parametrize(("moment", "kept"), [("settled", 32), ("committed", 64)])
def test_kill_9_in_the_second_batch(home: Path, tmp_path: Path, moment: str, kept: int) -> None:
    """What was committed is whole, and of the rest nothing stays once the next add is done."""
    del home
    for number in range(70):
        write(tmp_path / f"runs/a{number:02}", number)
    command = [sys.executable, "-I", "-c", _CHILD, moment, str(tmp_path / "runs")]

    done = subprocess.run(command, check=False, timeout=120)

    registry = Registry()
    assert -signal.SIGKILL == done.returncode
    assert kept == registry.list().total
    assert () == registry.verify().faults
    again = registry.add_tree(tmp_path / "runs")
    assert (70 - kept, kept) == (len(again.added), len(again.known))
    assert ((), ()) == (registry.verify().faults, registry.verify().unknown)


_COUNT = """
import os, sys
from pathlib import Path
from adreg.registry import Registry

def counted():
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(count) for name, count in (line.split(": ") for line in lines)}

Registry().add(Path(sys.argv[1]))
before = counted()
Registry().add(Path(sys.argv[2]))
after = counted()
print(after["rchar"] - before["rchar"], after["wchar"] - before["wchar"])
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="this system counts no bytes")
def test_each_byte_is_read_once_and_written_once(home: Path, tmp_path: Path) -> None:
    """The kernel counts what an add of 38 MB reads and writes: hardly more than the files."""
    del home
    small, large = write(tmp_path / "small", 1), write(tmp_path / "large", 2, width=1_200_000)
    size = sum(path.stat().st_size for path in large.iterdir())
    command = [sys.executable, "-I", "-c", _COUNT, str(small), str(large)]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    read, written = map(int, done.stdout.split())
    assert size <= read < 1.02 * size
    assert size <= written < 1.02 * size


class _Changing(Progress):
    """Does something when the copy begins."""

    def __init__(self, change: Callable[[], object]) -> None:
        self._change = change

    def start(self, title: str, total: int, unit: str = "bytes") -> None:
        """Do it."""
        del total, unit
        if title.startswith("Copying"):
            self._change()


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_what_is_stored_is_what_was_checked(home: Path, tmp_path: Path, file: str) -> None:
    """A file that is another one between the check and the copy is refused."""
    del home
    folder, other = write(tmp_path / "a", 1), write(tmp_path / "b", 2, width=9)
    (other / "adapter_config.json").write_text("{}")
    registry = Registry(progress=_Changing(lambda: (other / file).replace(folder / file)))

    with pytest.raises(InputRefused, match=f"{file}: it changed while it was read"):
        registry.add(folder)

    assert 0 == Registry().list().total


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_are_checked_as_they_pass(home: Path, tmp_path: Path, bad: float) -> None:
    """The last value of a large tensor is looked at too, in a dry run as well."""
    folder = write(tmp_path / "a", 1, width=300_001, bad=bad)
    for dry_run in (True, False):
        with pytest.raises(AdapterRefused, match=r"lora_B\.weight' has 1 value that is not finite"):
            Registry().add(folder, dry_run=dry_run)

    assert [] == [path for path in home.rglob("*") if path.is_file() and "blobs" in path.parts]
