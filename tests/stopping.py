"""Processes of their own that work in a registry, and are stopped or killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import final

import numpy as np
from safetensors.numpy import save_file

CHILD = """
import os, signal, sys
from pathlib import Path
from adreg.registry import Registry
from adreg.registry.catalog import engine
from adreg.registry.progress import Progress
from adreg.registry.store.publication import Publication

work, moment, how = sys.argv[1], sys.argv[2], getattr(signal, sys.argv[3])
stop = lambda: os.kill(os.getpid(), how)

class Listener(Progress):
    heard, done = 0, False
    def advance(self, amount=1):
        self.heard += amount
        if moment == "working" and not self.done and self.heard > int(sys.argv[4]):
            self.done = True
            stop()

settle = Publication.settle

def settle_and_stop(self, *digests):
    settle(self, *digests)
    if moment == "settled":
        stop()

Publication.settle = settle_and_stop
registry = Registry(progress=Listener())
exec(work)
"""


@final
class Worker:
    """A process that runs ``work``, Python with ``registry`` at hand, until a moment comes.

    ``moment`` is "working", after so many bytes of progress, or "settled", inside the
    transaction that records an adapter; ``how`` is the signal that it then gives itself.
    """

    def __init__(
        self,
        work: str,
        moment: str = "working",
        how: str = "SIGSTOP",
        after: int = 0,
        env: dict[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-I", "-c", CHILD, work, moment, how, str(after)]
        self.process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Worker:
        """Wait until it is stopped, or has ended."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.process.returncode = os.waitstatus_to_exitcode(status)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        if self.process.returncode is None:
            self.process.kill()
        self.process.communicate()

    @property
    def is_stopped(self) -> bool:
        """Whether it waits to be told to go on."""
        return self.process.returncode is None

    def go_on(self) -> None:
        """Let it go on to its end, which must be a good one."""
        os.kill(self.process.pid, signal.SIGCONT)
        _, err = self.process.communicate(timeout=60)
        assert (0, "") == (self.process.returncode, err)


def make_files(folder: Path, seed: int, width: int = 16) -> Path:
    """Write an adapter of ``64 * width`` bytes of weights; its config is the same for all."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    values = np.random.default_rng(seed).standard_normal((2, 4, width), dtype=np.float32)
    name = "base_model.model.layers.0.q_proj.lora_"
    tensors = {f"{name}A.weight": values[0], f"{name}B.weight": values[1].T.copy()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the time of change of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
