"""Sweeping removes what nothing refers to, tells why, and leaves running commands alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import factory
import pytest
from hubserver import Hub
from stopping import Worker, everything, make_files

from adreg.registry import Registry
from adreg.registry.catalog import models
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import Content, ModelFacts
from adreg.registry.digest import FileDigest, of_bytes, of_files
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.ops.gc import Item, Swept
from adreg.registry.ops.history import now
from adreg.registry.settings import Settings

OLD = 5 * 24 * 3600
BIG = 100_000
"""Columns of an adapter of 3.2 MB, whose copy takes a few steps."""


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """A registry with one adapter."""
    del home
    registry = Registry()
    registry.add(make_files(tmp_path / "one", 1), name="one")
    return registry


def told(swept: Swept) -> dict[str, tuple[str, bool, str]]:
    """Return what is said of each item, by its name."""
    return {item.path.name: (item.kind, item.removed, item.reason) for item in swept.items}


def age(*paths: Path) -> None:
    """Make files and folders old."""
    for path in paths:
        for one in (path, *path.rglob("*")):
            os.utime(one, (time.time() - OLD,) * 2, follow_symlinks=False)


def litter(registry: Registry) -> dict[str, Path]:
    """Leave one of each that nothing refers to, all old."""
    store, settings = registry._context.store, registry.settings
    places = {
        "blob": store.blob("0" * 64),
        "snapshot": store.folder("1" * 64),
        "model": settings.models / "0123456789abcdef",
        "download": settings.downloads / "models--a--b" / "blobs" / "sha256-2.part",
        "quarantine": store.root / "quarantine" / "bad",
    }
    for kind, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind in {"snapshot", "model"}:
            path.mkdir()
            path = path / "file"  # noqa: PLW2901
        path.write_bytes(b"x" * 100)
        age(places[kind])
    return places


def test_what_nothing_refers_to_goes_and_the_rest_stays(registry: Registry) -> None:
    """Blobs, snapshots, downloads and models of nobody go; the quarantine only if asked."""
    places = litter(registry)

    done = registry.gc()

    assert {
        "blob": True,
        "snapshot": True,
        "model": True,
        "download": True,
        "quarantine": False,
    } == {item.kind: item.removed for item in done.items}
    assert ["quarantine"] == [kind for kind, path in places.items() if path.exists()]
    assert (400, 2) == (done.freed, done.used)
    assert ((), ()) == (registry.verify().faults, registry.verify().unknown)
    assert [True] == [item.removed for item in registry.gc(quarantine=True).items]
    assert not places["quarantine"].exists()


def test_a_dry_run_says_what_would_go_and_changes_nothing(registry: Registry) -> None:
    """It tells what the sweep itself then does, item by item."""
    litter(registry)
    before = everything(registry.settings.home)

    dry = registry.gc(dry_run=True)

    assert before == everything(registry.settings.home)
    assert dry.items == registry.gc().items
    assert "nothing refers to it" == told(dry)["0" * 64][2]
    assert told(dry)["bad"][2].endswith("unless --quarantine is given")


def test_what_is_young_is_left_alone(registry: Registry) -> None:
    """Within the grace nothing goes; an hour is enough for what is two hours old."""
    blob = registry._context.store.blob("0" * 64)
    blob.write_bytes(b"?")

    assert ("blob", False, "it is younger than the grace") == told(registry.gc())[blob.name]
    os.utime(blob, (time.time() - 7200,) * 2)
    assert not told(registry.gc())[blob.name][1]
    assert told(registry.gc(3600.0))[blob.name][1]
    assert not blob.exists()


def test_what_adreg_did_not_put_there_stays(registry: Registry, tmp_path: Path) -> None:
    """A file of another name, a link among the models, and a model that is a base."""
    settings, store = registry.settings, registry._context.store
    store.blob("notes.txt").write_text("mine")
    base = factory.make_base(settings.models / "llama")
    registry.add_base(str(base), name="llama")
    (settings.models / "link").symlink_to(tmp_path / "one")
    age(store.blob("notes.txt"), base)

    found = told(registry.gc(0.0))

    assert ("blob", False, "adreg gives no such name") == found["notes.txt"]
    assert ("model", False, "it is no folder of a model's") == found["link"]
    assert "llama" not in found
    assert base.exists()


def test_the_files_of_another_catalog_stay(registry: Registry, tmp_path: Path) -> None:
    """Under a catalog in which nothing was ever done, as of a mistyped URL, nothing is loose."""
    litter(registry)
    home = registry.settings.home
    url = f"sqlite:///{tmp_path / 'mistyped.sqlite'}"

    other = Registry(settings=Settings.at(home, url)).gc(grace=0)

    kept = [item for item in other.items if item.kind in {"blob", "snapshot", "model"}]
    assert 6 == len(kept)
    assert {(False, True)} == {(one.removed, "the catalog is empty" in one.reason) for one in kept}
    assert () == registry.verify().faults


@pytest.mark.parametrize("inside", ["0123456789abcdef", "team/bot"])
def test_the_models_of_a_home_that_was_moved_stay(registry: Registry, inside: str) -> None:
    """The catalog says where they lay before; what lies under that name now is not swept."""
    model = registry.settings.models / inside
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"x")
    with registry._context.catalog.write() as connection:
        file = FileDigest("model.safetensors", of_bytes(b"x"), 1)
        content = Content(of_files([file]), 1, 1, "F32", (file,))
        facts = ModelFacts("linear", model, {}, "1" * 64, "adreg")
        models.add(connection, "bot", content, facts, [], base_id=None, at=now())
        connection.commit()
    moved = registry.settings.home.with_name("moved")
    registry.settings.home.rename(moved)

    swept = Registry(moved).gc(grace=0)

    (item,) = [item for item in swept.items if item.kind == "model"]
    assert (False, True) == (item.removed, "was the home moved" in item.reason)
    assert (moved / "models" / inside / "model.safetensors").exists()


def test_the_models_of_a_registry_that_was_replaced_stay(
    registry: Registry, tmp_path: Path
) -> None:
    """What a restore has put aside is a home still, whose models lie where they lay."""
    saved = registry.backup(tmp_path / "saved.tar").path
    model = litter(registry)["model"]
    aside = registry.restore(saved, replace=True).aside

    assert aside is not None
    reason = f"the registry that is kept in {aside.name} may know it"
    assert ("model", False, reason) == told(registry.gc())[model.name]
    assert model.exists()


def test_an_empty_home_is_not_made_a_registry(home: Path) -> None:
    """There is nothing to sweep, and no catalog is made for that."""
    assert () == Registry().gc().items
    assert [] == list(home.iterdir())


@pytest.mark.parametrize("moment", ["working", "settled"])
def test_a_killed_add_is_swept_at_once(home: Path, tmp_path: Path, moment: str) -> None:
    """Whatever it had staged or moved into the store goes, without any grace."""
    big = make_files(tmp_path / "big", 2, BIG)
    with Worker(f"registry.add(Path({str(big)!r}))", moment, "SIGKILL", 1_000_000) as worker:
        assert -signal.SIGKILL == worker.process.returncode

    registry = Registry()
    done = registry.gc()

    assert ["staging"] == [item.kind for item in done.items if item.reason.endswith("is gone")]
    assert (0, ()) == (registry.list().total, registry.verify().unknown)
    assert [] == [path for path in (home / "store").rglob("*") if path.is_file()]


def test_a_running_add_keeps_what_it_staged(registry: Registry, tmp_path: Path) -> None:
    """An add that is stopped in the middle goes on after a sweep without any grace."""
    big = make_files(tmp_path / "big", 2, BIG)
    with Worker(f"registry.add(Path({str(big)!r}), name='big')", after=1_000_000) as worker:
        assert worker.is_stopped
        (item,) = registry.gc(0.0).items
        worker.go_on()

    assert ("staging", False, "a running command has it") == (item.kind, item.removed, item.reason)
    assert item.bytes > 1_000_000
    assert (2, ()) == (registry.list().total, registry.verify().faults)


def test_a_sweep_waits_for_an_add_that_is_being_recorded(
    registry: Registry, tmp_path: Path
) -> None:
    """What moved into the store before the commit looks like nobody's, and is not removed."""
    big = make_files(tmp_path / "big", 2, BIG)
    sweep = [sys.executable, "-I", "-m", "adreg.cli", "-q", "gc", "--grace", "0s", "--json"]
    with Worker(f"registry.add(Path({str(big)!r}), name='big')", "settled") as worker:
        assert worker.is_stopped
        looked = registry.gc(0.0, dry_run=True)
        gc = subprocess.Popen(sweep, stdout=subprocess.PIPE, text=True)
        time.sleep(1.5)
        assert gc.poll() is None
        worker.go_on()
    out, _ = gc.communicate(timeout=60)

    assert {"blob", "snapshot"} <= {item.kind for item in looked.items if item.removed}
    assert (0, True) == (gc.returncode, "it came into use" in out)
    assert (2, ()) == (registry.list().total, registry.verify().faults)


def test_a_running_merge_keeps_its_half(registry: Registry, tmp_path: Path) -> None:
    """Neither what it writes nor its adapters go, and the model is whole in the end."""
    base = factory.make_base(tmp_path / "llama")
    registry.add_base(str(base), name="llama")
    registry.add(factory.make_adapter(base, tmp_path / "two"), name="two", base="llama")
    work = (
        "from adreg.registry.merge.recipe import Recipe, RecipeAdapter\n"
        "registry.merge(Recipe((RecipeAdapter('two'),), base='llama'), name='model')"
    )
    with Worker(work) as worker:
        assert worker.is_stopped
        found = registry.gc(0.0).items
        worker.go_on()

    assert [("staging", False)] == [(item.kind, item.removed) for item in found]
    assert found[0].path.parent == registry.settings.models
    assert () == registry.verify("model").faults
    merged = registry.merge(Recipe((RecipeAdapter("two"),), base="llama"), name="model")
    assert not merged.new


def test_a_running_pull_keeps_its_downloads(registry: Registry, hub: Hub, tmp_path: Path) -> None:
    """A repository that a pull has is left alone, and swept once it is let go."""
    hub.add_user("alice", "hf_alice")
    big = make_files(tmp_path / "big", 2, BIG)
    files: dict[str, bytes | Path] = {one.name: one for one in big.iterdir()}
    hub.create_repo("alice/big")
    hub.commit("alice/big", files)
    env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_alice", "HF_HUB_OFFLINE": "0"}
    with Worker("registry.pull(['alice/big'])", after=1_000_000, env=env) as worker:
        assert worker.is_stopped
        items = registry.gc(0.0).items
        worker.go_on()

    parts = [item for item in items if item.path.suffix == ".part"]
    assert {"a running pull has it"} == {item.reason for item in items}
    assert [True] == [item.bytes > 0 for item in parts]
    assert (2, ()) == (registry.list().total, registry.verify().faults)


def test_a_removal_under_a_lease_is_left_to_the_next_sweep(registry: Registry) -> None:
    """While a command reads the store no file leaves it; then the sweep takes it away."""
    store = registry._context.store
    with store.lease():
        removed = registry.remove("one")
        held = registry.gc(0.0)
    after = registry.gc(0.0)

    assert (0, 0) == (removed.blobs, removed.bytes)
    assert {("blob", False), ("snapshot", False), ("lease", False)} == {
        (item.kind, item.removed) for item in held.items
    }
    assert {"a running command reads the store", "a running command has it"} == {
        item.reason for item in held.items
    }
    assert {("blob", True), ("snapshot", True)} == {(i.kind, i.removed) for i in after.items}
    assert (frozenset(), frozenset()) == store.stored()


def test_the_lease_of_a_killed_command_binds_nobody(registry: Registry) -> None:
    """The system lets go of it, and the sweep removes its file."""
    work = "with registry._context.store.lease():\n    registry._progress.advance(1)"
    with Worker(work, how="SIGKILL"):
        pass

    assert 1 == registry.remove("one").versions[0].number
    assert [("lease", True)] == [(item.kind, item.removed) for item in registry.gc().items]
    assert (frozenset(), frozenset()) == registry._context.store.stored()


def test_an_item_is_plain(registry: Registry) -> None:
    """The catalog is told nothing of a sweep: it changes nothing that it knows."""
    with Catalog(registry.settings).read() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM history").scalar()
    registry._context.store.blob("0" * 64).write_bytes(b"?")
    (item,) = registry.gc(0.0).items
    with Catalog(registry.settings).read() as connection:
        after = connection.exec_driver_sql("SELECT count(*) FROM history").scalar()

    assert item == Item("blob", item.path, 1, removed=True, reason="nothing refers to it")
    assert before == after
