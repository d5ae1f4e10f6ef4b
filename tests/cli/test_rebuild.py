"""`adreg rebuild`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
