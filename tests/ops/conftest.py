"""A tiny base, a LoRA of it, and an empty registry to add it to."""

from __future__ import annotations

import shutil
from pathlib import Path

import factory
import pytest

from adreg.registry import Registry


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return factory.make_base(tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture(scope="module")
def original(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of it, as PEFT saved it."""
    return factory.make_adapter(base, tmp_path_factory.mktemp("adapters") / "support")


@pytest.fixture
def adapter(original: Path, tmp_path: Path) -> Path:
    """A copy of the LoRA, to be changed or broken; it names no base."""
    folder = shutil.copytree(original, tmp_path / "support")
    factory.edit_config(folder, "base_model_name_or_path")
    return folder


@pytest.fixture
def registry(home: Path) -> Registry:
    """An empty registry."""
    del home
    return Registry()
