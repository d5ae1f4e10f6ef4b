"""Rebuilding: the same bytes from a lock file, or a clear no."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from workshop import Workshop, fill, make_workshop

from adreg.registry import Registry
from adreg.registry.errors import (
    BaseRefused,
    LockBroken,
    NotFound,
    NotReproduced,
    OutputRefused,
)
from adreg.registry.release.lock import LOCK


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return the folders of a base and two adapters."""
    return make_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, shop: Workshop) -> Path:
    """Return a release that was made in a registry of its own."""
    root = tmp_path_factory.mktemp("release")
    fill(Registry(root / "home"), shop).export("bot", root / "out", licence="mit")
    return root / "out"


@pytest.fixture
def registry(home: Path, shop: Workshop) -> Registry:
    """Return another registry, where the same parts go by other names."""
    registry = Registry(home)
    registry.add_base(str(shop.base), name="other")
    registry.add(shop.two, name="b", base="other")
    registry.add(shop.one, name="a", base="other")
    return registry


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _changed(release: Path, folder: Path, *path: str | int, value: object) -> Path:
    data: Any = json.loads((release / LOCK).read_text())
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    lock = folder / "changed.json"
    lock.write_text(json.dumps(data))
    return lock


def test_same_bytes(registry: Registry, release: Path, tmp_path: Path) -> None:
    """Every file of the release comes out again, byte for byte, lock and checksums too."""
    done = registry.rebuild(release / LOCK, tmp_path / "out")

    assert _files(release) == _files(tmp_path / "out")
    assert [
        ("base tiny", "other"),
        ("adapter team/one@1", "a@1"),
        ("adapter team/two@1", "b@1"),
    ] == [(part.what, part.found) for part in done.parts]


def test_base_by_path(home: Path, shop: Workshop, release: Path, tmp_path: Path) -> None:
    """A base that the catalog does not know may be named by its folder, wherever it lies."""
    registry = Registry(home)
    registry.add(shop.one, name="a")
    registry.add(shop.two, name="b")
    moved = shutil.copytree(shop.base, tmp_path / "elsewhere")
    (moved / "extra.json").write_text("{}")
    registry.rebuild(release / LOCK, tmp_path / "out", base=str(moved))

    assert _files(release) == _files(tmp_path / "out")


def test_other_base(registry: Registry, shop: Workshop, release: Path, tmp_path: Path) -> None:
    """A base with the same shapes and other weights is refused, and the file is named."""
    other = shutil.copytree(shop.base, tmp_path / "other")
    shard = min(other.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BaseRefused, match=f"its {shard.name} differs"):
        registry.rebuild(release / LOCK, tmp_path / "out", base=str(other))

    assert not (tmp_path / "out").exists()


def test_missing_parts(home: Path, release: Path, tmp_path: Path) -> None:
    """Without the parts nothing is built, and a dry run names all that is missing."""
    registry = Registry(home)
    with pytest.raises(NotFound):
        registry.rebuild(release / LOCK, tmp_path / "out")
    done = registry.rebuild(release / LOCK, tmp_path / "out", dry_run=True)

    assert not done.ready
    assert ["base tiny", "adapter team/one@1", "adapter team/two@1"] == [
        part.what for part in done.parts if part.fault
    ]
    assert not (tmp_path / "out").exists()


def test_dry_run(registry: Registry, home: Path, release: Path, tmp_path: Path) -> None:
    """A dry run says that all is there, and writes nothing."""
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    done = registry.rebuild(release / LOCK, tmp_path / "out", dry_run=True)

    assert done.ready
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*")}


def test_not_reproduced(registry: Registry, release: Path, tmp_path: Path) -> None:
    """A file that comes out different is named, and nothing is published."""
    lock = _changed(release, tmp_path, "files", -1, "sha256", value="0" * 64)
    with pytest.raises(NotReproduced) as caught:
        registry.rebuild(lock, tmp_path / "places" / "out")

    name = json.loads(lock.read_text())["files"][-1]["name"]
    assert (name,) == caught.value.files
    assert "The versions are the same" in caught.value.cause
    assert [] == list((tmp_path / "places").iterdir())


def test_cause(registry: Registry, release: Path, tmp_path: Path) -> None:
    """When it was built with other versions, those are named as the cause."""
    lock = _changed(release, tmp_path, "engine", "numpy", value="1.0")
    data = json.loads(lock.read_text())
    data["files"][-1]["size"] += 1
    lock.write_text(json.dumps(data))
    with pytest.raises(NotReproduced, match="differs from the lock file") as caught:
        registry.rebuild(lock, tmp_path / "out")

    assert caught.value.cause.startswith("It was built with numpy 1.0 (here ")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("recipe", "method"), "magic"),
        (("recipe", "adapters", 0, "weight"), 3.0),
        (("recipe", "more"), 1),
    ],
)
def test_recipe_disagrees(
    registry: Registry, release: Path, tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    """A recipe that is unknown, or other than the list of adapters, is LockBroken."""
    lock = _changed(release, tmp_path, *path, value=value)
    with pytest.raises(LockBroken):
        registry.rebuild(lock, tmp_path / "out")


def test_not_into_the_base(
    registry: Registry, shop: Workshop, release: Path, tmp_path: Path
) -> None:
    """A rebuild goes neither into the base nor into a folder that is taken."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    for folder in (shop.base / "out", tmp_path / "taken"):
        with pytest.raises(OutputRefused):
            registry.rebuild(release / LOCK, folder)


def test_history(registry: Registry, release: Path, tmp_path: Path) -> None:
    """The rebuild stands in the history."""
    registry.rebuild(release / LOCK, tmp_path / "out")

    assert "rebuild" == registry.history().entries[0].action
