"""A backup is the registry at one moment; restoring it gives that registry, or changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stopping import Worker, everything, make_files

from adreg.registry import Registry
from adreg.registry.errors import AdregError, CatalogError, Damaged, InputRefused, OutputRefused
from adreg.registry.settings import Settings

BLOCK = 512


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """A registry with two adapters, the first with an alias, a tag and a removed neighbour."""
    del home
    registry = Registry()
    for seed, name in ((1, "team/one"), (2, "two"), (3, "gone")):
        registry.add(make_files(tmp_path / f"made-{seed}", seed), name=name)
    registry.alias("team/one", "prod")
    registry.tag("two", ["lang=en"])
    registry.remove("gone")
    return registry


@pytest.fixture
def saved(registry: Registry, tmp_path: Path) -> Path:
    """A backup of it."""
    return registry.backup(tmp_path / "saved.tar").path


def rows(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that a catalog holds, asked with sqlite3 alone; of the history no restore."""
    with closing(sqlite3.connect(home / "catalog.sqlite")) as catalog:
        names = [
            name
            for (name,) in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name != "sqlite_sequence"
        ]
        found = {name: sorted(catalog.execute(f"SELECT * FROM {name}"), key=str) for name in names}  # noqa: S608
        assert [("ok",)] == catalog.execute("PRAGMA integrity_check").fetchall()
        assert [] == catalog.execute("PRAGMA foreign_key_check").fetchall()
    found["history"] = [row for row in found["history"] if "restore" not in row]
    return found


def state(home: Path) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, bytes]]:
    """Return what a registry is: its rows and its stored bytes."""
    files = everything(home / "store/models--adreg/blobs")
    return rows(home), {name: data for name, (data, _) in files.items()}


def test_restored_it_is_the_registry_that_was_backed_up(
    registry: Registry, saved: Path, tmp_path: Path
) -> None:
    """Every row and every byte is the same, in a home that did not exist."""
    home = tmp_path / "new" / "home"

    done = Registry(home).restore(saved)

    assert (2, None, ()) == (done.versions, done.aside, done.models)
    assert state(registry.settings.home) == state(home)
    restored = Registry(home)
    assert ((), ()) == (restored.verify().faults, restored.verify().unknown)
    assert "team/one@1" == str(restored.verify("team/one@prod").versions[0].key)
    assert "restore" == restored.history().entries[0].action
    assert [] == [path.name for path in home.iterdir() if path.name.startswith(".")]


def test_a_number_that_was_given_stays_given(
    registry: Registry, saved: Path, tmp_path: Path
) -> None:
    """What is added after a restore takes no id of what had been removed before the backup."""
    with closing(sqlite3.connect(registry.settings.home / "catalog.sqlite")) as catalog:
        (highest,) = catalog.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'version'"
        ).fetchone()
    other = Registry(tmp_path / "new")
    other.restore(saved)
    added = other.add(make_files(tmp_path / "more", 9), name="more")

    assert added.key is not None
    assert (3, 4) == (highest, added.key.id)


def test_tar_itself_can_read_a_backup(registry: Registry, saved: Path) -> None:
    """Its members are the manifest, the catalog and each blob under its digest, and no more."""
    with tarfile.open(saved) as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]

    blobs = {name: data for name, data in members.items() if name.startswith("blobs/")}
    assert ["manifest.json", "catalog.sqlite", *sorted(blobs)] == list(members)
    assert all(name == f"blobs/{hashlib.sha256(data).hexdigest()}" for name, data in blobs.items())
    told = json.loads(members["manifest.json"])
    assert hashlib.sha256(members["catalog.sqlite"]).hexdigest() == told["catalog"]
    assert (len(blobs), sum(map(len, blobs.values()))) == (told["blobs"], told["bytes"])
    assert registry.verify().unknown == ()


def test_a_look_is_all_that_a_backup_takes(registry: Registry, tmp_path: Path) -> None:
    """Nothing in the home is another than before, and beside the file nothing is left."""
    before = everything(registry.settings.home)
    (tmp_path / "out").mkdir()

    done = registry.backup(tmp_path / "out/b.tar")

    assert before == everything(registry.settings.home)
    assert ["b.tar"] == [path.name for path in (tmp_path / "out").iterdir()]
    data = done.path.read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (done.sha256, done.bytes)


def test_what_is_removed_meanwhile_is_in_the_backup(registry: Registry, tmp_path: Path) -> None:
    """A backup that is stopped in its middle keeps the files that it goes on to read."""
    for seed in range(4, 8):
        registry.add(make_files(tmp_path / f"made-{seed}", seed, 20_000), name=f"n{seed}")
    before = state(registry.settings.home)
    target = tmp_path / "b.tar"
    with Worker(f"registry.backup(Path({str(target)!r}))", after=400_000) as worker:
        assert worker.is_stopped
        for name in ("team/one", "two", "n4", "n5", "n6", "n7"):
            registry.remove(name)
        registry.add(make_files(tmp_path / "late", 99), name="late")
        registry.gc(0.0)
        worker.go_on()

    other = Registry(tmp_path / "new")
    assert 6 == other.restore(target).versions
    assert before == state(other.settings.home)
    assert () == other.verify().faults
    registry.gc(0.0)
    assert (("late@1",), ()) == (
        tuple(str(one.key) for one in registry.verify().versions),
        registry.verify().unknown,
    )


def test_a_backup_that_is_killed_leaves_no_file(registry: Registry, tmp_path: Path) -> None:
    """There is no half of it under its name, and the next one clears up."""
    out = tmp_path / "out"
    out.mkdir()
    work = f"registry.backup(Path({str(out / 'b.tar')!r}))"
    with Worker(work, how="SIGKILL", after=1000) as worker:
        assert -signal.SIGKILL == worker.process.returncode

    assert not (out / "b.tar").exists()
    registry.backup(out / "b.tar")
    assert ["b.tar"] == [path.name for path in out.iterdir()]
    assert {"lease"} == {item.kind for item in registry.gc().items if item.removed}


def refused(kind: type[AdregError], ask: Callable[[], object]) -> tuple[str, str]:
    """Return what is said of an error, and what to do."""
    with pytest.raises(kind) as caught:
        ask()
    return caught.value.sentence, caught.value.hint


def test_damage_is_no_part_of_a_backup(registry: Registry, tmp_path: Path) -> None:
    """A stored file that is not what was recorded is named, and no file is made."""
    blob = (registry.verify("two").versions[0].folder / "adapter_model.safetensors").resolve()
    data = blob.read_bytes()
    for bad in (data[:-1] + b"?", data[:-1], data + b"?", None):
        blob.unlink()
        if bad is not None:
            blob.write_bytes(bad)
        said, todo = refused(Damaged, lambda: registry.backup(tmp_path / "b.tar"))
        assert str(blob) in said
        assert "Add the adapter again from its source" in todo
    assert not (tmp_path / "b.tar").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE version SET created_at = 'x'", "a row of it is damaged"),
        ("UPDATE file SET name = 'other' WHERE size < 500 AND version_id = 1", "list of the files"),
    ],
)
def test_a_catalog_that_could_not_be_restored_is_not_backed_up(
    registry: Registry, tmp_path: Path, change: str, reason: str
) -> None:
    """What a restore would refuse is told when the backup is made, and no file is left."""
    with closing(sqlite3.connect(registry.settings.home / "catalog.sqlite")) as catalog:
        catalog.execute(change)
        catalog.commit()
    target = tmp_path / "to" / "saved.tar"

    said, _ = refused(AdregError, lambda: registry.backup(target))

    assert reason in said
    assert [] == everything_in(target.parent)


def test_a_version_of_both_registries_is_there_while_one_replaces_the_other(
    registry: Registry, saved: Path
) -> None:
    """A snapshot that is as it should be is not taken away, not even for a moment."""
    folders = [one.folder for one in registry.verify().versions if one.key.kind == "adapter"]
    before = [folder.stat().st_ino for folder in folders]
    next(folders[0].iterdir()).unlink()

    registry.restore(saved, replace=True)

    after = [folder.stat().st_ino for folder in folders]
    assert [False, *[True] * (len(folders) - 1)] == [
        a == b for a, b in zip(before, after, strict=True)
    ]
    assert () == registry.verify().faults


def test_what_cannot_be_backed_up_is_told(registry: Registry, home: Path, tmp_path: Path) -> None:
    """A name that is taken, a registry that is not there, a catalog on a server."""
    (tmp_path / "b.tar").write_text("mine")
    server = Registry(settings=Settings.at(home, "postgresql://someone:secret@db/adreg"))

    assert (
        f"cannot write to {tmp_path / 'b.tar'}: something is there",
        "Name a file that does not exist yet.",
    ) == refused(OutputRefused, lambda: registry.backup(tmp_path / "b.tar"))
    said, todo = refused(CatalogError, lambda: Registry(tmp_path / "no").backup(tmp_path / "c"))
    assert said.endswith("cannot be used: there is none yet")
    assert "Add something first, or check ADREG_HOME." == todo
    for ask in (server.backup, server.restore):
        said, todo = refused(CatalogError, lambda ask=ask: ask(tmp_path / "c"))  # type: ignore[misc]
        assert "only one in a file can be backed up or restored by adreg" in said
        assert "secret" not in said
        assert (
            "Use the server's own tools, such as pg_dump, and copy the folder of the store." == todo
        )
    assert "mine" == (tmp_path / "b.tar").read_text()
    assert not (tmp_path / "no").exists()


def test_a_registry_is_replaced_only_if_asked_and_is_kept(
    registry: Registry, saved: Path, tmp_path: Path
) -> None:
    """What was there before is a home of its own, whole, even after everything is swept."""
    registry.remove("two")
    registry.add(make_files(tmp_path / "late", 99), name="late")
    before = state(registry.settings.home)

    said, todo = refused(OutputRefused, lambda: registry.restore(saved))
    assert said.endswith("there is a registry already")
    assert "Name another with --home, or pass --replace: what is there is kept aside." == todo
    assert before == state(registry.settings.home)

    done = registry.restore(saved, replace=True)
    registry.gc(0.0)

    assert {"team/one@1", "two@1"} == {str(one.key) for one in registry.verify().versions}
    assert ((), ()) == (registry.verify().faults, registry.verify().unknown)
    assert done.aside is not None
    kept = Registry(done.aside)
    assert before == state(done.aside)
    assert () == kept.verify().faults


def test_a_catalog_that_is_damaged_is_replaced_and_kept(
    registry: Registry, saved: Path, tmp_path: Path
) -> None:
    """The very case for which there are backups."""
    want = state(registry.settings.home)
    catalog = registry.settings.home / "catalog.sqlite"
    for junk in (b"not a database " * 1000, b"short", catalog.read_bytes()[:70_000]):
        catalog.write_bytes(junk)
        refused(OutputRefused, lambda: registry.restore(saved))
        done = registry.restore(saved, replace=True)
        assert done.aside is not None
        assert junk == (done.aside / "catalog.sqlite").read_bytes()
        assert want == state(registry.settings.home)
        done.aside.rename(tmp_path / f"aside-{len(junk)}")


@pytest.mark.parametrize("replace", [False, True])
def test_any_byte_that_is_wrong_stops_a_restore(
    registry: Registry, saved: Path, tmp_path: Path, replace: bool
) -> None:
    """Flipped in headers, manifest, catalog, blobs, padding or end: the home is as it was."""
    data = saved.read_bytes()
    home = registry.settings.home if replace else tmp_path / "new"
    target = Registry(home)
    before = everything(home)
    step = max(1, len(data) // 60)
    spots = {*range(0, len(data), step), 0, 156, 257, 345, BLOCK, 2 * BLOCK - 1, len(data) - 1}
    bad = tmp_path / "bad.tar"
    for spot in sorted(spots):
        flipped = bytearray(data)
        flipped[spot] ^= 1
        bad.write_bytes(flipped)
        said, todo = refused(InputRefused, lambda: target.restore(bad, replace=replace))
        assert said.startswith(f"{bad}: it is no whole backup of adreg's: "), spot
        assert "nothing was restored" in todo or "newer adreg" in todo
    for cut in (0, 1, BLOCK, 3 * BLOCK, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:cut])
        refused(InputRefused, lambda: target.restore(bad, replace=replace))
    bad.write_bytes(data + b"\0")
    refused(InputRefused, lambda: target.restore(bad, replace=replace))
    assert before == everything(home)


def test_a_restore_that_is_killed_restores_nothing(
    registry: Registry, saved: Path, tmp_path: Path
) -> None:
    """Killed while it checks: the registry that was there is there, and the next try is whole."""
    del registry
    home = tmp_path / "new"
    Registry(home).add(make_files(tmp_path / "late", 99), name="late")
    before = state(home)
    work = f"registry.restore(Path({str(saved)!r}), replace=True)"
    with Worker(work, how="SIGKILL", after=1000, env={"ADREG_HOME": str(home)}) as worker:
        assert -signal.SIGKILL == worker.process.returncode

    assert before == state(home)
    other = Registry(home)
    assert 2 == other.restore(saved, replace=True).versions
    other.gc(0.0)
    assert ((), ()) == (other.verify().faults, other.verify().unknown)
    assert [] == [path.name for path in home.iterdir() if path.name.startswith(".")]


def test_a_restore_that_is_killed_before_its_commit_restores_nothing(
    registry: Registry, saved: Path, tmp_path: Path
) -> None:
    """Its files are in the store by then, and the sweep takes them; what it kept aside too."""
    del registry
    home = tmp_path / "new"
    Registry(home).add(make_files(tmp_path / "late", 99), name="late")
    before = rows(home)
    work = (
        "import adreg.registry.ops.restore as restore\n"
        "restore.replace_all = lambda *_: stop()\n"
        f"registry.restore(Path({str(saved)!r}), replace=True)"
    )
    with Worker(work, "never", "SIGKILL", env={"ADREG_HOME": str(home)}) as worker:
        assert -signal.SIGKILL == worker.process.returncode

    other = Registry(home)
    assert before == rows(home)
    assert () == other.verify().faults
    other.gc(0.0)
    assert ((), ()) == (other.verify().faults, other.verify().unknown)
    assert {"catalog.sqlite", "store"} == {
        path.name for path in home.iterdir() if not path.name.endswith(".lock")
    }


def everything_in(folder: Path) -> list[str]:
    """Return the names below a folder."""
    return [path.name for path in folder.rglob("*")] if folder.exists() else []


def test_a_disk_that_is_full_restores_nothing(
    registry: Registry, tmp_path: Path, small_disk: Path
) -> None:
    """There must be room for all of it before anything is written."""
    registry.add(make_files(tmp_path / "big", 50, 100_000), name="big")
    saved = registry.backup(tmp_path / "big.tar").path

    said, _ = refused(AdregError, lambda: Registry(small_disk / "home").restore(saved))

    assert "there is not enough room" in said
    assert [] == everything_in(small_disk / "home")
    shutil.rmtree(small_disk / "home", ignore_errors=True)
