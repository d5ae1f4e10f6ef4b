"""Repairing gets the very bytes from wherever they still are, and throws nothing away."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hubserver import Hub
from huggingface_hub import constants
from running import Adreg, Ran
from stopping import Worker, everything, make_files

from adreg.cli.main import main
from adreg.registry import Registry
from adreg.registry.catalog import models
from adreg.registry.catalog.records import Content, ModelFacts
from adreg.registry.digest import FileDigest, of_bytes, of_files
from adreg.registry.hub.client import Backoff
from adreg.registry.ops.history import now
from adreg.registry.ops.repair import Mended

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The folder of an adapter."""
    return make_files(tmp_path / "one", 1)


@pytest.fixture
def registry(home: Path, source: Path) -> Registry:
    """A registry that took it in."""
    del home
    registry = Registry()
    registry.add(source, name="one")
    return registry


def blob(registry: Registry, name: str = WEIGHTS, of: str = "one") -> Path:
    """Return where a version's file is stored."""
    return (registry.verify(of).versions[0].folder / name).resolve()


def spoil(path: Path) -> bytes:
    """Flip a bit in the middle of a stored file; return what it holds now."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)
    return bytes(data)


def quarantined(registry: Registry) -> list[bytes]:
    """Return what is in quarantine."""
    folder = registry._context.store.root / "quarantine"
    return [path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()]


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_the_folder_it_was_added_from_still_has_it(
    registry: Registry, source: Path, how: str
) -> None:
    """The bytes are there again, read-only, and the damaged ones are in quarantine."""
    path, whole = blob(registry), (source / WEIGHTS).read_bytes()
    bad = [spoil(path)]
    if how == "cut":
        path.write_bytes(bad[0][:-7])
        bad = [bad[0][:-7]]
    elif how == "gone":
        path.unlink()
        bad = []

    done = registry.repair("one")

    kinds = {"flipped": "damaged", "cut": "truncated", "gone": "missing"}
    where = str(source / WEIGHTS)
    assert (Mended("one@1", WEIGHTS, kinds[how], repaired=True, source=where),) == done.mended  # type: ignore[arg-type]
    assert () == done.verified.faults
    assert (whole, 0o444) == (path.read_bytes(), path.stat().st_mode & 0o777)
    assert bad == quarantined(registry)
    assert "repair" == registry.history("one").entries[0].action
    assert ((), ()) == (registry.verify().faults, registry.verify().unknown)


def test_a_source_that_changed_is_not_taken(registry: Registry, source: Path) -> None:
    """Other bytes of the same size are told from the right ones, and all stays as it was."""
    bad = spoil(blob(registry))
    spoil(source / WEIGHTS)
    before = everything(registry.settings.home)

    (told,) = registry.repair("one").mended

    assert (False, f"{source / WEIGHTS} is another file by now") == (told.repaired, told.reason)
    assert bad == blob(registry).read_bytes()
    assert before == everything(registry.settings.home)


def test_a_source_that_is_gone_is_told(registry: Registry, source: Path) -> None:
    """The fault stays, with the reason."""
    spoil(blob(registry))
    shutil.rmtree(source)

    done = registry.repair()

    assert ((False, f"{source} is gone"),) == tuple((m.repaired, m.reason) for m in done.mended)
    assert ("one@1",) == tuple(fault.partition(":")[0] for fault in done.verified.faults)


@pytest.mark.parametrize("way", ["home", "home/store", "plain"])
def test_another_folder_has_it(registry: Registry, source: Path, tmp_path: Path, way: str) -> None:
    """Another registry's home, its store, or any folder with the file under its name."""
    other = Registry(tmp_path / "home")
    other.add(source, name="else")
    shutil.copytree(source, tmp_path / "plain")
    spoil(blob(registry))
    spoil(blob(registry, CONFIG))
    shutil.rmtree(source)

    done = registry.repair("one", [tmp_path / "nothing", tmp_path / way])

    assert [True, True] == [one.repaired for one in done.mended]
    assert all(str(one.source).startswith(str(tmp_path / way)) for one in done.mended)
    assert () == registry.verify().faults
    assert 2 == len(quarantined(registry))


def test_a_file_of_several_versions_is_got_once(registry: Registry, tmp_path: Path) -> None:
    """Each version says that it is whole again, and one bad file is in quarantine."""
    registry.add(make_files(tmp_path / "two", 2), name="two")
    spoil(blob(registry, CONFIG))

    done = registry.repair()

    assert {("one@1", True), ("two@1", True)} == {(m.reference, m.repaired) for m in done.mended}
    assert 1 == len({one.source for one in done.mended})
    assert (1, ()) == (len(quarantined(registry)), registry.verify().faults)


def test_names_are_mended_from_the_store_itself(registry: Registry) -> None:
    """A link that is gone, one that leads elsewhere, and a file too many."""
    folder = registry.verify("one").versions[0].folder
    (folder / CONFIG).unlink()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(b"a file in the place of a link")
    (folder / "more.txt").write_bytes(b"a file too many")

    done = registry.repair("one")

    assert {CONFIG, WEIGHTS, "more.txt"} == {one.name for one in done.mended if one.repaired}
    assert () == registry.verify().faults
    assert [b"a file in the place of a link", b"a file too many"] == sorted(quarantined(registry))


def test_a_file_and_its_name_are_mended_in_one_go(registry: Registry) -> None:
    """A damaged file whose link is gone too needs no second repair."""
    link = registry.verify().versions[0].folder / WEIGHTS
    spoil(blob(registry))
    link.unlink()

    done = registry.repair()

    assert () == done.verified.faults
    assert [True] == [one.repaired for one in done.mended]


def test_what_is_whole_is_left_alone(registry: Registry) -> None:
    """Repairing a registry without damage writes nothing."""
    before = everything(registry.settings.home)

    assert () == registry.repair().mended
    assert before == everything(registry.settings.home)


def test_a_model_is_not_repaired_but_built_again(registry: Registry, tmp_path: Path) -> None:
    """Its faults stay, with the way to build it."""
    file = FileDigest("model.safetensors", of_bytes(b"w"), 1)
    content = Content(of_files([file]), 1, 1, "BF16", (file,))
    facts = ModelFacts("linear", tmp_path / "gone", {}, "1" * 64, "adreg")
    with registry._context.catalog.write() as connection:
        models.add(connection, "merged", content, facts, [], base_id=None, at=now())
        connection.commit()

    (told,) = registry.repair("merged").mended

    assert not told.repaired
    assert "a model is built again, by `adreg merge` or from its lock file" in told.reason


@pytest.fixture
def online(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Let adreg in this process speak to the test's Hub, as ``alice``, without long waits."""
    del home
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Backoff, "wait", lambda self, failures: 0.01 * failures)  # noqa: ARG005
    hub.add_user("alice", "hf_alice")
    return hub


@pytest.mark.parametrize("inside", ["", "de/"])
def test_the_commit_on_the_hub_still_has_it(online: Hub, source: Path, inside: str) -> None:
    """A file by its digest, one of git and one of LFS, even if the branch went on."""
    files: dict[str, bytes | Path] = {inside + one.name: one for one in source.iterdir()}
    online.create_repo("alice/lora")
    online.commit("alice/lora", files)
    registry = Registry()
    registry.pull(["alice/lora"], name="one")
    online.commit("alice/lora", {inside + WEIGHTS: b"other weights", inside + CONFIG: b"{}"})
    whole = {name: (source / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    for name in whole:
        spoil(blob(registry, name))

    done = registry.repair("one")

    assert [True, True] == [one.repaired for one in done.mended]
    assert all(str(one.source).startswith("hf://alice/lora@") for one in done.mended)
    assert whole == {name: blob(registry, name).read_bytes() for name in whole}
    assert () == registry.verify().faults
    assert [] == list(registry.settings.downloads.glob("*/blobs/*"))


def test_offline_says_so(
    online: Hub, source: Path, monkeypatch: pytest.MonkeyPatch, adreg: Callable[..., Any]
) -> None:
    """Nothing is repaired without the Hub, the exit code is 1, and the next try succeeds."""
    online.create_repo("alice/lora")
    online.commit("alice/lora", {one.name: one for one in source.iterdir()})
    Registry().pull(["alice/lora"], name="one")
    spoil(blob(Registry()))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ran = adreg("-q", "verify", "one", "--repair")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    again = adreg("-q", "verify", "one", "--repair")

    assert 1 == ran.code
    assert f"one@1: {WEIGHTS} is not repairable: " in ran.out
    assert "HF_HUB_OFFLINE" in ran.out or "offline" in ran.out
    assert (0, True) == (again.code, f"one@1: {WEIGHTS} is repaired from hf://" in again.out)


@pytest.fixture
def adreg(home: Path, capfd: pytest.CaptureFixture[str]) -> Adreg:
    """Run adreg in this process."""
    del home

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(list(arguments))
        out, err = capfd.readouterr()
        return Ran(int(exited.value.code or 0), out, err)

    return run


def test_the_command_tells_what_became_of_each(
    registry: Registry, source: Path, tmp_path: Path, adreg: Adreg
) -> None:
    """Repaired or not repairable, with exit 1 as long as something is damaged."""
    shutil.copytree(source, tmp_path / "copy")
    spoil(blob(registry))
    (source / WEIGHTS).unlink()
    left = adreg("-q", "verify", "--all", "--repair")
    mended = adreg("-q", "verify", "--all", "--repair", "--from", str(tmp_path / "copy"), "--json")

    gone = f"one@1: {WEIGHTS} is not repairable: {source / WEIGHTS} is gone\n"
    assert (1, gone) == (left.code, left.out[: len(gone)])
    assert (0, True) == (mended.code, '"repaired": true' in mended.out)
    assert 2 == adreg("verify", "--all", "--from", str(tmp_path)).code


def test_a_repair_that_is_killed_leaves_what_was_there_or_what_is_right(
    registry: Registry, source: Path
) -> None:
    """Killed after the bad file went to quarantine, before the right one came: nothing is lost."""
    bad = spoil(blob(registry))
    work = (
        "import adreg.registry.store.mending as mending\n"
        "mending.fsync_folder = lambda folder: folder.name == 'quarantine' and stop()\n"
        "registry.repair('one')"
    )
    with Worker(work, "never", "SIGKILL") as worker:
        assert -signal.SIGKILL == worker.process.returncode
    assert bad == blob(registry).read_bytes()

    done = registry.repair("one")
    assert [True] == [one.repaired for one in done.mended]
    assert (source / WEIGHTS).read_bytes() == blob(registry).read_bytes()
    assert [bad, bad] == quarantined(registry)
    assert ((), ()) == (registry.verify().faults, registry.verify().unknown)
