"""A backup that somebody forged is refused, whatever is in it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from stopping import make_files

from adreg.registry import Registry
from adreg.registry.errors import InputRefused

BLOCK = 512


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """A registry with two adapters."""
    del home
    registry = Registry()
    for seed, name in ((1, "team/one"), (2, "two")):
        registry.add(make_files(tmp_path / f"made-{seed}", seed), name=name)
    return registry


@pytest.fixture
def saved(registry: Registry, tmp_path: Path) -> Path:
    """A backup of it."""
    return registry.backup(tmp_path / "saved.tar").path


def refused(ask: Callable[[], object]) -> tuple[str, str]:
    """Return what is said of an error, and what to do."""
    with pytest.raises(InputRefused) as caught:
        ask()
    return caught.value.sentence, caught.value.hint


def member(name: str, data: bytes, **fields: Any) -> bytes:
    """Return one member of a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + b"\0" * (-len(data) % BLOCK)


def forged(catalog: bytes, blobs: dict[str, bytes], *more: bytes) -> bytes:
    """Return a backup whose manifest agrees with what is in it."""
    told = {
        "format": 1,
        "adreg": "0",
        "catalog": hashlib.sha256(catalog).hexdigest(),
        "catalog_bytes": len(catalog),
        "blobs": len(blobs) + len(more),
        "bytes": sum(map(len, blobs.values())),
    }
    parts = [member("manifest.json", json.dumps(told).encode())]
    parts += [member("catalog.sqlite", catalog)]
    parts += [member(f"blobs/{name}", data) for name, data in sorted(blobs.items())]
    return b"".join([*parts, *more, b"\0" * (2 * BLOCK)])


@pytest.mark.parametrize(
    "trick",
    [
        member("blobs/" + "f" * 64, b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("blobs/" + "f" * 64, b"", type=tarfile.LNKTYPE, linkname="catalog.sqlite"),
        member("blobs/" + "f" * 64, b"", type=tarfile.CHRTYPE, devmajor=1),
        member("blobs/" + "f" * 64, b"", type=tarfile.DIRTYPE),
        member("blobs/" + "f" * 64, b"", type=tarfile.GNUTYPE_LONGNAME),
        member("blobs/" + "f" * 64, b"", type=tarfile.GNUTYPE_SPARSE),
        member("blobs/../../../escaped", b""),
        member("/escaped", b""),
        member("blobs/" + "F" * 64, b""),
        member("blobs/" + "0" * 64, b""),
        member("blobs/" + "f" * 64, b"", mode=0o4755),
        member("blobs/" + "f" * 64, b"", uname="root"),
    ],
)
def test_no_trick_of_tar_is_taken(
    registry: Registry, saved: Path, tmp_path: Path, trick: bytes
) -> None:
    """Links, devices, folders, long names, holes, other paths, wrong order: all refused."""
    del registry
    parts = {}
    with tarfile.open(saved) as tar:
        for one in tar.getmembers():
            parts[one.name] = tar.extractfile(one).read()  # type: ignore[union-attr]
    blobs = {name[6:]: data for name, data in parts.items() if name.startswith("blobs/")}
    good, bad = tmp_path / "good.tar", tmp_path / "bad.tar"
    good.write_bytes(forged(parts["catalog.sqlite"], blobs))
    bad.write_bytes(forged(parts["catalog.sqlite"], blobs, trick))

    Registry(tmp_path / "good").restore(good)
    refused(lambda: Registry(tmp_path / "new").restore(bad))

    assert [] == everything_in(tmp_path / "new")
    assert [] == list(tmp_path.rglob("escaped"))


def everything_in(folder: Path) -> list[str]:
    """Return the names below a folder."""
    return [path.name for path in folder.rglob("*")] if folder.exists() else []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "UPDATE file SET name = '../../../escaped' WHERE size < 500 AND version_id = 1",
            "is not made of the files",
        ),
        ("UPDATE file SET size = size + 1", "its files are not those"),
        ("DELETE FROM file", "its files are not those"),
        ("UPDATE version SET digest = '../../x' WHERE id = 1", "is not made of the files"),
        ("DROP TABLE alias", "its catalog cannot be used"),
        ("ALTER TABLE note DROP COLUMN folded", "its table note lacks folded"),
        ("UPDATE adapter SET version_id = 9 WHERE version_id = 1", "refers to nothing"),
        ("UPDATE version SET series_id = 9 WHERE id = 1", "a row of its catalog is damaged"),
        ("UPDATE version SET created_at = 'x'", "a row of its catalog is damaged"),
        ("UPDATE adapter SET targets = '{'", "a row of its catalog is damaged"),
        ("UPDATE series SET name = '../escaped' WHERE id = 1", "a name that nothing can have"),
        ("UPDATE series SET name = 'a' || char(27) WHERE id = 1", "a name that nothing can have"),
        ("UPDATE alembic_version SET version_num = '9999'", "its catalog cannot be used"),
        ("DROP TABLE alembic_version", "its catalog cannot be used"),
    ],
)
def test_a_catalog_that_lies_is_not_restored(
    registry: Registry, saved: Path, tmp_path: Path, change: str, reason: str
) -> None:
    """A whole backup by its digests, of a catalog that somebody wrote: nothing of it is done."""
    del registry
    parts = {}
    with tarfile.open(saved) as tar:
        for one in tar.getmembers():
            parts[one.name] = tar.extractfile(one).read()  # type: ignore[union-attr]
    blobs = {name[6:]: data for name, data in parts.items() if name.startswith("blobs/")}
    altered, bad = tmp_path / "altered.sqlite", tmp_path / "bad.tar"
    altered.write_bytes(parts["catalog.sqlite"])
    with closing(sqlite3.connect(altered)) as catalog:
        catalog.execute("PRAGMA foreign_keys=OFF")
        catalog.execute(change)
        catalog.commit()
    bad.write_bytes(forged(altered.read_bytes(), blobs))

    said, todo = refused(lambda: Registry(tmp_path / "new").restore(bad))

    assert reason in said
    assert "Take another backup: nothing was restored." == todo
    assert 0 == Registry(tmp_path / "new").list().total
    assert [] == list(tmp_path.rglob("escaped"))


def test_the_reader_is_not_fooled_by_what_tarfile_skips() -> None:
    """The forged backups of these tests are tars that Python's own tarfile accepts."""
    data = forged(b"c" * 600, {"0" * 64: b"x"})

    with tarfile.open(fileobj=BytesIO(data)) as tar:
        assert ["manifest.json", "catalog.sqlite", "blobs/" + "0" * 64] == tar.getnames()
