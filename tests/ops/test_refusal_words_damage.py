"""What was removed, moved or changed since it was recorded is named, with how to get it again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
from factory import edit_config
from sqlalchemy import delete, update
from workshop import Workshop, fill, make_workshop

from adreg.registry import Registry
from adreg.registry.catalog import schema
from adreg.registry.errors import AdregError
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.ops.extract import Wish
from adreg.registry.ops.made_adapters import Wanted
from adreg.registry.release.lock import LOCK

AGAIN = "Add the adapter again from its source, or rebuild the model from its lock file."
PROVES = "`adreg rebuild` proves it byte for byte, from the lock file that `adreg export` adds."
OTHERS = "Merge the other adapters into the base again."
RELEASE = "Take it again from the release."
VERY = "Name the folder of the very base with --base."


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base and two adapters that no test changes."""
    root = tmp_path_factory.mktemp("shop")
    make_workshop(root)
    return root


@pytest.fixture
def shop(parts: Path, tmp_path: Path) -> Workshop:
    """A copy of them."""
    root = shutil.copytree(parts, tmp_path / "shop")
    return Workshop(root / "tiny", root / "one", root / "two")


@pytest.fixture
def registry(home: Path, shop: Workshop) -> Registry:
    """A registry that merged them."""
    return fill(Registry(home), shop)


def refused(ask: Callable[[], object]) -> AdregError:
    """Return the error of what is asked."""
    with pytest.raises(AdregError) as caught:
        ask()
    assert "\n" not in caught.value.sentence + caught.value.hint
    return caught.value


def model_of(registry: Registry) -> Path:
    """Return the folder of the merged model."""
    version: Any = registry.show("bot").version
    location: Path = version.facts.location
    return location


def change(registry: Registry, statement: Any) -> None:
    """Change the catalog behind adreg's back, as an older version or another tool may have."""
    with registry._context.catalog.write() as connection:
        connection.execute(statement)
        connection.commit()


def test_a_model_that_is_gone(registry: Registry) -> None:
    """Whatever is asked of a model without its folder, the folder is named."""
    folder = model_of(registry)
    shutil.rmtree(folder)
    asked: list[Callable[[], object]] = [
        lambda: registry.verify_merge("bot"),
        lambda: registry.try_out(["bot"], "a"),
        lambda: registry.extract("bot", "tiny", Wish(rank=2), Wanted(dry_run=True)),
    ]

    for ask in asked:
        error = refused(ask)
        assert f"damage found: bot@1: its folder {folder} is gone" == error.sentence
        assert AGAIN == error.hint


def test_a_model_that_was_changed(registry: Registry, tmp_path: Path) -> None:
    """A file of another size, and one that is gone, are named before anything is computed."""
    file, out = model_of(registry) / "config.json", tmp_path / "out"
    file.write_text("{}")

    proof = refused(lambda: registry.verify_merge("bot"))
    copied = refused(lambda: registry.export("bot", out, licence="mit"))
    export = refused(lambda: registry.export("bot", out, licence="mit", dry_run=True))
    file.unlink()
    gone = refused(lambda: registry.export("bot", out, licence="mit", dry_run=True))

    assert f"damage found: bot@1: {file} is not the file that was recorded" == proof.sentence
    assert "damage found: bot@1: config.json has another size than was recorded" == export.sentence
    assert "damage found: bot@1: config.json is not what was recorded" == copied.sentence
    assert "damage found: bot@1: config.json is missing" == gone.sentence
    assert {AGAIN} == {proof.hint, copied.hint, export.hint, gone.hint}


def stored(registry: Registry, reference: str, name: str) -> Path:
    """Return a stored file of an adapter, made writable."""
    folder = registry._context.store.folder(registry.show(reference).version.key.digest)
    path = (folder / name).resolve()
    path.chmod(0o644)
    return path


def test_stored_adapters(registry: Registry) -> None:
    """A stored file that is missing, or has other bytes of the same size, is named."""
    stored(registry, "team/one", "adapter_config.json").unlink()
    path = stored(registry, "team/two", "adapter_config.json")
    path.write_bytes(path.read_bytes().replace(b"LORA", b"LORE"))

    missing = refused(lambda: registry.check("team/one"))
    damaged = refused(lambda: registry.check("team/two"))

    assert "damage found: team/one@1: adapter_config.json is missing" in missing.sentence
    assert "damage found: team/two@1: adapter_config.json is damaged (SHA-256 " in damaged.sentence
    assert {AGAIN} == {missing.hint, damaged.hint}


def test_weights_that_were_changed(registry: Registry) -> None:
    """Weights with other values are told by their digest."""
    path = stored(registry, "team/one", "adapter_model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    error = refused(lambda: registry.check("team/one"))

    assert "team/one@1: adapter_model.safetensors is damaged (SHA-256 " in error.sentence
    assert AGAIN == error.hint


def test_an_adapter_that_was_removed(registry: Registry) -> None:
    """A model whose adapter was removed cannot be proven."""
    registry.remove("team/one", force=True)

    error = refused(lambda: registry.verify_merge("bot"))

    assert "there is no adapter 'team/one@1'" == error.sentence
    assert "It was removed: add it again from where it came from." == error.hint


def test_a_folder_that_is_another_adapter_now(registry: Registry, shop: Workshop) -> None:
    """An adapter that was merged from a folder must be there as it was."""
    registry.remove("team/one", force=True)
    recipe = Recipe((RecipeAdapter(str(shop.one)),), base="tiny")
    registry.merge(recipe, name="direct")
    factory.edit_tensors(shop.one, lambda tensors: next(iter(tensors.values())).add_(1))

    error = refused(lambda: registry.verify_merge("direct"))

    assert (
        f"damage found: {shop.one}: it is no longer the adapter that was merged" == error.sentence
    )
    assert AGAIN == error.hint


def test_models_that_are_no_plain_sum(registry: Registry, shop: Workshop) -> None:
    """A method, and weights of single modules, that cannot be proven or taken apart are named."""
    weights = RecipeAdapter("team/one", 1.0, (("q_proj", 0.5),))
    registry.merge(Recipe((weights,), base="tiny"), name="parts")
    proof = refused(lambda: registry.verify_merge("parts"))
    apart = refused(lambda: registry.unmerge("parts", ["team/one"]))
    said = "parts@1 was merged with weights of their own for some modules"
    assert f"{said}, which PEFT cannot do unmerged" in proof.sentence
    assert said in apart.sentence
    assert (PROVES, OTHERS) == (proof.hint, apart.hint)

    change(registry, update(schema.model).values(method="ties"))
    proof = refused(lambda: registry.verify_merge("bot"))
    apart = refused(lambda: registry.unmerge("bot", ["team/one"]))
    assert "bot@1 was combined by ties, which PEFT cannot do unmerged" in proof.sentence
    assert "bot@1 was combined by ties, which is no sum of deltas" in apart.sentence
    assert (PROVES, OTHERS) == (proof.hint, apart.hint)
    del shop


def test_models_of_which_too_little_is_recorded(registry: Registry, tmp_path: Path) -> None:
    """A model without its adapters or its base in the catalog needs more to be said."""
    change(registry, update(schema.version).values(base_id=None))
    change(registry, update(schema.model).values(recipe={"adapters": []}))

    proof = refused(lambda: registry.verify_merge("bot"))
    export = refused(lambda: registry.export("bot", tmp_path / "out", licence="mit"))
    change(registry, delete(schema.model_input))
    inputs = refused(lambda: registry.verify_merge("bot"))

    assert "there is no base recorded for 'bot@1'" == proof.sentence
    assert "Name it with --base." == proof.hint
    assert "there is no base known for 'bot@1'" == export.sentence
    assert "Record it: adreg base add FOLDER" == export.hint
    assert "no adapter is recorded for bot@1" in inputs.sentence
    assert PROVES == inputs.hint


def test_bases_that_are_others_now(registry: Registry, shop: Workshop, tmp_path: Path) -> None:
    """A base's folder that is gone, or holds another model, is told with the base's name."""
    folder = shop.base
    factory.make_base(tmp_path / "gpt2", "gpt2")
    again = "If it lies elsewhere now: adreg base add FOLDER --name tiny"
    shutil.move(folder, tmp_path / "away")

    gone = refused(lambda: registry.check("team/one"))
    shutil.copytree(tmp_path / "gpt2", folder)
    other = refused(lambda: registry.check("team/one"))
    known = refused(lambda: registry.add_base(str(folder)))

    assert f"{folder}: the folder of the base tiny is gone" == gone.sentence
    assert f"{folder}: it no longer holds the tensors that were recorded" in other.sentence
    assert (again, again) == (gone.hint, other.hint)
    assert "the base 'tiny' exists already" == known.sentence
    assert "What lies in its folder has changed: choose another name with --name." == known.hint


def test_a_base_that_a_folder_names_is_nowhere(registry: Registry, shop: Workshop) -> None:
    """The base that adapters name and nobody has is named, with both ways on."""
    for folder in (shop.one, shop.two):
        edit_config(folder, base_model_name_or_path="/gone/with/the/machine")
    recipe = Recipe((RecipeAdapter(str(shop.one)),))

    error = refused(lambda: registry.merge(recipe, dry_run=True))

    assert "there is no base '/gone/with/the/machine'" == error.sentence
    assert "Pass --base with a folder, or `adreg base add` it first." == error.hint


@pytest.fixture
def release(registry: Registry, tmp_path: Path) -> Path:
    """The lock file of a release."""
    registry.export("bot", tmp_path / "release", licence="mit")
    return tmp_path / "release" / LOCK


def edited(lock: Path, *path: str | int, value: object) -> Path:
    """Return a copy of a lock file with one value changed."""
    data: Any = json.loads(lock.read_text())
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    copy = lock.with_name("changed.json")
    copy.write_text(json.dumps(data))
    return copy


def test_lock_files_that_disagree_with_themselves(
    registry: Registry, release: Path, tmp_path: Path
) -> None:
    """A recipe that is wrong, or names other adapters than the list, is no lock file."""
    wrong = edited(release, "recipe", "method", value="magic")
    error = refused(lambda: registry.rebuild(wrong, tmp_path / "out"))
    assert f"{wrong}: its recipe is wrong: 'method' is 'magic' and not one of" in error.sentence
    assert RELEASE == error.hint

    other = edited(release, "recipe", "adapters", value=["team/one"])
    error = refused(lambda: registry.rebuild(other, tmp_path / "out"))
    assert f"{other}: its recipe names other adapters than it lists" == error.sentence
    assert RELEASE == error.hint


def test_adapters_of_a_lock_file(registry: Registry, release: Path, tmp_path: Path) -> None:
    """A missing adapter is named with its digest, and with where it came from, if known."""
    registry.remove("team/one", force=True)
    error = refused(lambda: registry.rebuild(release, tmp_path / "out"))
    assert error.sentence.startswith("there is no adapter 'team/one@1 (digest ")
    assert "Add it from where it came from: adreg add FOLDER." == error.hint

    sources = [{"repo": "owner/repo", "revision": "v1"}]
    known = edited(release, "adapters", 0, "sources", value=sources)
    error = refused(lambda: registry.rebuild(known, tmp_path / "out"))
    assert "It came from hf://owner/repo@v1: download that" in error.hint


def another(folder: Path) -> None:
    """Put another model in a folder's place."""
    shutil.rmtree(folder)
    factory.make_base(folder, "gpt2")


BASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "tensors": (
        another,
        "its tensors have other names, dtypes or shapes",
    ),
    "configuration": (
        lambda folder: edit_config(folder, rope_theta=7.0),
        "its config.json is another one",
    ),
    "file": (lambda folder: (folder / "tokenizer.json").unlink(), "it lacks tokenizer.json"),
    "other file": (
        lambda folder: os.truncate(folder / "tokenizer.json", 100),
        "its tokenizer.json differs",
    ),
}


@pytest.mark.parametrize("case", BASES)
def test_bases_of_a_lock_file(
    registry: Registry, release: Path, shop: Workshop, tmp_path: Path, case: str
) -> None:
    """What differs from the base of the lock file is named."""
    edit, words = BASES[case]
    folder = shutil.copytree(shop.base, tmp_path / "it")
    edit(folder)

    error = refused(lambda: registry.rebuild(release, tmp_path / "out", base=str(folder)))

    assert f"{folder}: it is not the base of the lock file: {words}" == error.sentence
    assert VERY == error.hint


def test_no_base_of_a_lock_file(registry: Registry, release: Path, tmp_path: Path) -> None:
    """A base that nobody has is named, with its repository if that is known."""
    nobodys = edited(release, "base", "names", value=["nobody"])
    nobodys = edited(nobodys, "base", "layout_digest", value="0" * 64)
    error = refused(lambda: registry.rebuild(nobodys, tmp_path / "out"))
    assert "there is no base 'nobody'" == error.sentence
    assert "Name its folder with --base." == error.hint

    known = edited(nobodys, "base", "repo", value="owner/repo")
    known = edited(known, "base", "revision", value="v1")
    error = refused(lambda: registry.rebuild(known, tmp_path / "out"))
    assert "Download it with `hf download owner/repo --revision v1`, or name" in error.hint
