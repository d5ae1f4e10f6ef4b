"""Merges that end at a chosen moment, by kill -9 or by a disk that is full in earnest."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import factory
import pytest

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

CHILD = """
import os, signal, sys
from pathlib import Path
from adreg.registry import Registry
from adreg.registry.durable import Staging
from adreg.registry.catalog.engine import Connection
from adreg.registry.errors import AdregError
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.progress import Progress

moment, adapter, base, out = sys.argv[1:5]
out = Path(out) if out != "-" else None
published = []

def reached(name):
    if name == moment:
        os.kill(os.getpid(), signal.SIGKILL)

class Listener(Progress):
    title, heard = "", 0
    def start(self, title, total, unit="bytes"):
        self.title, self.heard = title, 0
    def advance(self, amount=1):
        if self.title != "merging":
            return
        self.heard += 1
        if self.heard == 1:
            reached("first bytes")
            if moment == "full disk":
                with (out.parent / "filler").open("wb", buffering=0) as filler:
                    try:
                        while True:
                            filler.write(bytes(4096))
                    except OSError:
                        pass
        elif self.heard == 20:
            reached("some tensors")

publish, keep, commit = Staging.publish, Staging.keep, Connection.commit

def publish_and_die(self, *, held=False):
    reached("whole folder")
    publish(self, held=held)
    published.append(True)
    reached("published")

def commit_and_die(self):
    commit(self)
    if published:
        reached("recorded")

def keep_and_die(self):
    keep(self)
    reached("kept")

Staging.publish, Staging.keep, Connection.commit = publish_and_die, keep_and_die, commit_and_die
try:
    recipe = Recipe((RecipeAdapter(adapter),), base=base)
    Registry(progress=Listener()).merge(recipe, output=out, name="merged", threads=1)
except AdregError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny base and an adapter for it."""
    root = tmp_path_factory.mktemp("killed")
    base = factory.make_base(root / "base")
    return base, factory.make_adapter(base, root / "adapter")


@pytest.fixture
def run(home: Path, inputs: tuple[Path, Path]) -> Run:
    """Merge in a process of its own, which ends at a moment; "-" is the default output."""
    del home
    base, adapter = inputs

    def start(moment: str, out: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", CHILD, moment, str(adapter), str(base), str(out)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return start


MOMENTS = ["first bytes", "some tensors", "whole folder", "published", "recorded", "kept"]


@pytest.mark.parametrize("given", [True, False], ids=["-o", "default output"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_after_kill_9_at_any_moment_the_same_merge_works(
    run: Run, inputs: tuple[Path, Path], tmp_path: Path, moment: str, given: bool
) -> None:
    """The output is recorded whole or not at all, and the same command ends with it in place."""
    base, adapter = inputs
    out = tmp_path / "made" / "out" if given else None
    recorded = moment in {"recorded", "kept"}

    done = run(moment, out or "-")
    registry = Registry()

    assert -signal.SIGKILL == done.returncode, done.stderr
    assert int(recorded) == registry.list().total
    assert () == registry.verify().faults

    again = out.with_name("again") if out and recorded else out
    recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(base))
    merged = registry.merge(recipe, output=again, name="merged")

    assert recorded != merged.new
    assert 1 == registry.list().total
    assert () == registry.verify().faults
    assert {merged.folder.name, *(["out"] if again else [])} == {
        path.name for path in merged.folder.parent.iterdir()
    }


def test_a_folder_that_is_in_use_since_the_kill_is_not_removed(run: Run, tmp_path: Path) -> None:
    """A model that was published, not recorded, and added to by hand stays where it is."""
    out = tmp_path / "out"
    run("published", out)
    (out / "notes.txt").write_text("mine")

    done = run("never", out)

    assert "OutputRefused" in done.stderr
    assert "not empty" in done.stderr
    assert (out / "notes.txt").is_file()
    assert (out / "model.safetensors").is_file()


def test_a_disk_that_fills_up_while_merging(run: Run, small_disk: Path) -> None:
    """The full disk is named, the staged half is gone, and with room the same merge works."""
    done = run("full disk", small_disk / "out")

    assert done.stderr.startswith("DiskFull: writing "), done.stderr
    assert ["filler"] == [path.name for path in small_disk.iterdir()]
    assert 0 == Registry().list().total

    (small_disk / "filler").unlink()
    assert 0 == run("never", small_disk / "out").returncode
    assert () == Registry().verify("merged").faults
