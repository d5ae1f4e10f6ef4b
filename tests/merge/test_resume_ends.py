"""Merges that end early, other than by a kill: what they keep, and what they say."""

from __future__ import annotations

import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

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
from adreg.registry.errors import MergeRefused, WriteFailed
from adreg.registry.merge.run import Work, local
from adreg.registry.ops.merge import Merged, merge
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


class Engine:
    """The local engine, which counts the files that it is asked for."""

    asked = 0

    def __call__(self, work: Work, progress: Progress) -> Any:
        """Write the work."""
        self.asked = len(work.shards)
        return local(work, progress)


def test_ctrl_c_keeps_finished_files(
    run: Run, inputs: tuple[Path, Path], whole: dict[str, str], tmp_path: Path
) -> None:
    """Ctrl-C says what is kept and that the same command goes on, and it does."""
    out = tmp_path / "made" / "out"
    done = run("Ctrl-C in 2", out)

    words = "stopped; 2 of 7 files are done and kept: the same command goes on there"
    assert (130, words) == (done.returncode, done.stderr.splitlines()[-1])
    before = shards(staged(out.parent))
    Registry().merge(recipe(inputs), output=out, name="merged")
    assert 2 == kept_files(before, out)
    assert whole == digests(out)


def test_ctrl_c_before_the_first_file_leaves_nothing(run: Run, tmp_path: Path) -> None:
    """Where no file was finished nothing is kept, and nothing else is said."""
    done = run("Ctrl-C in 0", tmp_path / "made" / "out")

    assert 130 == done.returncode
    assert "stopped; nothing was recorded" == done.stderr.splitlines()[-1]
    assert [] == list((tmp_path / "made").iterdir())


def test_a_write_that_is_refused_keeps_finished_files(
    run: Run, inputs: tuple[Path, Path], whole: dict[str, str], tmp_path: Path
) -> None:
    """What the system refuses to write ends in a hint that tells what is kept."""
    out = tmp_path / "made" / "out"
    done = run("too large after 2", out)

    error, hint = done.stderr.splitlines()[-2:]
    kept = "2 of 7 files are done and kept: the same command goes on there."
    assert 1 == done.returncode
    assert "File too large" in error
    assert f"hint: Mend the cause; {kept}" == hint
    before = shards(staged(out.parent))
    Registry().merge(recipe(inputs), output=out, name="merged")
    assert 2 == kept_files(before, out)
    assert whole == digests(out)


def test_a_full_disk_keeps_finished_files(
    inputs: tuple[Path, Path], home: Path, small_disk: Path
) -> None:
    """A disk that fills up is named with what is kept, and with room the merge goes on."""
    registry, out, filler = Registry(home), small_disk / "out", small_disk / "filler"

    def fill(work: Work, progress: Progress) -> Any:
        for number, one in enumerate(local(work, progress)):
            yield one
            if number == 1:
                with filler.open("wb", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(bytes(4096))

    with pytest.raises(WriteFailed) as caught:
        merge(registry._context, recipe(inputs), output=out, engine=fill)

    kept = "2 of 7 files are done and kept: the same command goes on there."
    assert f"Make room on that disk; {kept}" == caught.value.hint
    before = shards(staged(small_disk))
    filler.unlink()
    registry.merge(recipe(inputs), output=out)
    assert 2 == kept_files(before, out)


def test_a_merge_that_is_refused_keeps_nothing(
    inputs: tuple[Path, Path], home: Path, tmp_path: Path
) -> None:
    """A result that must not be is the same the next time, so its files go away."""
    base = shutil.copytree(inputs[0], tmp_path / "base")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.self_attn.v_proj.weight"][0, 0] = float("inf")

    factory.edit_tensors(base, spoil, "model.safetensors")
    out = tmp_path / "made" / "out"
    with pytest.raises(MergeRefused):
        Registry(home).merge(recipe((base, inputs[1])), output=out)

    assert [] == list(out.parent.iterdir())


def test_one_of_two_processes_makes_it(
    run: Run, inputs: tuple[Path, Path], home: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    """While one is at a merge a second one is told so at once, and disturbs nothing."""
    registry, out = Registry(home), tmp_path / "made" / "out"
    refused = []

    def meet(work: Work, progress: Progress) -> Any:
        for number, one in enumerate(local(work, progress)):
            yield one
            if number == 2:
                refused.append(run("never 0", out).stderr.splitlines()[-2:])

    merge(registry._context, recipe(inputs), output=out, name="merged", engine=meet)

    error = f"error: cannot write to {out}: another process makes the very same there"
    assert [[error, "hint: Wait until it is done."]] == refused
    assert whole == digests(out)


def test_files_may_be_finished_in_any_order(
    inputs: tuple[Path, Path], home: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    """An engine that gives files in another order makes the same model, and goes on as well."""
    registry, out = Registry(home), tmp_path / "made" / "out"

    class Lost(Exception):
        """The engine broke down."""

    def backwards(work: Work, progress: Progress) -> Any:
        turned = Work(
            work.plan, work.base, work.specs, work.shards[::-1], work.folder, work.threads
        )
        for number, one in enumerate(local(turned, progress)):
            if number == 2:
                raise Lost
            yield one

    with pytest.raises(Lost):
        merge(registry._context, recipe(inputs), output=out, name="merged", engine=backwards)
    engine = Engine()
    merged: Merged = merge(
        registry._context,
        recipe(inputs),
        output=out,
        name="merged",
        engine=engine,
    )

    assert 5 == engine.asked
    assert whole == digests(out)
    assert sum(name.endswith(".safetensors") for name in whole) == 7
    assert merged.report
