"""Adding an adapter records all of it, once."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import factory
import pytest
import torch

from adreg.registry import Registry
from adreg.registry.catalog.records import AdapterVersion
from adreg.registry.ops.add import default_name

WEIGHTS = "adapter_model.safetensors"


def files_of(registry: Registry) -> list[str]:
    """Return the names of everything in the store but its empty folders."""
    return sorted(str(path) for path in registry.settings.store.rglob("*") if not path.is_dir())


def test_an_adapter_is_recorded_with_all_that_it_is(
    registry: Registry, adapter: Path, base: Path
) -> None:
    """What the files say and what the user says stands in the catalog, the bytes in the store."""
    added = registry.add(
        adapter,
        name="team/support",
        base=str(base),
        tags=["lang=de", "reviewed"],
        aliases=["prod"],
        note="the first one",
        licence="mit",
    )
    shown = registry.show("team/support@prod").version

    assert isinstance(shown, AdapterVersion)
    assert shown.base is not None
    assert added.verdict is not None
    assert ("team/support@1", True) == (added.reference, added.new)
    assert "same-shapes" == added.verdict.grade.value
    assert (4, "LORA", "F32", "mit") == (
        shown.facts.rank,
        shown.facts.peft_type,
        shown.content.dtype,
        shown.content.licence,
    )
    assert ("down_proj", "q_proj", "v_proj") == shown.facts.targets
    assert ["lang=de", "reviewed"] == [str(tag) for tag in shown.marks.tags]
    assert ["the first one"] == [note.text for note in shown.marks.notes]
    assert [str(adapter)] == [source.location for source in shown.sources]
    assert "llama" == shown.base.name
    assert (adapter / "adapter_config.json").read_text() == shown.facts.config
    assert ["add", "base add"] == sorted(one.action for one in registry.history().entries)
    stored = registry._context.store.folder(added.digest)
    for file in shown.content.files:
        assert (adapter / file.name).read_bytes() == (stored / file.name).read_bytes()


def test_peft_loads_a_version_from_the_store(registry: Registry, adapter: Path, base: Path) -> None:
    """A snapshot is a folder as PEFT reads it."""
    folder = registry._context.store.folder(registry.add(adapter).digest)

    loaded = factory.load_adapter(base, folder).state_dict()
    expected = factory.load_adapter(base, adapter).state_dict()

    assert all(torch.equal(expected[name], tensor) for name, tensor in loaded.items())


def test_the_same_bytes_make_no_second_version(
    registry: Registry, adapter: Path, tmp_path: Path
) -> None:
    """Added from elsewhere under another name it is still the first, with one more source."""
    registry.add(adapter)
    stored = files_of(registry)
    other = shutil.copytree(adapter, tmp_path / "elsewhere")

    again = registry.add(other, name="other", tags=["x"], note="again")
    once_more = registry.add(other, note="again")
    shown = registry.show("support").version

    assert ("support@1", False) == (again.reference, again.new)
    assert [str(adapter), str(other)] == [source.location for source in shown.sources]
    assert ["again"] == [note.text for note in shown.marks.notes]
    assert (["x"], 1) == ([str(tag) for tag in shown.marks.tags], registry.list().total)
    assert (stored, False) == (files_of(registry), once_more.new)


def test_a_changed_adapter_is_the_next_version(registry: Registry, adapter: Path) -> None:
    """A folder with other bytes under a known name becomes version 2, and 1 stays."""
    registry.add(adapter)
    factory.edit_tensors(adapter, lambda tensors: next(iter(tensors.values())).add_(1))

    assert "support@2" == registry.add(adapter).reference
    assert () == registry.verify().faults


def test_adding_again_mends_a_damaged_store(registry: Registry, adapter: Path) -> None:
    """The advice of a damage report works: the stored bytes are whole again."""
    added = registry.add(adapter)
    blob = (registry._context.store.folder(added.digest) / WEIGHTS).resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"?" * blob.stat().st_size)
    assert registry.verify().faults

    again = registry.add(adapter)

    assert (False, True) == (again.new, again.repaired)
    assert () == registry.verify().faults
    assert "repair" in {one.action for one in registry.history().entries}


def test_a_dry_run_checks_and_writes_nothing(registry: Registry, adapter: Path) -> None:
    """Not even the registry's folder is touched."""
    before = sorted(registry.settings.home.rglob("*"))

    added = registry.add(adapter, dry_run=True)

    assert (None, "support", True) == (added.key, added.name, added.new)
    assert before == sorted(registry.settings.home.rglob("*"))


def test_the_base_that_an_adapter_names_is_found_in_the_catalog(
    registry: Registry, adapter: Path, base: Path
) -> None:
    """Without --base the recorded base of that other name is taken, and it is exact."""
    registry.add_base(str(base), name="tiny", aliases=["someone/Tiny"])
    factory.edit_config(adapter, base_model_name_or_path="someone/tiny")

    added = registry.add(adapter)

    assert added.verdict is not None
    assert ("tiny", "exact") == (added.base, added.verdict.grade.value)
    assert "tiny" == registry.list().rows[0].base


def test_a_base_that_is_not_at_hand_is_no_fault(registry: Registry, adapter: Path) -> None:
    """An adapter whose base is nowhere to be found is taken in without a verdict."""
    factory.edit_config(adapter, base_model_name_or_path="no-one/nothing")

    assert registry.add(adapter).verdict is None


def test_two_at_once_make_one_version(home: Path, adapter: Path, tmp_path: Path) -> None:
    """Whoever is second finds the other's version, and nobody fails."""
    del home
    copies = [shutil.copytree(adapter, tmp_path / f"copy-{number}") for number in range(4)]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda folder: Registry().add(folder, name="one"), copies))

    assert {"one@1"} == {one.reference for one in done}
    assert 1 == sum(one.new for one in done)
    assert () == Registry().verify().faults + Registry().verify().unknown


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/My run (3)", "My-run-3"),
        ("runs/support/checkpoint-500", "support-checkpoint-500"),
        ("models--some--lora/snapshots/" + "a" * 40, "some/lora"),
    ],
)
def test_a_folder_has_a_name_by_default(tmp_path: Path, path: str, name: str) -> None:
    """A folder's name is made valid; a checkpoint has its run's, a snapshot its repository's."""
    folder = tmp_path / path
    folder.mkdir(parents=True)

    assert name == default_name(folder)


def test_the_hub_cache_is_a_source_of_its_own(
    registry: Registry, adapter: Path, tmp_path: Path
) -> None:
    """A snapshot of the cache, whose files are links, comes from its repository at its commit."""
    repo = tmp_path / "models--some--lora"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, file in enumerate(sorted(adapter.iterdir())):
        file.rename(repo / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")

    added = registry.add(snapshot)
    (source,) = registry.show("some/lora").version.sources

    assert "some/lora@1" == added.reference
    assert ("hub", "some/lora", "a" * 40) == (source.kind, source.location, source.revision)
    assert () == registry.verify().faults
