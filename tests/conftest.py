"""What all tests share: a registry of their own, and no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import factory`

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
