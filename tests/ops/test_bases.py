"""A base is what its headers say, under a name, and it stays so or the user hears of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import factory
import pytest

from adreg.registry import Registry
from adreg.registry.errors import AlreadyExists, BaseRefused, NameRefused, NotFound
from adreg.registry.ops.bases import open_base


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama in one file, the same in shards, and a GPT-2."""
    root = tmp_path_factory.mktemp("models")
    factory.make_base(root / "llama")
    factory.make_base(root / "sharded", shard_size=20_000)
    factory.make_base(root / "gpt2", "gpt2")
    return root


@pytest.fixture
def registry(home: Path) -> Registry:
    """An empty registry."""
    del home
    return Registry()


def test_a_base_is_recorded_with_what_it_is(registry: Registry, models: Path) -> None:
    """Name, place, architecture, sizes, licence, other names and files are there again."""
    added = registry.add_base(
        str(models / "llama"), name="tiny", aliases=["some/Tiny"], licence="mit"
    )
    shown = registry.base("some/tiny")

    assert (True, "tiny") == (added.new, added.record.name)
    assert added.record == shown.record
    assert (added.record,) == registry.bases()
    facts = shown.record.facts
    assert ("LlamaForCausalLM", "llama", "BF16", "mit") == (
        facts.architecture,
        facts.model_type,
        facts.dtype,
        facts.licence,
    )
    assert (models / "llama", facts.parameters * 2) == (facts.location, facts.bytes)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.path for f in shown.files}
    assert shown.present


def test_shards_do_not_make_another_base(registry: Registry, models: Path) -> None:
    """One file and many have the same layout digest."""
    one = registry.add_base(str(models / "llama"))
    many = registry.add_base(str(models / "sharded"))

    assert one.record.facts.layout_digest == many.record.facts.layout_digest
    assert ("llama", "sharded") == (one.record.name, many.record.name)


def test_the_same_base_again_says_so(registry: Registry, models: Path) -> None:
    """It keeps its name, and learns the other names that come along."""
    registry.add_base(str(models / "llama"), name="tiny", licence="mit")

    again = registry.add_base(str(models / "llama"), aliases=["more"])

    assert (False, False, "tiny", ("more",), "mit") == (
        again.new,
        again.moved,
        again.record.name,
        again.record.aliases,
        again.record.facts.licence,
    )


def test_a_base_that_moved_is_found_under_its_name(
    registry: Registry, models: Path, tmp_path: Path
) -> None:
    """Adding the new folder under the old name moves it; until then opening it says how."""
    folder = shutil.copytree(models / "llama", tmp_path / "old")
    registry.add_base(str(folder), name="tiny")
    folder.rename(tmp_path / "new")

    with pytest.raises(BaseRefused, match="is gone") as caught:
        open_base(registry._context, "tiny")
    moved = registry.add_base(str(tmp_path / "new"), name="tiny")

    assert "adreg base add FOLDER --name tiny" in caught.value.hint
    assert (False, True) == (moved.new, moved.moved)
    assert tmp_path / "new" == open_base(registry._context, "tiny").base.folder


def test_a_name_that_is_another_bases_is_taken(registry: Registry, models: Path) -> None:
    """Other tensors never slip under a known name, nor a name that is none."""
    registry.add_base(str(models / "llama"), name="tiny")

    with pytest.raises(AlreadyExists):
        registry.add_base(str(models / "gpt2"), name="tiny")
    with pytest.raises(NameRefused):
        registry.add_base(str(models / "gpt2"), name="../tiny")
    assert 1 == len(registry.bases())


def test_a_folder_that_holds_another_base_now_is_named(
    registry: Registry, models: Path, tmp_path: Path
) -> None:
    """Opening it by name is refused, adding it wants another name."""
    folder = shutil.copytree(models / "llama", tmp_path / "base")
    registry.add_base(str(folder), name="tiny")
    shutil.rmtree(folder)
    shutil.copytree(models / "gpt2", folder)

    with pytest.raises(BaseRefused, match="no longer holds the tensors"):
        open_base(registry._context, "tiny")
    with pytest.raises(AlreadyExists, match="tiny"):
        registry.add_base(str(folder))
    assert registry.add_base(str(folder), name="other").new


def test_a_base_of_the_hub_cache_is_found_by_its_id(
    registry: Registry, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named by repository and commit, and opens by name, id or folder."""
    cache = tmp_path / "hub"
    home = cache / "models--some--Tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text("a" * 40)
    snapshot = shutil.copytree(models / "llama", home / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    unrecorded = open_base(registry._context, "some/Tiny")
    added = registry.add_base("some/Tiny")

    assert (None, "some/Tiny") == (unrecorded.record, unrecorded.name)
    assert ("some/Tiny", "hub", "a" * 40) == (
        added.record.name,
        added.record.facts.source_kind,
        added.record.facts.revision,
    )
    for text in ("some/tiny", "hf://some/Tiny", str(snapshot)):
        opened = open_base(registry._context, text)
        assert added.record == opened.record
        assert {"some/Tiny", str(snapshot)} <= opened.known_names


def test_an_unknown_base_is_told_with_near_names(registry: Registry, models: Path) -> None:
    """A typing error in a base's name finds the name."""
    registry.add_base(str(models / "llama"), name="smollm2")

    with pytest.raises(NotFound) as caught:
        open_base(registry._context, "smolm2")

    assert ("smollm2",) == caught.value.close


def test_what_is_no_base_is_refused(registry: Registry, tmp_path: Path, models: Path) -> None:
    """An empty folder and an adapter are no bases, and nothing is recorded."""
    adapter = factory.make_adapter(models / "llama", tmp_path / "adapter")
    (tmp_path / "empty").mkdir()

    for folder in (adapter, tmp_path / "empty"):
        with pytest.raises(BaseRefused):
            registry.add_base(str(folder))
    assert () == registry.bases()
