"""Many processes at one registry: it is as if they had worked one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from stopping import Worker, make_files

from adreg.registry import Registry

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_a_soak_of_15_seconds_loses_nothing() -> None:
    """Eight processes add, alias, remove, sweep, verify and back up, and some are killed.

    What was acknowledged is there, nothing else is, nothing is damaged or left behind, and
    each backup that was made in the middle restores whole.
    """
    done = subprocess.run(
        [sys.executable, str(SOAK), "0.25"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    told = json.loads(done.stdout)

    assert [] == told["wrong"]
    assert (0, "") == (done.returncode, done.stderr)
    assert told["kills"] >= 3
    assert all(told[what] for what in ("add", "remove", "alias", "gc", "verify"))


def test_the_same_adapter_from_many_processes_is_one_version(home: Path, tmp_path: Path) -> None:
    """All of them are told of the same version, and one of them made it."""
    del home
    folder = make_files(tmp_path / "one", 1)
    add = [sys.executable, "-I", "-m", "adreg.cli", "-q", "add", str(folder), "--name", "one"]
    running = [
        subprocess.Popen([*add, "--json"], stdout=subprocess.PIPE, text=True) for _ in range(5)
    ]
    told = [json.loads(one.communicate(timeout=60)[0]) for one in running]

    assert [0] * 5 == [one.returncode for one in running]
    assert [False] * 4 + [True] == sorted(one["new"] for one in told)
    registry = Registry()
    assert (1, (), ()) == (
        registry.list().total,
        registry.verify().faults,
        registry.verify().unknown,
    )


def test_what_is_removed_while_it_is_verified_is_no_damage(home: Path, tmp_path: Path) -> None:
    """Nor are files that came in after the catalog was asked unknown ones."""
    registry = Registry()
    registry.add(make_files(tmp_path / "a", 1, 60_000), name="a")
    registry.add(make_files(tmp_path / "b", 2, 60_000), name="b")
    work = (
        "found = registry.verify()\n"
        f"Path({str(home / 'said')!r}).write_text(repr((found.faults, found.unknown)))"
    )
    with Worker(work, after=1_000_000) as worker:
        assert worker.is_stopped
        registry.remove("b")
        registry.add(make_files(tmp_path / "c", 3), name="c")
        worker.go_on()

    assert "((), ())" == (home / "said").read_text()
