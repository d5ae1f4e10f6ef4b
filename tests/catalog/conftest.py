"""A catalog in a folder of its own, and short ways to put things into it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
from sqlalchemy import Connection

from adreg.registry.catalog import adapters, bases, models
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import (
    AdapterFacts,
    BaseFacts,
    BaseFile,
    BaseRecord,
    Content,
    ModelFacts,
    ModelInput,
    Source,
    VersionKey,
)
from adreg.registry.digest import FileDigest, of_files
from adreg.registry.settings import Settings

NOW = datetime(2026, 11, 24, 12, 30, 15, 123456, tzinfo=timezone.utc)


def sha(text: str) -> str:
    """Return a digest as any file could have it."""
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def now() -> datetime:
    """A time with all its digits."""
    return NOW


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a registry whose folder does not exist yet."""
    return Settings.at(tmp_path / "home")


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    """A catalog that does not exist yet."""
    return Catalog(settings)


@pytest.fixture
def add_adapter() -> Callable[..., VersionKey]:
    """Add an adapter that is like no other; ``seed`` makes it like another."""
    counter = itertools.count()

    def add(
        connection: Connection,
        name: str,
        *,
        seed: str = "",
        base_id: int | None = None,
        source: Source | None = None,
        shared: str = "",
        at: datetime = NOW,
        **facts: object,
    ) -> VersionKey:
        seed = seed or f"{name} {next(counter)}"
        files = (
            FileDigest("adapter_config.json", sha(shared or f"config of {seed}"), 100),
            FileDigest("adapter_model.safetensors", sha(seed), 1000),
        )
        content = Content(of_files(files), 1100, 500, "BF16", files, "apache-2.0")
        values = {
            "peft_type": "LORA",
            "config": '{"r": 8}',
            "targets": ("q_proj", "v_proj"),
            "target_count": 4,
            "rank": 8,
            "alpha": 16.0,
        }
        return adapters.add(
            connection,
            name,
            content,
            AdapterFacts(**{**values, **facts}),  # type: ignore[arg-type]  # checked by what it makes
            source or Source("path", f"/runs/{seed}", at),
            base_id=base_id,
            at=at,
        )

    return add


@pytest.fixture
def add_model() -> Callable[..., VersionKey]:
    """Add a model that was built from some versions."""
    counter = itertools.count()

    def add(
        connection: Connection, name: str, *keys: VersionKey, base_id: int | None = None
    ) -> VersionKey:
        seed = f"model {name} {next(counter)}"
        files = (FileDigest("model.safetensors", sha(seed), 5000),)
        content = Content(of_files(files), 5000, 2500, "BF16", files)
        facts = ModelFacts("linear", Path(f"/models/{name}"), {"r": 1}, sha("recipe"), "adreg 0.1")
        inputs = [ModelInput.of(key, 0.5) for key in keys]
        return models.add(connection, name, content, facts, inputs, base_id=base_id, at=NOW)

    return add


@pytest.fixture
def add_base() -> Callable[..., BaseRecord]:
    """Add a base, known by other names too."""

    def add(
        connection: Connection, name: str, *aliases: str, layout: str = "", location: str = ""
    ) -> BaseRecord:
        facts = BaseFacts(
            source_kind="path",
            location=Path(location or f"/bases/{name}"),
            architecture="LlamaForCausalLM",
            model_type="llama",
            dtype="BF16",
            parameters=8_030_261_248,
            bytes=16_060_522_496,
            layout_digest=sha(layout or f"layout of {name}"),
            config_digest=sha(f"config of {name}"),
            licence="llama3",
        )
        files = [BaseFile("model.safetensors", 16_060_556_376, 1_764_000_000_123_456_789)]
        return bases.add(connection, name, facts, aliases=aliases, files=files, at=NOW)

    return add
