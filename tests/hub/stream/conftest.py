"""A Hub for tests with a base in many shards on it, and a registry that merges from there."""

from __future__ import annotations

from pathlib import Path

import factory
import pytest
from hubserver import Hub
from huggingface_hub import constants
from running import Adreg, Ran
from streaming import Weights, put

from adreg.cli.main import main
from adreg.registry.hub import headers
from adreg.registry.hub.client import Backoff

CARD = "---\nlicense: apache-2.0\n---\n# A base\n"


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny llama in several shards, with a card."""
    folder = factory.make_base(tmp_path_factory.mktemp("base") / "llama", shard_size=10_000)
    (folder / "README.md").write_text(CARD, "utf-8")
    return folder


@pytest.fixture(scope="session")
def adapter_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LoRA of the tiny llama."""
    return factory.make_adapter(base_folder, tmp_path_factory.mktemp("adapter") / "lora", r=4)


@pytest.fixture
def online(hub: Hub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Let adreg in this process speak to the test's Hub; the cache is empty.

    A header of these small files is not in the first bytes that are asked for either.
    """
    del home
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Backoff, "wait", lambda self, failures: 0.01 * failures)  # noqa: ARG005
    monkeypatch.setattr(headers, "_FIRST", 256)
    hub.add_user("alice", "hf_alice")
    return hub


@pytest.fixture
def weights(online: Hub, base_folder: Path) -> Weights:
    """Return the weights of a base that is on the Hub as ``REPO``."""
    put(online, base_folder)
    return Weights(online, base_folder)


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
