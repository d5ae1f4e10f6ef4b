"""A registry with a few adapters and a model, and a way to run adreg in it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from running import Adreg, Ran

from adreg.cli.main import main
from adreg.registry import Registry
from adreg.registry.catalog import adapters, bases, marks, models
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import (
    AdapterFacts,
    BaseFacts,
    Content,
    ModelFacts,
    ModelInput,
    Source,
)
from adreg.registry.digest import FileDigest, of_bytes, of_files
from adreg.registry.names import Tag
from adreg.registry.settings import Settings

START = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
HUB = Source("hub", "someone/support-lora", START, "a" * 40)


def content_of(seed: str) -> tuple[Content, dict[str, bytes]]:
    """Return a version's content and the bytes of its files; the config is the same for all."""
    data = {"adapter_config.json": b'{"r": 8}\n', "adapter_model.safetensors": seed.encode()}
    files = tuple(FileDigest(name, of_bytes(one), len(one)) for name, one in data.items())
    size = sum(one.size for one in files)
    return Content(of_files(files), size, 500, "BF16", files, "apache-2.0"), data


@pytest.fixture
def filled(home: Path, tmp_path: Path) -> Registry:
    """team/support with two versions, summary, and one model built from team/support@1."""
    registry = Registry()
    with Catalog(Settings.at(home)).write() as connection:
        base = bases.add(
            connection,
            "smollm2",
            BaseFacts(
                source_kind="path",
                location=Path("/bases/smollm2"),
                architecture="LlamaForCausalLM",
                model_type="llama",
                dtype="BF16",
                parameters=134_515_008,
                bytes=269_030_016,
                layout_digest="1" * 64,
                config_digest="2" * 64,
            ),
            aliases=(),
            files=(),
            at=START,
        )
        keys = []
        for day, (name, rank, source) in enumerate(
            [
                ("team/support", 8, HUB),
                ("team/support", 16, Source("path", str(tmp_path / "run-2"), START)),
                ("summary", 64, Source("path", "/runs/summary", START)),
            ]
        ):
            content, data = content_of(f"{name} {day}")
            folder = tmp_path / f"made-{day}"
            folder.mkdir()
            for file, written in data.items():
                (folder / file).write_bytes(written)
            with registry._context.store.publication() as publication:
                publication.take({file: folder / file for file in data}, {}, lambda _: None)
                publication.draw(content.digest, content.files)
                publication.sync()
                publication.settle(content.digest)
            facts = AdapterFacts(
                "LORA", '{"r": 8}\n', ("q_proj", "v_proj"), 4, rank=rank, rank_min=rank, alpha=16.0
            )
            keys.append(
                adapters.add(
                    connection,
                    name,
                    content,
                    facts,
                    source,
                    base_id=base.id if name != "summary" else None,
                    at=START + timedelta(days=day),
                )
            )
        marks.set_tag(connection, keys[1].id, Tag("lang", "de"))
        marks.set_alias(connection, keys[0], "prod", START)
        weights = FileDigest("model.safetensors", "3" * 64, 5000)
        models.add(
            connection,
            "merged",
            Content(of_files([weights]), 5000, 2500, "BF16", (weights,)),
            ModelFacts("linear", Path("/models/merged"), {"r": 1}, "4" * 64, "adreg 0.1"),
            [ModelInput.of(keys[0], 0.5)],
            base_id=base.id,
            at=START + timedelta(days=3),
        )
        connection.commit()
    return registry


@pytest.fixture
def adreg(home: Path, capfd: pytest.CaptureFixture[str]) -> Adreg:
    """Run adreg in this process, in the test's own registry."""
    del home

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(list(arguments))
        out, err = capfd.readouterr()
        code = int(exited.value.code or 0)
        return Ran(code, out, err)

    return run


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours and one time zone, whoever runs the tests."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TZ", "UTC")
