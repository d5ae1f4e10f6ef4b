"""Adapters that PEFT saved, a fresh copy for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a maker of adapters by base kind and LoRA settings, each made once."""
    root = tmp_path_factory.mktemp("adapters")
    made: dict[str, Path] = {}

    def make_one(kind: str = "llama", **lora_config: Any) -> Path:
        if kind not in made:
            made[kind] = factory.make_base(root / kind, kind)
        key = f"{kind} {lora_config}"
        if key not in made:
            made[key] = factory.make_adapter(made[kind], root / f"a{len(made)}", **lora_config)
        return made[key]

    return make_one


@pytest.fixture
def adapter(make: Callable[..., Path], tmp_path: Path) -> Path:
    """Return a copy of a plain LoRA of a Llama, to be broken."""
    return shutil.copytree(make(), tmp_path / "adapter")
