"""From references to versions."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from adreg.registry.catalog import adapters
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import AdapterFacts, Content, Source
from adreg.registry.digest import FileDigest, of_bytes, of_files
from adreg.registry.errors import InputRefused, NameRefused, NotFound
from adreg.registry.ops import resolve
from adreg.registry.settings import Settings

AT = datetime(2026, 11, 1, tzinfo=timezone.utc)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """first@1 and first@2 from one Hub repository, second@1 from another that first came from."""
    catalog = Catalog(Settings.at(tmp_path / "home"))
    added = [
        ("first", Source("hub", "a/one", AT, "c1")),
        ("first", Source("hub", "a/one", AT, "c2")),
        ("first", Source("hub", "a/both", AT, "c1")),
        ("second", Source("hub", "a/both", AT, "c1")),
    ]
    with catalog.write() as connection:
        for number, (name, source) in enumerate(added):
            files = (FileDigest("adapter_model.safetensors", of_bytes(bytes([number])), 1),)
            content = Content(of_files(files), 1, 1, "F32", files)
            facts = AdapterFacts("LORA", "{}", (), 0)
            adapters.add(connection, name, content, facts, source, base_id=None, at=AT)
        connection.commit()
    return catalog


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("first", "first@3"),
        ("FIRST@latest", "first@3"),
        ("first@1=0.5", "first@1"),
        ("hf://a/one", "first@2"),
        ("hf://a/one@c1", "first@1"),
    ],
)
def test_version(catalog: Catalog, reference: str, expected: str) -> None:
    """A reference means one version: the newest where it leaves a choice within one name."""
    with catalog.read() as connection:
        assert str(resolve.version(connection, reference)) == expected


def test_kind(catalog: Catalog) -> None:
    """Where a model is needed an adapter is not found, and the error says what it is."""
    with catalog.read() as connection, pytest.raises(NotFound) as caught:
        resolve.version(connection, "first", "model")

    assert caught.value.hint == "first@3 is an adapter."


def test_hub_reference_of_two_names(catalog: Catalog) -> None:
    """A Hub repository that came in under two names is not guessed at."""
    with catalog.read() as connection, pytest.raises(NotFound) as caught:
        resolve.version(connection, "hf://a/both")

    assert caught.value.close == ("first@3", "second@1")


def test_refused(catalog: Catalog, tmp_path: Path) -> None:
    """A folder is no reference here, nor is a weight where it means nothing."""
    with catalog.read() as connection:
        with pytest.raises(InputRefused):
            resolve.version(connection, str(tmp_path))
        with pytest.raises(NameRefused):
            resolve.unweighted(connection, "first=0.5")
        with pytest.raises(NameRefused):
            resolve.name(connection, "first@1")
