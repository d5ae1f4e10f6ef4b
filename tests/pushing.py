"""Pushing in tests: adreg with a token against a Hub on loopback, here or in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hubserver import Hub
from huggingface_hub import constants
from running import Ran
from workshop import Workshop

from adreg.cli.main import main
from adreg.registry import Registry
from adreg.registry.hub.client import Backoff

TOKEN = "hf_aliceSecretToken0123456789"  # noqa: S105  # of a Hub that lives for one test


@dataclass
class Pusher:
    """A registry, the folders it was filled from, and a Hub that it pushes to."""

    home: Path
    hub: Hub
    shop: Workshop
    registry: Registry
    patch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]
    xet: bool = False
    offline: bool = False

    def environment(self, token: str) -> dict[str, str]:
        """Return the environment of an adreg that may speak to this Hub."""
        return {
            "ADREG_HOME": str(self.home),
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.home.parent / "hf-home"),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": str(int(self.offline)),
            "HF_HUB_DISABLE_XET": str(int(not self.xet)),
            "NO_COLOR": "1",
        }

    def run(self, *arguments: str, token: str = TOKEN) -> Ran:
        """Run adreg in this process, without long waits."""
        with self.patch.context() as patch:
            for name, value in self.environment(token).items():
                patch.setenv(name, value)
            # The Hub's client read the environment once, when it was imported.
            patch.setattr(constants, "HF_HUB_OFFLINE", self.offline)
            patch.setattr(constants, "HF_HUB_DISABLE_XET", not self.xet)
            patch.setattr(constants, "HF_TOKEN_PATH", str(self.home.parent / "no-token"))
            patch.setattr(Backoff, "wait", lambda _, failures: 0.01 * failures)
            self.capfd.readouterr()
            with pytest.raises(SystemExit) as exited:
                main(list(arguments))
        out, err = self.capfd.readouterr()
        return Ran(int(exited.value.code or 0), out, err)

    def push(self, *arguments: str, token: str = TOKEN) -> Ran:
        """Run ``adreg push`` in this process."""
        return self.run("push", *arguments, token=token)

    def start(self, *arguments: str, token: str = TOKEN) -> subprocess.Popen[str]:
        """Start adreg in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "adreg.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=os.environ | self.environment(token),
        )

    def asked(self) -> list[str]:
        """Return what was asked of the Hub, and forget it."""
        asked = [f"{one.method} {one.path}" for one in self.hub.requests]
        self.hub.requests.clear()
        return asked
