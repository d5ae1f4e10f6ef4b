"""Adding an adapter records all of it, once, or nothing at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from adreg.registry import Registry
from adreg.registry.catalog import models
from adreg.registry.catalog.records import AdapterVersion, Content, ModelFacts
from adreg.registry.errors import (
    AdapterRefused,
    AdregError,
    AlreadyExists,
    BaseRefused,
    DiskFull,
    Incompatible,
    JsonBroken,
    NameRefused,
    NotAnAdapter,
    NotFound,
    PickleRefused,
    TensorFileBroken,
)
from adreg.registry.ops.add import default_name
from adreg.registry.ops.history import now

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return factory.make_base(tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture(scope="module")
def original(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of it, as PEFT saved it."""
    return factory.make_adapter(base, tmp_path_factory.mktemp("adapters") / "support")


@pytest.fixture
def adapter(original: Path, tmp_path: Path) -> Path:
    """A copy of the LoRA, to be changed or broken; it names no base."""
    folder = shutil.copytree(original, tmp_path / "support")
    factory.edit_config(folder, "base_model_name_or_path")
    return folder


@pytest.fixture
def registry(home: Path) -> Registry:
    """An empty registry."""
    del home
    return Registry()


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


def _not_there(folder: Path) -> None:
    shutil.rmtree(folder)


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _no_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA",')


def _config_of_another_type(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


def _wrong_type(folder: Path) -> None:
    factory.edit_config(folder, r="8")


def _unknown_kind(folder: Path) -> None:
    factory.edit_config(folder, peft_type="NO_SUCH_KIND")


def _cut_short(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 100)


def _header_cut_short(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 20)


def _header_that_lies(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes((1 << 40).to_bytes(8, "little") + data[8:])


def _half_a_pair(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, folder / WEIGHTS)


def _rank_that_lies(folder: Path) -> None:
    factory.edit_config(folder, r=16)


def _not_finite(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values())).flat[3] = np.nan
    save_file(tensors, folder / WEIGHTS)


def _pickle(folder: Path) -> None:
    torch.save({"x": torch.zeros(1)}, folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def _link_out(folder: Path) -> None:
    outside = folder.parent / "outside"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_not_there, NotAnAdapter),
        (_a_file, NotAnAdapter),
        (_empty, NotAnAdapter),
        (_no_config, NotAnAdapter),
        (_broken_config, JsonBroken),
        (_config_of_another_type, JsonBroken),
        (_wrong_type, AdapterRefused),
        (_unknown_kind, AdapterRefused),
        (_cut_short, TensorFileBroken),
        (_header_cut_short, TensorFileBroken),
        (_header_that_lies, TensorFileBroken),
        (_half_a_pair, AdapterRefused),
        (_rank_that_lies, AdapterRefused),
        (_not_finite, AdapterRefused),
        (_pickle, PickleRefused),
        (_link_out, AdapterRefused),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    registry: Registry,
    adapter: Path,
    spoil: Callable[[Path], None],
    error: type[AdregError],
) -> None:
    """Each broken folder is refused by its own error; catalog and store do not even begin."""
    spoil(adapter)

    with pytest.raises(error) as caught:
        registry.add(adapter)

    assert error is type(caught.value)
    assert "\n" not in f"{caught.value.sentence}{caught.value.hint}"
    assert (0, []) == (registry.list().total, files_of(registry))


@pytest.mark.parametrize(
    "name", ["../evil", "a/b/c", "/abs", "a\nb", "a\x1b[31m", "", "..", "a/..", "-x", "ä", "a" * 97]
)
def test_a_name_with_path_parts_or_control_characters_is_refused(
    registry: Registry, adapter: Path, name: str
) -> None:
    """A name never becomes part of a path, nor of a terminal's output."""
    with pytest.raises(NameRefused):
        registry.add(adapter, name=name)

    assert (0, []) == (registry.list().total, files_of(registry))


@pytest.mark.parametrize("wish", [{"aliases": ["7"]}, {"tags": ["a b"]}, {"aliases": ["latest"]}])
def test_an_alias_or_tag_that_is_not_allowed_is_refused_first(
    registry: Registry, adapter: Path, wish: dict[str, list[str]]
) -> None:
    """It is found before anything is read or written."""
    with pytest.raises(NameRefused):
        registry.add(adapter, **wish)  # type: ignore[arg-type]  # the parametrized wishes

    assert (0, []) == (registry.list().total, files_of(registry))


def test_targets_that_the_base_lacks_are_refused(
    registry: Registry, adapter: Path, tmp_path: Path
) -> None:
    """The wrong base is named with the first offending tensors, and is not recorded either."""
    gpt2 = factory.make_base(tmp_path / "gpt2", "gpt2")

    with pytest.raises(Incompatible, match=r"does not fit .*: the base has no tensor"):
        registry.add(adapter, base=str(gpt2))

    assert (0, (), []) == (registry.list().total, registry.bases(), files_of(registry))


def test_the_base_that_the_adapter_names_itself_must_fit_too(
    registry: Registry, adapter: Path, tmp_path: Path
) -> None:
    """A base found by the adapter's own words counts as one that was passed."""
    gpt2 = factory.make_base(tmp_path / "gpt2", "gpt2")
    factory.edit_config(adapter, base_model_name_or_path=str(gpt2))

    with pytest.raises(Incompatible):
        registry.add(adapter)

    assert (0, []) == (registry.list().total, files_of(registry))


def test_a_base_that_is_not_one_is_refused(
    registry: Registry, adapter: Path, tmp_path: Path
) -> None:
    """A base that was asked for must be there and be one."""
    with pytest.raises(BaseRefused):
        registry.add(adapter, base=str(tmp_path))
    with pytest.raises(NotFound):
        registry.add(adapter, base="no-such-base")

    assert (0, []) == (registry.list().total, files_of(registry))


def test_the_name_of_a_model_is_not_taken(registry: Registry, adapter: Path) -> None:
    """A clash that only the transaction sees leaves nothing in the store."""
    content = Content("0" * 64, 0, 0, "F32", ())
    facts = ModelFacts("linear", Path("/m"), {}, "1" * 64, "adreg")
    with registry._context.catalog.write() as connection:
        models.add(connection, "support", content, facts, [], base_id=None, at=now())
        connection.commit()

    with pytest.raises(AlreadyExists):
        registry.add(adapter)

    assert [] == files_of(registry)


def test_two_at_once_make_one_version(home: Path, adapter: Path, tmp_path: Path) -> None:
    """Whoever is second finds the other's version, and nobody fails."""
    del home
    copies = [shutil.copytree(adapter, tmp_path / f"copy-{number}") for number in range(4)]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda folder: Registry().add(folder, name="one"), copies))

    assert {"one@1"} == {one.reference for one in done}
    assert 1 == sum(one.new for one in done)
    assert () == Registry().verify().faults + Registry().verify().unknown


def test_a_full_disk_is_told_before_anything_is_copied(
    registry: Registry, adapter: Path, small_disk: Path
) -> None:
    """On a disk with too little room the error has the figures, and nothing is left."""
    full = Registry(small_disk / "home")
    tensors = load_file(adapter / WEIGHTS)
    save_file(tensors, adapter / WEIGHTS, metadata={"padding": "x" * (3 << 20)})
    del registry

    with pytest.raises(DiskFull) as caught:
        full.add(adapter)

    assert caught.value.needed > caught.value.free >= 0
    assert (0, []) == (full.list().total, files_of(full))


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
