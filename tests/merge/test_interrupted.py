"""Merges that are killed, stopped or run out of disk: nothing half done, nothing in the way."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import factory
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adreg.registry import Registry

_ROWS = 48 << 20
"""Elements of a tensor that makes the merge take long enough to be hit in the middle."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base of about 200 MB, most of it one tensor that no adapter touches, and an adapter."""
    import torch  # noqa: PLC0415

    root = tmp_path_factory.mktemp("interrupted")
    base = factory.make_base(root / "base", dtype=torch.float32)
    adapter = factory.make_adapter(base, root / "adapter")
    file = base / "model.safetensors"
    tensors = load_file(file)
    tensors["model.ballast.weight"] = np.zeros((_ROWS // 64, 64), np.float32)
    save_file(tensors, file, metadata={"format": "pt"})
    return base, adapter


def start(home: Path, inputs: tuple[Path, Path], out: Path) -> subprocess.Popen[str]:
    """Start ``adreg merge`` and wait until its staging folder holds some megabytes."""
    base, adapter = inputs
    command = [sys.executable, "-m", "adreg.cli", "--home", str(home), "merge", str(adapter)]
    child = subprocess.Popen(
        [*command, "--base", str(base), "-o", str(out), "--name", "merged"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and child.poll() is None:
        staged = [f.stat().st_size for d in out.parent.glob(".*.adreg-*") for f in files_of(d)]
        if sum(staged) > 8 << 20:
            return child
        time.sleep(0.002)
    pytest.fail(f"the merge ended before it could be hit: {child.communicate()}")


def files_of(folder: Path) -> list[Path]:
    """Return the files of a staging folder that may go away while it is looked at."""
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def models(home: Path) -> int:
    """Return how many models the catalog knows."""
    return Registry(home).list().total


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_merge_is_as_if_it_had_not_begun(
    tmp_path: Path, home: Path, inputs: tuple[Path, Path], how: signal.Signals
) -> None:
    """No output and no record is left; the next merge works, and sweeps what the kill left."""
    out = tmp_path / "made" / "out"
    out.parent.mkdir()
    child = start(home, inputs, out)

    child.send_signal(how)
    _, said = child.communicate(timeout=60)

    assert not out.exists()
    assert models(home) == 0
    left = [path.name for path in out.parent.iterdir()]
    if how is signal.SIGINT:
        assert (child.returncode, left) == (130, [])
        assert "stopped; nothing was recorded" in said
        assert "Traceback" not in said
    else:
        assert child.returncode == -signal.SIGKILL
        assert left

    base, adapter = inputs
    command = [sys.executable, "-m", "adreg.cli", "--home", str(home), "merge", str(adapter)]
    subprocess.run(
        [*command, "--base", str(base), "-o", str(out), "--name", "merged"], check=True, cwd="/"
    )
    assert models(home) == 1
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert Registry(home).verify("merged").faults == ()


def test_a_disk_that_refuses(tmp_path: Path, home: Path, inputs: tuple[Path, Path]) -> None:
    """A write that the system refuses ends in two clear lines, and leaves nothing."""
    base, adapter = inputs
    out = tmp_path / "made" / "out"
    out.parent.mkdir()

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 20, 32 << 20))

    command = [sys.executable, "-m", "adreg.cli", "--home", str(home), "merge", str(adapter)]
    done = subprocess.run(
        [*command, "--base", str(base), "-o", str(out)],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        preexec_fn=small_files,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )

    assert done.returncode == 1
    error, hint = done.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: writing ")
    assert "File too large" in error
    assert hint.startswith("hint: Nothing was recorded")
    assert list(out.parent.iterdir()) == []
    assert models(home) == 0
