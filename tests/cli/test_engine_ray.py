"""``--engine ray`` as a whole process: what is on stdout, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import factory
import pytest


def adreg(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run adreg with these arguments in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "adreg.cli", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.usefixtures("home")
def test_same_files_and_pure_json(tmp_path: Path) -> None:
    """A Ray of this machine makes the folder of a local merge, and stdout is JSON alone."""
    pytest.importorskip("ray", reason="the extra adreg[ray] is not installed")
    base = factory.make_base(tmp_path / "base", shard_size=20_000)
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    merge = ["merge", adapter, "--base", base, "--json", "--force"]
    ray = ["--engine", "ray", "--ray-address", "local", "--threads", 1]

    here = adreg(*merge, "-o", tmp_path / "here")
    there = adreg(*merge, "-o", tmp_path / "there", *ray, HOME=str(tmp_path))

    assert (0, 0) == (here.returncode, there.returncode), there.stderr
    assert json.loads(here.stdout)["files"] == json.loads(there.stdout)["files"]
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names == {path.name for path in (tmp_path / "there").iterdir()}
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


@pytest.mark.usefixtures("home")
def test_stream_is_refused(tmp_path: Path) -> None:
    """A streamed base cannot be read by other machines, and it says so in two lines."""
    arguments = ["merge", tmp_path, "--base", "owner/repo", "--stream", "--engine", "ray"]

    run = adreg(*arguments)

    assert (1, "") == (run.returncode, run.stdout)
    assert run.stderr.splitlines() == [
        "error: not merged: the machines of an engine cannot read a base that is streamed",
        "hint: Fetch the base to the storage that they share, and leave --stream out.",
    ]
