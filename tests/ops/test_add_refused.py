"""What is refused when an adapter is added, and that nothing of it stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from adreg.registry import Registry
from adreg.registry.catalog import models
from adreg.registry.catalog.records import Content, ModelFacts
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
from adreg.registry.ops.history import now

WEIGHTS = "adapter_model.safetensors"


def files_of(registry: Registry) -> list[str]:
    """Return the names of everything in the store but its empty folders."""
    return sorted(str(path) for path in registry.settings.store.rglob("*") if not path.is_dir())


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
