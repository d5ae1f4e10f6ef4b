"""What a killed merge left counts only as it was written: anything else is made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
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


def flip(path: Path) -> None:
    """Change the last bit of a file, and nothing else that shows."""
    seen = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def spoil_file(folder: Path, journal: Path) -> None:
    """Change one bit of a finished file."""
    del journal
    flip(folder / "model-00002-of-00007.safetensors")


def cut_file(folder: Path, journal: Path) -> None:
    """Cut a finished file short."""
    del journal
    os.truncate(folder / "model-00002-of-00007.safetensors", 100)


def lose_file(folder: Path, journal: Path) -> None:
    """Remove a finished file."""
    del journal
    (folder / "model-00002-of-00007.safetensors").unlink()


def link_file(folder: Path, journal: Path) -> None:
    """Put a link to the same bytes in the place of a file."""
    path = folder / "model-00002-of-00007.safetensors"
    shutil.move(path, journal.parent / "elsewhere")
    path.symlink_to(journal.parent / "elsewhere")


def cut_line(folder: Path, journal: Path) -> None:
    """Cut the journal's last line, as a crash does."""
    del folder
    os.truncate(journal, journal.stat().st_size - 10)


def alter_line(folder: Path, journal: Path) -> None:
    """Change one word of the report on the last file that was written down."""
    del folder
    *before, last = journal.read_bytes().splitlines(keepends=True)
    assert b'"action":"merge"' in last
    last = last.replace(b'"action":"merge"', b'"action":"merga"')
    journal.write_bytes(b"".join([*before, last]))


def lose_head(folder: Path, journal: Path) -> None:
    """Make the journal one of another merge."""
    del folder
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[1:]))


def lose_journal(folder: Path, journal: Path) -> None:
    """Remove the journal."""
    del folder
    journal.unlink()


def add_files(folder: Path, journal: Path) -> None:
    """Put files and a folder there that are not the merge's."""
    del journal
    (folder / "extra.safetensors").touch()
    (folder / "deep").mkdir()
    (folder / "deep" / "x").touch()


SPOILT: list[tuple[Callable[[Path, Path], None], int]] = [
    (spoil_file, 2),
    (cut_file, 2),
    (lose_file, 2),
    (link_file, 2),
    (cut_line, 2),
    (alter_line, 2),
    (lose_head, 0),
    (lose_journal, 0),
    (add_files, 3),
]


@pytest.mark.parametrize(("spoil", "count"), SPOILT, ids=[one.__name__ for one, _ in SPOILT])
def test_what_is_not_as_it_was_is_made_again(  # noqa: PLR0917  # fixtures
    run: Run,
    inputs: tuple[Path, Path],
    whole: dict[str, str],
    tmp_path: Path,
    spoil: Callable[[Path, Path], None],
    count: int,
) -> None:
    """Files and lines of the journal count only as they were written."""
    out = tmp_path / "made" / "out"
    run("after 3", out)
    (journal,) = out.parent.glob(".*.journal")
    spoil(staged(out.parent), journal)
    before = shards(staged(out.parent))

    Registry().merge(recipe(inputs), output=out, name="merged")

    assert whole == digests(out)
    assert count == kept_files(before, out)
