"""``adreg gc``, ``backup`` and ``restore`` at the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stopping import make_files

from adreg.registry import Registry


def test_gc_tells_each_and_why(adreg: Callable[..., Any], tmp_path: Path) -> None:
    """A line an item with its reason; the sum on stderr; all of it in the JSON."""
    adreg("add", str(make_files(tmp_path / "one", 1)))
    registry = Registry()
    old, young = registry._context.store.blob("0" * 64), registry._context.store.blob("1" * 64)
    for blob in (old, young):
        blob.write_bytes(b"12345")
    os.utime(old, (0, 0))

    dry = adreg("gc", "--dry-run")
    told = json.loads(adreg("gc", "--dry-run", "--grace", "0s", "--json").out)
    done = adreg("gc", "--grace", "1h")

    assert [
        "action\tkind\tbytes\tpath\twhy",
        f"would remove\tblob\t5\t{old}\tnothing refers to it",
        f"keep\tblob\t5\t{young}\tit is younger than the grace",
    ] == dry.out.splitlines()
    assert "1 item would go, 5 B; 1 kept; 2 stored files in use" in dry.err
    assert (10, [True, True]) == (told["freed"], [one["removed"] for one in told["items"]])
    assert (0, True) == (done.code, f"removed\tblob\t5\t{old}" in done.out)
    assert (False, True) == (old.exists(), young.exists())


def test_gc_wants_a_span_of_time(adreg: Callable[..., Any]) -> None:
    """A wrong one is a wrong use, with the right ones named."""
    ran = adreg("gc", "--grace", "soon")

    assert 2 == ran.code
    assert "'soon' is no span of time; write 90s, 30m, 1h or 7d" in ran.err


def test_backup_and_restore(adreg: Callable[..., Any], tmp_path: Path) -> None:
    """Each tells what it did; a registry that is there is refused, and kept when replaced."""
    adreg("add", str(make_files(tmp_path / "one", 1)))
    saved = str(tmp_path / "b.tar")

    made = adreg("backup", saved)
    again = adreg("backup", saved)
    refused = adreg("restore", saved, "--json")
    done = adreg("restore", saved, "--replace")
    other = adreg("--home", str(tmp_path / "new"), "restore", saved, "--json")

    assert (0, True) == (made.code, made.out.startswith(f"{saved}: 1 version, 2 files, "))
    assert (1, True) == (again.code, "something is there" in again.err)
    assert (1, "OutputRefused") == (refused.code, json.loads(refused.err)["error"])
    assert (0, True) == (done.code, done.out.endswith("home: 1 version, 2 files\n"))
    assert "what was there before is in " in done.err
    assert (0, 1, None) == (
        other.code,
        json.loads(other.out)["versions"],
        json.loads(other.out)["aside"],
    )
