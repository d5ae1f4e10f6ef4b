"""Merges of several files that are killed go on where they were, to the very same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import factory
import pytest
import torch
from resuming import (
    Inputs,
    Run,
    digests,
    kept_files,
    make_inputs,
    merge_whole,
    recipe,
    shards,
    staged,
    stop,
)

from adreg.registry import Registry
from adreg.registry.durable import KEPT_FOR
from adreg.registry.merge.report import TensorReport
from adreg.registry.progress import Progress


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A tiny base and an adapter for it."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def whole(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the files of the same merge that nothing stops."""
    return merge_whole(tmp_path_factory.mktemp("whole"), inputs)


@pytest.fixture
def run(home: Path, inputs: Inputs) -> Run:
    """Merge in a process of its own, which is stopped at a moment."""
    del home
    return partial(stop, inputs)


MOMENTS = [("in 0", 0), ("before the line of 1", 1), ("after 1", 1), ("in 3", 3), ("after 4", 4)]


@pytest.mark.parametrize(("moment", "count"), MOMENTS, ids=[one for one, _ in MOMENTS])
def test_after_kill_9_finished_files_are_not_made_again(  # noqa: PLR0917  # fixtures
    run: Run,
    inputs: tuple[Path, Path],
    whole: dict[str, str],
    tmp_path: Path,
    moment: str,
    count: int,
) -> None:
    """The files that the journal knows are kept as they are; all bytes are the whole merge's."""
    out = tmp_path / "made" / "out"
    done = run(moment, out)
    assert -signal.SIGKILL == done.returncode, done.stderr
    assert not out.exists()
    before = shards(staged(out.parent))

    merged = Registry().merge(recipe(inputs), output=out, name="merged")

    number = sum(name.endswith(".safetensors") for name in whole)
    assert number >= 5
    assert whole == digests(out)
    assert count == kept_files(before, out)
    words = f"went on where it was stopped: {count} of {number} files were done"
    assert (words in merged.remarks) == bool(count)
    told = json.loads((out / "merge_report.json").read_text())["tensors"]
    assert tuple(TensorReport(**one) for one in told) == merged.report
    assert ["out"] == [path.name for path in out.parent.iterdir()]
    assert () == Registry().verify("merged").faults


def test_twice_killed(
    run: Run, inputs: tuple[Path, Path], whole: dict[str, str], tmp_path: Path
) -> None:
    """A merge that is killed while it goes on goes on from there."""
    out = tmp_path / "made" / "out"
    run("after 1", out)
    run("after 2", out)
    before = shards(staged(out.parent))

    Registry().merge(recipe(inputs), output=out, name="merged")

    assert 3 == kept_files(before, out)
    assert whole == digests(out)


def test_a_look_says_what_is_done_and_changes_nothing(
    run: Run, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    """A dry run tells how many files are done, and leaves them as they are."""
    out = tmp_path / "made" / "out"
    run("after 2", out)
    before = shards(staged(out.parent)), sorted(out.parent.iterdir())

    planned = Registry().merge(recipe(inputs), output=out, name="merged", dry_run=True)

    assert "this would go on where it was stopped: 2 of 7 files are done" in planned.remarks
    assert before == (shards(staged(out.parent)), sorted(out.parent.iterdir()))


class Heard(Progress):
    """Remembers the tasks and how much of each was done."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[int]] = {}

    def start(self, title: str, total: int, unit: str = "bytes") -> None:
        """Remember a task."""
        del unit
        self.title = title
        self.tasks[title] = [0, total]

    def advance(self, amount: int = 1) -> None:
        """Count."""
        self.tasks[self.title][0] += amount


def test_progress(run: Run, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """What is done is checked under a title of its own, and the merge says that it goes on."""
    out = tmp_path / "made" / "out"
    run("after 2", out)
    done = sum(path.stat().st_size for path in staged(out.parent).iterdir())
    heard = Heard()

    Registry(progress=heard).merge(recipe(inputs), output=out, name="merged")

    rest = sum(path.stat().st_size for path in out.glob("*.safetensors")) - done
    assert [done, done] == heard.tasks["checking"]
    assert [rest, rest] == heard.tasks["merging (going on: 2 of 7 files are done)"]


@pytest.mark.parametrize("same_stamps", [False, True], ids=["written", "swapped in unseen"])
def test_another_base_is_another_merge(
    run: Run, inputs: tuple[Path, Path], tmp_path: Path, same_stamps: bool
) -> None:
    """Nothing is gone on with once a file of the base is another one, and the old is removed."""
    base = shutil.copytree(inputs[0], tmp_path / "base")
    out = tmp_path / "made" / "out"
    run("after 3", out, base)
    file = base / "model.safetensors"
    seen = file.stat()

    def other(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] += 1

    if same_stamps:
        shutil.copy(file, base / "new")
        (base / "new").replace(file)
    factory.edit_tensors(base, other, file.name)
    if same_stamps:
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        assert seen.st_size == file.stat().st_size
    before = shards(staged(out.parent))

    merged = Registry().merge(recipe((base, inputs[1])), output=out, name="merged")

    assert 0 == kept_files(before, out)
    assert not any("went on" in remark for remark in merged.remarks)
    assert ["out"] == [path.name for path in out.parent.iterdir()]


def test_another_recipe_removes_what_was_kept(
    run: Run, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    """What another merge left for the same folder goes away, and what it left for others stays."""
    out, other = tmp_path / "made" / "out", tmp_path / "made" / "other"
    run("after 3", out)
    run("after 2", other)

    Registry().merge(recipe(inputs, dtype="float32"), output=out, name="merged")

    assert 2 == len(shards(staged(out.parent)))
    Registry().merge(recipe(inputs), output=other, name="merged")
    assert ["other", "out"] == sorted(path.name for path in out.parent.iterdir())


def test_what_nobody_goes_on_with_is_removed_after_a_week(
    run: Run, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    """A merge sweeps what lies beside its output and was not gone on with for a week."""
    old, new = tmp_path / "made" / "old", tmp_path / "made" / "new"
    run("after 1", old)
    run("after 1", new)
    (journal,) = old.parent.glob(".old.*.journal")
    past = time.time() - KEPT_FOR - 60
    os.utime(journal, (past, past))

    Registry().merge(recipe(inputs), output=old.with_name("out"), name="merged")

    assert staged(old.parent).name.startswith(".new.")
    assert [] == list(old.parent.glob(".old.*"))
