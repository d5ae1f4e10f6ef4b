"""A Hub for tests with an adapter on it, and a registry that pulls from there in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import factory
import pytest
from hubserver import Hub
from huggingface_hub import constants
from running import Adreg, Ran

from adreg.cli.main import main
from adreg.registry.hub.client import Backoff

CARD = """---
license: apache-2.0
base_model: someone/tiny-llama
library_name: peft
tags:
- lora
- german
---
# Support
"""


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny llama."""
    return factory.make_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="session")
def adapter_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LoRA of the tiny llama, with a card and what training leaves besides."""
    folder = factory.make_adapter(base_folder, tmp_path_factory.mktemp("adapter") / "lora", r=4)
    (folder / "README.md").write_text(CARD, "utf-8")
    (folder / "optimizer.pt").write_bytes(b"not wanted")
    return folder


def files_of(folder: Path) -> dict[str, bytes | Path]:
    """Return a folder's files as what a Hub's commit takes."""
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def online(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Let adreg in this process speak to the test's Hub, as ``alice``, without long waits."""
    del home
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Backoff, "wait", lambda self, failures: 0.01 * failures)  # noqa: ARG005
    hub.add_user("alice", "hf_alice")
    hub.add_user("reader", "hf_reader", write=False)
    return hub


@pytest.fixture
def adapter_repo(online: Hub, adapter_folder: Path) -> str:
    """Return the name of a repository with the adapter at its top."""
    online.create_repo("alice/support")
    online.commit("alice/support", files_of(adapter_folder))
    online.requests.clear()
    return "alice/support"


@pytest.fixture
def adreg(capfd: pytest.CaptureFixture[str]) -> Adreg:
    """Run adreg in this process."""

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(list(arguments))
        out, err = capfd.readouterr()
        return Ran(int(exited.value.code or 0), out, err)

    return run


Run = Callable[..., Ran]
