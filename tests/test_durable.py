"""Writing that is whole or absent: files, staging folders, and what a killed process leaves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock

from adreg.registry import durable
from adreg.registry.digest import of_bytes
from adreg.registry.durable import (
    FileWriter,
    Staging,
    check_target,
    copy_file,
    require_space,
    sweep,
    withdraw,
    write_error,
)
from adreg.registry.errors import DiskFull, OutputRefused, WriteFailed


class _Stopped(Exception):  # nothing went wrong but what the test says
    """What a test raises inside ``with``."""


def names(folder: Path) -> list[str]:
    """Return what a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_its_digest(tmp_path: Path) -> None:
    """A written file has the bytes in order, and the digest is theirs."""
    data = os.urandom(3_000_000)
    with FileWriter(tmp_path / "x") as writer:
        writer.write(data[:10])
        writer.write(b"")
        writer.write(memoryview(data)[10:])

    assert data == (tmp_path / "x").read_bytes()
    assert (of_bytes(data), len(data)) == (writer.digest("a/x").sha256, writer.size)


def test_a_file_that_is_left_by_an_exception(tmp_path: Path) -> None:
    """Leaving by an exception removes the file."""
    with suppress(_Stopped), FileWriter(tmp_path / "x") as writer:
        writer.write(b"x")
        raise _Stopped

    assert [] == names(tmp_path)


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    """A file that is there already is refused and stays."""
    (tmp_path / "x").write_bytes(b"mine")

    with pytest.raises(WriteFailed, match="exists"):
        FileWriter(tmp_path / "x")

    assert b"mine" == (tmp_path / "x").read_bytes()


def test_a_large_file_is_hashed_behind_its_writer(tmp_path: Path) -> None:
    """Written in many blocks, the file and its digest are those of the bytes in order."""
    data = os.urandom(27 << 20)
    with FileWriter(tmp_path / "x", large=True) as writer:
        for start in range(0, len(data), 700_001):
            writer.write(memoryview(data)[start : start + 700_001])

    assert data == (tmp_path / "x").read_bytes()
    assert (of_bytes(data), len(data)) == (writer.digest("x").sha256, writer.digest("x").size)
    with suppress(_Stopped), FileWriter(tmp_path / "y", large=True) as writer:
        writer.write(data)
        raise _Stopped
    assert not (tmp_path / "y").exists()


def test_a_copy(tmp_path: Path) -> None:
    """A copy has the source's bytes and digest, tells its progress, and is no link."""
    data = os.urandom(2_500_000)
    (tmp_path / "source").write_bytes(data)
    seen: list[int] = []
    copied = copy_file(tmp_path / "source", tmp_path / "target", "name", seen.append)

    assert data == (tmp_path / "target").read_bytes()
    assert ("name", of_bytes(data), len(data)) == (copied.name, copied.sha256, copied.size)
    assert len(data) == sum(seen)
    assert 1 == (tmp_path / "target").stat().st_nlink


def test_publishing(tmp_path: Path) -> None:
    """A published folder stands under its name with all it holds, and nothing else is left."""
    with Staging(tmp_path / "deep" / "out") as staging:
        (staging.folder / "sub").mkdir()
        (staging.folder / "sub" / "x").write_text("x")

        assert not (tmp_path / "deep" / "out").exists()
        staging.publish()

    assert ["out"] == names(tmp_path / "deep")
    assert "x" == (tmp_path / "deep" / "out" / "sub" / "x").read_text()


def test_leaving_without_publishing(tmp_path: Path) -> None:
    """What was not published goes away, with or without an exception."""
    with Staging(tmp_path / "out") as staging:
        (staging.folder / "x").touch()
    with suppress(_Stopped), Staging(tmp_path / "out") as staging:
        (staging.folder / "x").touch()
        raise _Stopped

    assert [] == names(tmp_path)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    """An empty folder at the target may be published over."""
    (tmp_path / "out").mkdir()
    with Staging(tmp_path / "out") as staging:
        (staging.folder / "x").touch()
        staging.publish()

    assert ["x"] == names(tmp_path / "out")


def test_a_place_that_is_taken_meanwhile(tmp_path: Path) -> None:
    """What appears at the target before it is published stays, and ours goes away."""
    with Staging(tmp_path / "out") as staging:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()
        with pytest.raises(OutputRefused, match="by now"):
            staging.publish()

    assert ["out"] == names(tmp_path)
    assert ["mine"] == names(tmp_path / "out")


def test_targets(tmp_path: Path) -> None:
    """Only what is missing or an empty folder may be written to."""
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")

    check_target(tmp_path / "missing")
    check_target(tmp_path / "empty")
    for name in ("file", "full", "link", "lost"):
        with pytest.raises(OutputRefused):
            check_target(tmp_path / name)
        with pytest.raises(OutputRefused):
            Staging(tmp_path / name)

    assert ["empty", "file", "full", "link", "lost"] == names(tmp_path)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    """A target below a file is WriteFailed."""
    (tmp_path / "file").touch()

    with pytest.raises(WriteFailed):
        Staging(tmp_path / "file" / "out")

    assert ["file"] == names(tmp_path)


def test_long_names(tmp_path: Path) -> None:
    """A target with the longest name that the system allows can be staged."""
    with Staging(tmp_path / ("x" * 255)) as staging:
        staging.publish()

    assert ["x" * 255] == names(tmp_path)


_KILLED = """
import os, sys
from pathlib import Path
from adreg.registry.durable import Staging
with Staging(Path(sys.argv[1])) as staging:
    (staging.folder / "half").write_bytes(bytes(1000))
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """Sweeping removes the staging of a killed process, and spares that of a living one."""
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "out")], check=False)
    left = names(tmp_path)
    with Staging(tmp_path / "other") as living:
        swept = sweep(tmp_path)

        assert living.folder.is_dir()
        assert sorted([living.folder.name, f"{living.folder.name}.lock"]) == names(tmp_path)

    assert 2 == len(left)
    assert [left[0]] == [path.name for path in swept]
    assert [] == names(tmp_path)
    assert [] == sweep(tmp_path / "missing")


_KILLED_HELD = """
import os, sys
from pathlib import Path
from adreg.registry.durable import Staging
with Staging(Path(sys.argv[1])) as staging:
    (staging.folder / "whole").write_bytes(bytes(1000))
    staging.publish(held=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("used", [False, True], ids=["as it was", "in use by now"])
@pytest.mark.parametrize("kept", [False, True], ids=["withdrawn", "kept"])
def test_what_a_killed_process_published_held(tmp_path: Path, kept: bool, used: bool) -> None:
    """It goes away when its place is wanted again, unless it is to stay or was changed since."""
    target = tmp_path / "out"
    subprocess.run([sys.executable, "-c", _KILLED_HELD, str(target)], check=False)
    if used:
        (target / "notes").touch()

    assert [] == sweep(tmp_path)
    withdraw(tmp_path / "other", lambda path: kept and path == target)
    assert (target / "whole").is_file()
    withdraw(target, lambda path: kept and path == target)

    assert (["out"] if kept or used else []) == names(tmp_path)


def test_a_living_process_holds_what_it_published(tmp_path: Path) -> None:
    """Between publishing and keeping nobody else withdraws a folder; its own process can."""
    with Staging(tmp_path / "kept") as kept, Staging(tmp_path / "gone") as gone:
        for staging in (kept, gone):
            (staging.folder / "x").touch()
            staging.publish(held=True)
            withdraw(staging.target, lambda _: False)

            assert staging.target.is_dir()

        kept.keep()
        gone.take_back()

    assert ["kept"] == names(tmp_path)


def test_what_can_be_gone_on_with_stays_though_its_place_is_an_empty_folder(
    tmp_path: Path,
) -> None:
    """An empty folder is no target that is made: whoever sweeps leaves the half beside it."""
    target = tmp_path / "out"
    target.mkdir()
    with suppress(_Stopped), Staging(target, "k" * 64) as staging:
        staging.journal.touch()
        raise _Stopped

    assert [] == sweep(tmp_path)
    assert [] == sweep(tmp_path, target, "k" * 64)
    assert staging.folder.is_dir()
    (target / "made").touch()
    assert [staging.folder] == sweep(tmp_path)


def test_who_sweeps_is_not_at_the_same_work(tmp_path: Path) -> None:
    """A lock that is held for a moment, to look whether it is, is waited for."""
    with suppress(_Stopped), Staging(tmp_path / "out", "k" * 64) as staging:
        staging.journal.touch()
        raise _Stopped
    looking = FileLock(f"{staging.folder}.lock", thread_local=False)
    looking.acquire()
    timer = threading.Timer(0.2, looking.release)
    timer.start()

    with Staging(tmp_path / "out", "k" * 64) as again:
        again.publish()

    timer.join()
    assert (tmp_path / "out").is_dir()


def test_the_folders_above_are_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a target in folders that do not exist, the name of each is written to the disk."""
    synced: list[Path] = []
    monkeypatch.setattr(durable, "fsync_folder", synced.append)

    with Staging(tmp_path / "a" / "b" / "out") as staging:
        staging.publish()

    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(synced)


def test_sweeping_spares_others(tmp_path: Path) -> None:
    """What is not adreg's staging is not touched."""
    for name in (".x.lock", ".hidden", "x.adreg-1.lock"):
        (tmp_path / name).touch()

    assert [] == sweep(tmp_path)
    assert [".hidden", ".x.lock", "x.adreg-1.lock"] == names(tmp_path)


def test_refusals_of_the_system(tmp_path: Path) -> None:
    """A full disk and a used-up quota are DiskFull; anything else is WriteFailed."""
    full = write_error(tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    quota = write_error(tmp_path, OSError(errno.EDQUOT, "Disk quota exceeded"))
    other = write_error(tmp_path, OSError(errno.EFBIG, "File too large"))

    assert [DiskFull, DiskFull, WriteFailed] == [type(full), type(quota), type(other)]
    assert "No space left on device" in str(full)


def test_room(tmp_path: Path) -> None:
    """More than is free is DiskFull with both numbers, also for a folder that is not there yet."""
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(DiskFull, match="not enough room") as raised:
        require_space(tmp_path / "not" / "yet", 1 << 60)

    assert 1 << 60 == raised.value.needed
    assert 0 <= raised.value.free < 1 << 60
    assert f"{1 << 60:,} bytes are needed" in raised.value.hint
