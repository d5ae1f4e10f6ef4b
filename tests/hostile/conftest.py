"""An honest adapter and an honest base, fresh copies to be spoiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import factory
import pytest


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a tiny Llama and a LoRA of it, which no test may change."""
    root = tmp_path_factory.mktemp("honest")
    base = factory.make_base(root / "base", "llama")
    return base, factory.make_adapter(base, root / "adapter")


@pytest.fixture
def base(honest: tuple[Path, Path], tmp_path: Path) -> Path:
    """Return a copy of the base."""
    return shutil.copytree(honest[0], tmp_path / "base")


@pytest.fixture
def adapter(honest: tuple[Path, Path], tmp_path: Path) -> Path:
    """Return a copy of the adapter."""
    return shutil.copytree(honest[1], tmp_path / "adapter")
