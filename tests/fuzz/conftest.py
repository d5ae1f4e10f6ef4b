"""Bounds on each reader: 256 MiB over what the process has, and five seconds of its time."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import factory
import pytest

MEMORY = 256 << 20
SECONDS = 5.0


class Hang(BaseException):
    """A reader that takes too long; no ``except Exception`` of its may catch it."""


def _hang(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise Hang


@contextmanager
def bounded() -> Iterator[None]:
    """Make whatever takes more memory or time fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Of the process's own time: other work on the machine counts not.
    before = signal.signal(signal.SIGVTALRM, _hang)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a tiny Llama and a LoRA of it."""
    os.environ.pop("ADREG_HOME", None)
    root = tmp_path_factory.mktemp("honest")
    base = factory.make_base(root / "base", "llama")
    return base, factory.make_adapter(base, root / "adapter", r=2)
