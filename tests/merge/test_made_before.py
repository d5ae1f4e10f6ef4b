"""A merge of the same is found by its content and not made again, unless it is asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import factory
import pytest
import torch

from adreg.registry import Registry
from adreg.registry.errors import OutputRefused
from adreg.registry.merge import run
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.merge.run import Work, local
from adreg.registry.merge.shards import WrittenShard
from adreg.registry.ops.merge import Merged, merge
from adreg.registry.progress import Progress


class Made:
    """A registry whose merges tell how many weight files they wrote."""

    def __init__(self, home: Path) -> None:
        self.registry = Registry(home)
        self.base = factory.make_base(home.parent / "base", shard_size=20_000)
        self.adapter = factory.make_adapter(self.base, home.parent / "adapter")
        self.written = 0

    def recipe(self, base: str = "", adapter: str = "") -> Recipe:
        """Return the recipe of all tests."""
        parts = (RecipeAdapter(adapter or str(self.adapter)),)
        return Recipe(parts, base or str(self.base))

    def engine(self, work: Work, progress: Progress) -> Generator[WrittenShard, None, None]:
        """Write here, and count."""
        self.written += len(work.shards)
        yield from local(work, progress)

    def merge(
        self,
        recipe: Recipe | None = None,
        out: Path | None = None,
        name: str | None = "bot",
        *,
        force: bool = False,
    ) -> tuple[Merged, int]:
        """Merge, and tell how many weight files were written for it."""
        self.written = 0
        merged = merge(
            self.registry._context,
            recipe or self.recipe(),
            output=out,
            name=name,
            force=force,
            engine=self.engine,
        )
        return merged, self.written


@pytest.fixture
def made(home: Path) -> Made:
    """A registry, a base of several files and an adapter."""
    return Made(home)


def read(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_copied_to_another_folder(made: Made, tmp_path: Path) -> None:
    """A model that was made of the same is copied, with its report, and stays one version."""
    first, count = made.merge(out=tmp_path / "one")
    second, again = made.merge(out=tmp_path / "two")

    assert (count, again) == (len(list((tmp_path / "one").glob("*.safetensors"))), 0)
    assert count > 1
    assert read(tmp_path / "one") == read(tmp_path / "two")
    assert (first.key, False) == (second.key, second.new)
    assert (first.files, first.report, first.totals) == (
        second.files,
        second.report,
        second.totals,
    )
    place = f"{tmp_path / 'one'}, each file checked"
    assert f"bot@1 was made of the same: copied from {place}" in second.remarks
    assert () == made.registry.verify("bot").faults
    inodes = {p.stat().st_ino for name in ("one", "two") for p in (tmp_path / name).iterdir()}
    assert 2 * len(first.files) == len(inodes)


def test_a_dry_run_says_where_it_would_be_copied_from(made: Made, tmp_path: Path) -> None:
    """What is known to be made is told, and nothing is written."""
    made.merge(out=tmp_path / "one")

    planned = made.registry.merge(made.recipe(), output=tmp_path / "two", name="bot", dry_run=True)

    words = f"bot@1 was made of the same: it would be copied from {tmp_path / 'one'}"
    assert words in planned.remarks
    assert not (tmp_path / "two").exists()


def test_found_where_it_lies(made: Made, tmp_path: Path) -> None:
    """Without a folder, or with the very one that it is in, the model is found where it is."""
    first, _ = made.merge(out=tmp_path / "one")
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}

    for out in (None, tmp_path / "one"):
        again, count = made.merge(out=out)

        assert (0, first.key, False) == (count, again.key, again.new)
        assert first.folder == again.folder
    assert before == {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}


def test_another_name_is_another_model_of_the_same_weights(made: Made, tmp_path: Path) -> None:
    """Under another name the weights are copied, and only the card is another."""
    made.merge(out=tmp_path / "one")
    second, count = made.merge(out=tmp_path / "two", name="other")

    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert (0, "other@1", True) == (count, str(second.key), second.new)
    assert {"README.md"} == {name for name in one if one[name] != two[name]}
    assert one.keys() == two.keys()
    assert b"other" in two["README.md"]
    assert () == made.registry.verify().faults


@pytest.mark.parametrize("shard_size", [20_000, None], ids=["several files", "one file"])
def test_a_damaged_model_is_no_source(made: Made, tmp_path: Path, shard_size: int | None) -> None:
    """One wrong bit in the model that is copied is seen, and the merge is made again."""
    if shard_size is None:
        made.base = factory.make_base(tmp_path / "whole")
    first, _ = made.merge(out=tmp_path / "one")
    good = read(first.folder)
    file = max(first.folder.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    second, count = made.merge(out=tmp_path / "two")

    assert len(list(first.folder.glob("*.safetensors"))) == count
    assert good == read(second.folder)
    assert not any("copied" in remark for remark in second.remarks)
    assert first.key == second.key
    assert () == made.registry.verify("bot").faults


def test_what_was_stopped_here_and_made_elsewhere_is_copied(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stopped merge had finished is not in the way of the copy."""

    def stopping(work: Work, progress: Progress) -> Generator[WrittenShard, None, None]:
        yield next(local(work, progress))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(made, "engine", stopping)
        with pytest.raises(KeyboardInterrupt):
            made.merge(out=tmp_path / "here")
    first, _ = made.merge(out=tmp_path / "elsewhere")

    second, count = made.merge(out=tmp_path / "here")

    assert (0, first.key) == (count, second.key)
    assert read(first.folder) == read(second.folder)
    assert () == made.registry.verify("bot").faults


def test_names_and_folders_do_not_count(made: Made, tmp_path: Path) -> None:
    """The same base moved, the same adapter copied and recorded: the model is the same."""
    first, _ = made.merge()
    copy = shutil.copytree(made.adapter, tmp_path / "copy")
    made.registry.add(copy, name="adapter/two")
    moved = made.base.rename(tmp_path / "moved")

    again, count = made.merge(made.recipe(str(moved), "adapter/two"))

    assert (0, first.key) == (count, again.key)


def test_a_folder_that_exists_is_no_model(made: Made) -> None:
    """What lies in the registry's place for a merge, and is not recorded, is made anew."""
    first, count = made.merge()
    made.registry.remove("bot")
    assert first.folder.is_dir()

    again, recount = made.merge()

    assert (True, count) == (again.new, recount)


def test_a_base_that_is_known_by_its_digests(made: Made, tmp_path: Path) -> None:
    """Once a base's files are hashed, a model made before and one made since are both found."""
    made.registry.add_base(str(made.base), name="tiny")
    before, _ = made.merge(made.recipe("tiny"))
    made.registry.export("bot", tmp_path / "release", licence="mit")  # hashes the base

    found, count = made.merge(made.recipe("tiny"))
    assert (0, before.key, before.folder) == (count, found.key, found.folder)

    anew, _ = made.merge(made.recipe("tiny"), force=True)
    assert before.key == anew.key
    for file in made.base.iterdir():
        file.chmod(0o600)  # the digests are those of files of the same size and time
    found, count = made.merge(made.recipe("tiny"))
    assert (0, before.key) == (count, found.key)


def test_an_engine_of_another_version(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine made whose bytes may be others is not taken for the same."""
    from adreg.registry.ops import made_models  # noqa: PLC0415  # the only use

    made.merge()
    monkeypatch.setattr(made_models, "ENGINE", run.ENGINE + 1)

    _, count = made.merge()

    assert count > 1


def test_force_makes_it_anew(made: Made, tmp_path: Path) -> None:
    """With force all files are written again: the same bytes are the same version, in place."""
    first, count = made.merge()
    good = read(first.folder)

    second, again = made.merge(force=True)
    third, elsewhere = made.merge(out=tmp_path / "out", force=True)

    assert count == again == elsewhere
    assert first.key == second.key == third.key
    assert good == read(second.folder) == read(third.folder)
    assert not first.folder.exists()
    assert [second.folder] == list(first.folder.parent.iterdir())
    assert () == made.registry.verify("bot").faults
    with pytest.raises(OutputRefused, match="not empty"):
        made.merge(out=tmp_path / "out", force=True)


def test_force_spares_a_model_of_another_name(made: Made) -> None:
    """What is made anew under another name takes nothing from the model that was there."""
    first, _ = made.merge()
    second, _ = made.merge(name="other", force=True)

    assert ("bot@1", "other@1") == (str(first.key), str(second.key))
    assert () == made.registry.verify().faults


def test_a_changed_base_is_no_longer_the_same(made: Made, tmp_path: Path) -> None:
    """Other weights in the base make another model, even when size and time are set back."""
    first, _ = made.merge(out=tmp_path / "one")
    file = max(made.base.glob("*.safetensors"))
    seen = file.stat()

    def other(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values())).add_(1)

    factory.edit_tensors(made.base, other, file.name)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    second, count = made.merge(out=tmp_path / "two")

    assert seen.st_size == file.stat().st_size
    assert count > 1
    assert first.key != second.key
