"""What all tests share: a registry of their own, and no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hubserver import Hub

sys.path.insert(0, str(Path(__file__).parent))  # for `import factory`

# A job in the background may have been started with Ctrl-C ignored, which its children would
# inherit; what a handler is set for they get as the system's default.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test imports huggingface_hub or PEFT, which read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that adreg takes as its home, for this test alone."""
    folder = tmp_path / "adreg-home"
    folder.mkdir()
    monkeypatch.setenv("ADREG_HOME", str(folder))
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Return a Hub on loopback that is this test's alone, with no user and no repo."""
    from hubserver import Hub  # noqa: PLC0415  (a third of a second that few tests need)

    with Hub(tmp_path / "hub-server") as server:
        yield server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:  # noqa: PLW1510
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
