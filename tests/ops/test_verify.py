"""Verifying names every fault and changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import factory
import pytest

from adreg.registry import Registry, digest
from adreg.registry.catalog import models
from adreg.registry.catalog.records import Content, ModelFacts
from adreg.registry.digest import FileDigest, of_files
from adreg.registry.errors import CatalogError, NotFound
from adreg.registry.ops.history import now


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as PEFT saved it."""
    root = tmp_path_factory.mktemp("made")
    folder = factory.make_adapter(factory.make_base(root / "llama"), root / "adapter")
    factory.edit_config(folder, "base_model_name_or_path")
    return folder


@pytest.fixture
def registry(home: Path, adapter: Path, tmp_path: Path) -> Registry:
    """A registry with one adapter and one model of two files."""
    del home
    registry = Registry()
    registry.add(adapter)
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    files = []
    for name in ("model.safetensors", "sub/card.md"):
        (folder / name).write_bytes(name.encode() * 50)
        path = folder / name
        files.append(FileDigest(name, digest.of_file(path), path.stat().st_size))
    content = Content(of_files(files), 1, 1, "BF16", tuple(files))
    facts = ModelFacts("linear", folder, {}, "1" * 64, "adreg")
    with registry._context.catalog.write() as connection:
        models.add(connection, "merged", content, facts, [], base_id=None, at=now())
        connection.commit()
    return registry


def everything(home: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the time of change of every file below a folder."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in home.rglob("*")
        if path.is_file()
    }


def test_what_is_whole_has_no_faults_and_stays_as_it_is(registry: Registry) -> None:
    """Every file of every version is read, and the registry is byte for byte what it was."""
    before = everything(registry.settings.home)

    found = registry.verify()

    assert ((), ()) == (found.faults, found.unknown)
    assert ["adapter@1", "merged@1"] == [str(one.key) for one in found.versions]
    assert before == everything(registry.settings.home)


def test_damage_is_named_and_left_as_it_is(registry: Registry, tmp_path: Path) -> None:
    """Flipped, short, missing and extra files of adapters and models are told apart."""
    store = registry._context.store
    first = registry.verify("adapter").versions[0].folder
    weights = (first / "adapter_model.safetensors").resolve()
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (first / "README.md").resolve().unlink()
    (tmp_path / "model/model.safetensors").write_bytes(b"short")
    (tmp_path / "model/sub/card.md").unlink()
    (tmp_path / "model/new.txt").write_text("?")
    (first / "code").symlink_to(tmp_path)
    (tmp_path / "model/sub/code").symlink_to(tmp_path)
    store.blob("0" * 64).write_text("nobody's")
    before = everything(registry.settings.home)

    found = registry.verify()

    assert [
        ("README.md", "missing"),
        ("adapter_model.safetensors", "damaged"),
        ("code", "extra"),
        ("model.safetensors", "truncated"),
        ("new.txt", "extra"),
        ("sub/card.md", "missing"),
        ("sub/code", "extra"),
    ] == [(fault.name, fault.kind) for one in found.versions for fault in one.faults]
    assert (store.blob("0" * 64),) == found.unknown
    assert found.faults[0].startswith("adapter@1: README.md is missing")
    assert before == everything(registry.settings.home)


def test_one_version_is_verified_alone(registry: Registry, tmp_path: Path) -> None:
    """Another one's damage is not its own, and a model that is gone misses all its files."""
    shutil.rmtree(tmp_path / "model")

    assert () == registry.verify("adapter@1").faults
    assert ["missing", "missing"] == [f.kind for f in registry.verify("merged").versions[0].faults]


def test_a_row_that_is_missing_is_told(registry: Registry) -> None:
    """A catalog that has lost what belongs to a version is named as damaged, in one line."""
    with closing(sqlite3.connect(registry.settings.home / "catalog.sqlite")) as catalog:
        catalog.execute("DELETE FROM adapter")
        catalog.commit()

    with pytest.raises(CatalogError) as caught:
        registry.verify()

    assert "a row that must be there is missing" in caught.value.sentence


def test_an_unknown_name_is_told(registry: Registry) -> None:
    """With the nearest name that there is."""
    with pytest.raises(NotFound) as caught:
        registry.verify("adaptr")

    assert ("adapter",) == caught.value.close
