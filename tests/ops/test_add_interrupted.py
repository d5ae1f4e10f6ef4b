"""Whatever ends an add, nothing is half done, and the next one clears up."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adreg.registry import Registry

WIDTH = 200_000

CHILD = """
import os, resource, signal, sys
from pathlib import Path
from adreg.registry import Registry
from adreg.registry.catalog import engine
from adreg.registry.progress import Progress
from adreg.registry.store.publication import Publication

moment, folder = sys.argv[1], Path(sys.argv[2])
how = getattr(signal, sys.argv[3])
die = lambda: os.kill(os.getpid(), how)

class Listener(Progress):
    title, heard = "", 0
    def start(self, title, total, unit="bytes"):
        self.title, self.heard = title.split()[0].lower(), 0
    def advance(self, amount=1):
        self.heard += amount
        if self.title == moment and self.heard > 5_000_000:
            die()

settle, commit, settled = Publication.settle, engine.Connection.commit, []

def settle_and_die(self, *digests):
    settle(self, *digests)
    settled.append(True)
    if moment == "settled":
        die()

def commit_and_die(self):
    commit(self)
    if moment == "committed" and settled:  # not the commit that makes the schema
        die()

Publication.settle, engine.Connection.commit = settle_and_die, commit_and_die
if moment == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))
try:
    Registry(progress=Listener()).add(folder, name="big")
except KeyboardInterrupt:
    sys.exit(130)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

Run = Callable[[str, str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """An adapter of 13 MB, whose copy takes many steps."""
    folder = tmp_path / "big"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    values = np.random.default_rng(5).standard_normal((2, 8, WIDTH), dtype=np.float32)
    name = "base_model.model.layers.0.q_proj.lora_"
    tensors = {f"{name}A.weight": values[0], f"{name}B.weight": values[1].T.copy()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def run(home: Path, big: Path) -> Run:
    """Add the big adapter in a process of its own, which a signal ends at a moment."""
    del home

    def start(moment: str, how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", CHILD, moment, str(big), how]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return start


def left(registry: Registry) -> list[str]:
    """Return the files below the store."""
    store = registry.settings.store
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())


@pytest.mark.parametrize("moment", ["copying", "settled", "committed"])
def test_kill_9_registers_nothing_and_the_next_add_clears_up(
    run: Run, big: Path, tmp_path: Path, moment: str
) -> None:
    """Killed at any moment the adapter is recorded whole or not at all, and no leftover stays."""
    done = run(moment, "SIGKILL")
    registry = Registry()

    assert -signal.SIGKILL == done.returncode
    assert (1 if moment == "committed" else 0) == registry.list().total
    assert () == registry.verify().faults
    if moment in {"copying", "settled"}:
        assert left(registry)

    small = tmp_path / "small"
    small.mkdir()
    (small / "adapter_config.json").write_text((big / "adapter_config.json").read_text())
    name = "base_model.model.layers.0.q_proj.lora_"
    ones = np.ones((8, 4), dtype=np.float32)
    tensors = {f"{name}A.weight": ones, f"{name}B.weight": ones.T.copy()}
    save_file(tensors, small / "adapter_model.safetensors")
    registry.add(small)

    kept = 2 if moment == "committed" else 1
    assert (kept, ()) == (registry.list().total, registry.verify().unknown)
    assert not any("staging" in one for one in left(registry))
    again = registry.add(big, name="big")
    assert ("big@1", moment != "committed") == (again.reference, again.new)
    assert ((), ()) == (registry.verify().faults, registry.verify().unknown)


@pytest.mark.parametrize("moment", ["copying", "settled"])
def test_ctrl_c_leaves_nothing(run: Run, moment: str) -> None:
    """Interrupted, the process itself takes back what it put into the store."""
    done = run(moment, "SIGINT")
    registry = Registry()

    assert (130, "") == (done.returncode, done.stderr)
    assert (0, []) == (registry.list().total, left(registry))


def test_a_write_that_fails_half_way_leaves_nothing(run: Run, big: Path) -> None:
    """A disk that refuses in the middle of a file is named, and its half is gone."""
    done = run("limit", "SIGINT")
    registry = Registry()

    assert 1 == done.returncode
    assert "WriteFailed: writing" in done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr  # what RLIMIT_FSIZE gives
    assert (0, []) == (registry.list().total, left(registry))
    assert registry.add(big).new
