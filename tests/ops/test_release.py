"""Exporting models: a release that others can check, load and rebuild."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from factory import load_base
from workshop import Workshop, fill, make_workshop

from adreg.registry import Registry
from adreg.registry.digest import of_file
from adreg.registry.errors import Damaged, LicenceUnknown, OutputRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.release.checksums import SUMS
from adreg.registry.release.lock import LOCK, read_lock


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return the folders of a base and two adapters."""
    return make_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def registry(home: Path, shop: Workshop) -> Registry:
    """Return a registry with the merged model ``bot``."""
    return fill(Registry(home), shop)


def _model_folder(registry: Registry) -> Path:
    return registry.list().rows[0].location or Path()


def test_files(registry: Registry, tmp_path: Path) -> None:
    """The release holds the checkpoint's bytes, and card, lock file and checksums."""
    done = registry.export("bot", tmp_path / "out")
    model = _model_folder(registry)
    names = {path.name for path in (tmp_path / "out").iterdir()}

    assert {LOCK, SUMS} == names - {path.name for path in model.iterdir()}
    assert names == {file.name for file in done.files}
    for path in model.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    for file in done.files:
        assert (file.sha256, file.size) == (
            of_file(tmp_path / "out" / file.name),
            (tmp_path / "out" / file.name).stat().st_size,
        )


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs GNU coreutils")
def test_sha256sum(registry: Registry, tmp_path: Path) -> None:
    """``sha256sum -c`` accepts every file of the release but the list itself."""
    done = registry.export("bot", tmp_path / "out")
    ran = subprocess.run(
        ["sha256sum", "--strict", "-c", SUMS],
        cwd=tmp_path / "out",
        capture_output=True,
        check=False,
    )

    assert (0, len(done.files) - 1) == (ran.returncode, ran.stdout.count(b": OK"))


def test_transformers_loads_it(registry: Registry, tmp_path: Path) -> None:
    """The release loads without PEFT, with the merged model's logits."""
    registry.export("bot", tmp_path / "out")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = [load_base(f)(ids).logits for f in (_model_folder(registry), tmp_path / "out")]

    assert torch.equal(*logits)


def test_lock(registry: Registry, shop: Workshop, home: Path, tmp_path: Path) -> None:
    """The lock names every part by digest, and no path of this machine."""
    registry.export("bot", tmp_path / "out")
    lock = read_lock(tmp_path / "out" / LOCK)
    text = (tmp_path / "out" / LOCK).read_text()

    assert [("team/one@1", 0.5), ("team/two@1", 1.0)] == [
        (one.reference, one.weight) for one in lock.adapters
    ]
    assert {path.name: of_file(path) for path in shop.base.iterdir()} == {
        file.name: file.sha256 for file in lock.base.files
    }
    assert {"numpy", "ml_dtypes"} < set(lock.engine)
    assert str(shop.base) not in text
    assert str(home) not in text


def test_same_release_again(registry: Registry, tmp_path: Path) -> None:
    """Two exports of a model are the same, byte for byte."""
    for name in ("a", "b"):
        registry.export("bot", tmp_path / name)

    assert [(p.name, p.read_bytes()) for p in sorted((tmp_path / "a").iterdir())] == [
        (p.name, p.read_bytes()) for p in sorted((tmp_path / "b").iterdir())
    ]


def test_card_is_the_models(registry: Registry, tmp_path: Path) -> None:
    """Without another licence the card is the one that the merge wrote."""
    registry.export("bot", tmp_path / "out")

    assert (_model_folder(registry) / "README.md").read_bytes() == (
        tmp_path / "out" / "README.md"
    ).read_bytes()


def test_licence_given(registry: Registry, tmp_path: Path) -> None:
    """The licence that is given stands in the card."""
    done = registry.export("bot", tmp_path / "out", licence="MIT")
    front = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]

    assert "mit" == done.licence == yaml.safe_load(front)["license"]


def test_licence_unknown(home: Path, shop: Workshop, tmp_path: Path) -> None:
    """Adapters without a licence are named, and nothing is written unless told to go on."""
    registry = fill(Registry(home), shop, licence=None)
    with pytest.raises(LicenceUnknown) as caught:
        registry.export("bot", tmp_path / "out")

    assert ("the adapter team/one@1", "the adapter team/two@1") == caught.value.parts
    assert not (tmp_path / "out").exists()
    assert registry.export("bot", tmp_path / "out", allow_unknown_licence=True).licence is None


def test_damage(registry: Registry, tmp_path: Path) -> None:
    """A checkpoint that changed since it was merged is not released."""
    shard = next(_model_folder(registry).glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Damaged, match=shard.name):
        registry.export("bot", tmp_path / "places" / "out")

    assert [] == list((tmp_path / "places").iterdir())


def test_not_into_its_inputs(registry: Registry, shop: Workshop) -> None:
    """A release goes neither into the base nor into the model."""
    for folder in (shop.base / "out", _model_folder(registry) / "out"):
        with pytest.raises(OutputRefused):
            registry.export("bot", folder)


def test_dry_run(registry: Registry, home: Path, tmp_path: Path) -> None:
    """A dry run checks and writes nothing."""
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    registry.export("bot", tmp_path / "out", dry_run=True)

    assert not (tmp_path / "out").exists()
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*")}


def test_base_is_hashed_once(registry: Registry, tmp_path: Path) -> None:
    """The digests of the base's files are remembered in the catalog."""
    assert all(file.sha256 is None for file in registry.base("tiny").files)
    registry.export("bot", tmp_path / "out")

    assert all(file.sha256 is not None for file in registry.base("tiny").files)


def test_adapter_from_a_folder(home: Path, shop: Workshop, tmp_path: Path) -> None:
    """What was merged from a folder is locked by its digest, and rebuilt once it is added."""
    registry = Registry(home)
    registry.add_base(str(shop.base), name="tiny")
    registry.merge(Recipe((RecipeAdapter(str(shop.one)),), base="tiny"), name="bot")
    registry.export("bot", tmp_path / "out", licence="mit")
    text = (tmp_path / "out" / LOCK).read_text()

    assert str(shop.one) not in text
    assert read_lock(tmp_path / "out" / LOCK).adapters[0].name == "one"
    registry.add(shop.one, name="team/x")
    assert registry.rebuild(tmp_path / "out" / LOCK, tmp_path / "again").ready
