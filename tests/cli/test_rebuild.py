"""`adreg rebuild`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from workshop import fill, make_workshop

from adreg.registry import Registry

Run = Callable[..., Any]


def test_broken_lock(adreg: Run, tmp_path: Path) -> None:
    """A file that is no lock file is told so in one line."""
    lock = tmp_path / "adreg.lock.json"
    lock.write_text('{"schema": 7}')
    ran = adreg("rebuild", str(lock), "-o", str(tmp_path / "out"))

    assert 1 == ran.code
    assert f"error: {lock}: its schema is 7, this adreg reads 1\n" in ran.err
    assert "hint: Install a newer adreg.\n" in ran.err


def test_missing_lock(adreg: Run, tmp_path: Path) -> None:
    """A lock file that is not there is a known error."""
    ran = adreg("rebuild", str(tmp_path / "none.json"), "-o", str(tmp_path / "out"))

    assert 1 == ran.code


def test_release_and_rebuild(adreg: Run, home: Path, tmp_path: Path) -> None:
    """A release is rebuilt from its lock file; without the adapters a dry run ends with 1."""
    shop = make_workshop(tmp_path)
    fill(Registry(home), shop)
    release, again = tmp_path / "release", tmp_path / "again"
    exported = adreg("-q", "export", "bot", "-o", str(release))
    lock = str(release / "adreg.lock.json")
    rebuilt = adreg("-q", "rebuild", lock, "-o", str(again))
    there = adreg("-q", "rebuild", lock, "-o", str(tmp_path / "x"), "--dry-run")
    new = ["-q", "--home", str(tmp_path / "new")]
    gone = adreg(*new, "rebuild", lock, "-o", str(tmp_path / "x"), "--dry-run")

    assert f"exported bot@1 to {release} (" in exported.out
    assert "licence: apache-2.0\n" in exported.out
    assert f"rebuilt bot in {again}: " in rebuilt.out
    assert "every file is what the lock file says, byte for byte\n" in rebuilt.out
    assert there.out == (
        "part\tfound\tmissing\n"
        "base tiny\ttiny\t\n"
        "adapter team/one@1\tteam/one@1\t\n"
        "adapter team/two@1\tteam/two@1\t\n"
    )
    assert (0, 0, 0, 1) == (exported.code, rebuilt.code, there.code, gone.code)
    assert "adapter team/one@1\t\tthere is no adapter" in gone.out
