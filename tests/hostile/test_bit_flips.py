"""Bit by bit: every class of byte of a small registry is flipped, cut, lost or added, and found."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import factory
import pytest

from adreg.registry import Registry
from adreg.registry.errors import AdregError
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

STRIDE = int(os.environ.get("ADREG_FLIP_STRIDE", "499"))
"""Every so many bytes are flipped, and all of the first 24: 1 is the long form."""


@pytest.fixture(scope="module")
def filled(
    honest: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return a home with two versions of one adapter and a model, and the model's folder."""
    root = tmp_path_factory.mktemp("filled")
    registry = Registry(home=root / "home")
    base, adapter = honest
    second = shutil.copytree(adapter, root / "second")
    factory.edit_config(second, lora_alpha=3)
    (second / "LICENSE").write_text("Apache")
    for folder in (adapter, second):
        registry.add(folder, name="team/a", note="a note", tags=["k=v"])
    recipe = Recipe((RecipeAdapter("team/a@1"),), base=str(base))
    registry.merge(recipe, output=root / "model")
    return root / "home", root / "model"


def found(home: Path) -> tuple[str, ...]:
    """Return what verify says: its faults and files that nothing refers to, or its error."""
    try:
        verified = Registry(home=home).verify()
    except AdregError as error:
        return (str(error),)
    return verified.faults + tuple(map(str, verified.unknown))


def flips(path: Path) -> Iterator[int]:
    """Flip one bit after the other in a file, each for one round, and give its place."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    good = path.read_bytes()
    places = [at for at in range(len(good)) if at < 24 or at % STRIDE == 0]
    with path.open("r+b", buffering=0) as file:
        for at in places:
            os.pwrite(file.fileno(), bytes([good[at] ^ 1 << at % 8]), at)
            yield at
            os.pwrite(file.fileno(), good[at : at + 1], at)
    path.chmod(mode)
    assert path.read_bytes() == good


def all_files(filled: tuple[Path, Path]) -> list[Path]:
    """Return the stored files and those of the model."""
    blobs = [path for path in filled[0].rglob("blobs/*") if path.is_file()]
    return sorted(blobs) + sorted(path for path in filled[1].rglob("*") if path.is_file())


def test_flipped_bits(filled: tuple[Path, Path]) -> None:
    """Each flipped bit of a configuration, a header, weights, a card and a model is named."""
    assert () == found(filled[0])
    tried = 0
    for path in all_files(filled):
        for place in flips(path):
            assert found(filled[0]), (path, place)
            tried += 1
    assert tried > 300
    assert () == found(filled[0])


@pytest.mark.parametrize("keep", [0, 1, -1])
def test_cut_files(filled: tuple[Path, Path], keep: int) -> None:
    """So is each file that is cut to nothing, to one byte, or by one."""
    for path in all_files(filled):
        good, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o644)
        path.write_bytes(good[:keep])
        assert found(filled[0]), path
        path.write_bytes(good + b"x")
        assert found(filled[0]), path
        path.write_bytes(good)
        path.chmod(mode)
    assert () == found(filled[0])


def test_names(filled: tuple[Path, Path]) -> None:
    """A blob, a link, a version's folder or a model's file that is lost or renamed is named."""
    home, model = filled
    store = home / "store" / "models--adreg"
    there = [*store.glob("blobs/*"), *store.glob("snapshots/*"), *store.glob("snapshots/*/*")]
    assert len(there) > 10
    for path in [*there, *model.iterdir()]:
        moved = path.with_name(path.name[:-1] + ("1" if path.name[-1] == "0" else "0"))
        path.rename(moved)
        assert len(found(home)) > 0, path
        aside = home.parent / "aside"
        moved.rename(aside)
        assert len(found(home)) > 0, path
        aside.rename(path)
    assert () == found(home)


def test_extra_files_and_other_links(filled: tuple[Path, Path]) -> None:
    """A file that nothing refers to is told of wherever it lies, as is a link that leads away."""
    home, model = filled
    store = home / "store" / "models--adreg"
    snapshot = next(store.glob("snapshots/*"))
    for path in (store / "blobs" / "x", snapshot / "x", store / "snapshots" / "x", model / "x"):
        path.write_text("x")
        assert any(path.name in line for line in found(home)), path
        path.unlink()
    for link in snapshot.iterdir():
        text = link.readlink()
        for other in ("/etc/hostname", f"{text}0", "../../blobs", str(text)[1:]):
            link.unlink()
            link.symlink_to(other)
            assert found(home), (link, other)
        link.unlink()
        shutil.copy(link.parent / text, link)  # the same bytes, and no link to them
        assert found(home), link
        link.unlink()
        link.symlink_to(text)
    assert () == found(home)


LIES = [
    "UPDATE file SET sha256 = 'f' || substr(sha256, 2) WHERE name = ?",
    "UPDATE file SET sha256 = substr(sha256, 1, 63) || '\u00e9' WHERE name = ?",
    "UPDATE file SET size = size + 1 WHERE name = ?",
    "UPDATE file SET name = name || '1' WHERE name = ?",
    "DELETE FROM file WHERE name = ?",
    "UPDATE version SET digest = substr(digest, 2) || '0'",
    "UPDATE adapter SET config = replace(config, 'LORA', 'LOHA')",
    "UPDATE adapter SET config = config || ' '",
    "UPDATE version SET created_at = replace(created_at, '-', 'x')",
    "UPDATE adapter SET targets = 'x'",
    "UPDATE model SET location = location || 'x'",
]


@pytest.mark.parametrize("lie", LIES)
def test_what_the_catalog_says(filled: tuple[Path, Path], lie: str) -> None:
    """A changed digest, size, name, configuration, time or list in the catalog is told of."""
    home = filled[0]
    database = home / "catalog.sqlite"
    good = database.read_bytes()
    for name in ("adapter_model.safetensors", "LICENSE", "model.safetensors"):
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            assert connection.execute(lie, (name,) if "?" in lie else ()).rowcount
        assert found(home), lie
        database.write_bytes(good)
    assert () == found(home)
