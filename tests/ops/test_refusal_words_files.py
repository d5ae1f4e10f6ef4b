"""Files that vanish, change or may not be read while adreg works with them are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from unprivileged import unreadable

from adreg.registry import Registry
from adreg.registry.adapters.foreign import pickled
from adreg.registry.bases.base import read_base
from adreg.registry.errors import AdregError
from adreg.registry.ops import base_files, converting, made_adapters
from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.pickles import read_pickle

WHOLE = "Name the folder of a whole transformers model, or fetch it again."
READABLE = "Make it readable and try again."
THERE = "See that it is there and can be read, and try again."
Q = "model.layers.0.self_attn.q_proj"


def refused(ask: Callable[[], object]) -> AdregError:
    """Return the error of what is asked."""
    with pytest.raises(AdregError) as caught:
        ask()
    return caught.value


class Writing(Progress):
    """A bar beside which somebody writes to a file when it first moves."""

    def __init__(self, path: Path) -> None:
        """Take the file."""
        self.path, self.wrote = path, False

    def advance(self, amount: int = 1) -> None:
        """Write to it, once."""
        del amount
        if not self.wrote:
            with self.path.open("ab") as file:
                file.write(b" ")
        self.wrote = True


def test_files_of_a_base(tmp_path: Path) -> None:
    """A file of a base that is gone, changes or may not be read is named beside the folder."""
    folder = factory.make_base(tmp_path / "base")

    gone = refused(lambda: base_files.look(folder, "none.json"))
    with unreadable(folder, "tokenizer.json") as hidden:
        base = read_base(hidden)
        closed = refused(lambda: base_files.hash_files(base, (), SILENT))
    writing = Writing(folder / "tokenizer.json")
    changed = refused(lambda: base_files.hash_files(read_base(folder), (), writing))

    assert f"{folder}: none.json: No such file or directory" == gone.sentence
    assert f"{hidden}: tokenizer.json: Permission denied" == closed.sentence
    assert f"{folder}: tokenizer.json changed while it was read" == changed.sentence
    assert (WHOLE, WHOLE, "Try again.") == (gone.hint, closed.hint, changed.hint)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of mlx-lm with a card."""
    folder = tmp_path / "mlx"
    folder.mkdir()
    written: dict[str, Any] = {"fine_tune_type": "lora", "lora_parameters": {"scale": 2.0}}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    one = np.ones((32, 4), np.float32)
    save_file({f"{Q}.lora_a": one, f"{Q}.lora_b": one.T.copy()}, folder / "adapters.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def test_files_beside_what_is_converted(home: Path, foreign: Path) -> None:
    """A card that may not be read, or is a link to elsewhere, stops a conversion by its name."""
    with unreadable(foreign, "README.md") as folder:
        registry = Registry(folder.parent / "home")
        closed = refused(lambda: registry.add(folder))
    (foreign / "README.md").rename(foreign.parent / "elsewhere")
    (foreign / "README.md").symlink_to(foreign.parent / "elsewhere")
    linked = refused(lambda: Registry(home).add(foreign))

    assert f"{folder}: 'README.md' cannot be read: Permission denied" == closed.sentence
    assert READABLE == closed.hint
    assert f"{foreign}: 'README.md' is a link out of its folder" in linked.sentence
    assert "Copy the files themselves into the folder." == linked.hint


def test_alpha(home: Path, foreign: Path) -> None:
    """An alpha that makes no scale is told with its value."""
    error = refused(lambda: Registry(home).add(foreign, alpha=float("nan")))

    assert f"{foreign}: --alpha is nan, which makes no scale" == error.sentence
    assert "Give the lora_alpha of the training." == error.hint


def test_folders_that_may_not_be_listed(foreign: Path) -> None:
    """What the system says of a folder stands in the sentence."""
    with unreadable(foreign) as folder:
        error = refused(lambda: converting._sort(folder, folder))

    assert f"{folder}: Permission denied" == error.sentence
    assert THERE == error.hint


def test_a_side_file_of_a_new_adapter(tmp_path: Path) -> None:
    """A tokenizer's file that vanished before it was copied is named."""
    gone = tmp_path / "merges.txt"
    error = refused(lambda: made_adapters._copy([("merges.txt", gone)], tmp_path))

    assert f"{gone}: No such file or directory" == error.sentence
    assert THERE == error.hint


def test_a_configuration_that_vanished(tmp_path: Path) -> None:
    """A pickled adapter whose configuration is gone meanwhile is refused by its name."""
    torch.save({"x": torch.ones(2)}, tmp_path / "adapter_model.bin")
    file = read_pickle(tmp_path / "adapter_model.bin")

    error = refused(lambda: pickled.convert(tmp_path, file))

    assert (
        f"{tmp_path}: 'adapter_config.json' cannot be read: No such file or directory"
        == error.sentence
    )
    assert READABLE == error.hint


def test_foreign_files_that_may_not_be_read(foreign: Path, home: Path) -> None:
    """A folder and a single file that may not be opened are told as the system does."""
    (foreign / "adapter_config.json").unlink()
    for name, words in ((".", ""), ("adapters.safetensors", "/adapters.safetensors")):
        with unreadable(foreign, name) as folder:
            error = refused(lambda path=folder: Registry(path.parent / "home").add(path))  # type: ignore[misc]  # a Path
        assert f"{folder}{words}: Permission denied" == error.sentence
        assert "Name the folder that PEFT's save_pretrained wrote." == error.hint
    shutil.rmtree(home)


def test_an_archive_that_may_not_be_read(tmp_path: Path, home: Path) -> None:
    """So is an .npz that is gone between two looks, as the system tells it."""
    from adreg.registry.adapters.foreign.npz import read_npz  # noqa: PLC0415

    error = refused(lambda: read_npz(tmp_path / "adapters.npz"))

    assert f"{tmp_path / 'adapters.npz'}: No such file or directory" == error.sentence
    assert "Fetch or save the file again." == error.hint
    del home
