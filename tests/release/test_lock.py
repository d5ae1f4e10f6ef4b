"""The lock file: deterministic, and read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adreg.registry.digest import FileDigest
from adreg.registry.errors import LockBroken
from adreg.registry.release.lock import (
    HubSource,
    Lock,
    LockedAdapter,
    LockedBase,
    LockedModel,
    read_lock,
)

FILE = FileDigest("model.safetensors", "ab" * 32, 10)
LOCK = Lock(
    adreg="0.1.0",
    engine={"numpy": "2.0", "ml_dtypes": "0.5"},
    model=LockedModel("m", "bfloat16", "LlamaForCausalLM", "llama"),
    recipe={"base": "b", "method": "linear"},
    base=LockedBase(("b",), "cd" * 32, "ef" * 32, files=(FILE,)),
    adapters=(LockedAdapter("a", 1, "01" * 32, 0.5, None, (HubSource("o/r", "main"),), (FILE,)),),
    files=(FILE, FileDigest("config.json", "23" * 32, 2)),
)


def test_round_trip(tmp_path: Path) -> None:
    """What is written is what is read, and writing it again gives the same text."""
    path = tmp_path / "adreg.lock.json"
    path.write_text(LOCK.to_json())
    again = read_lock(path)

    assert (LOCK.base, LOCK.adapters, LOCK.model) == (again.base, again.adapters, again.model)
    assert LOCK.to_json() == again.to_json()


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(name)


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:  # a JSON value
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_drop("schema"), "its schema is None, this adreg reads 1"),
        (_set("schema", value=2), "its schema is 2, this adreg reads 1"),
        (_drop("recipe"), "recipe is missing"),
        (_set("more", value=1), "more is not known"),
        (_set("base", "names", value=[]), "base.names is empty"),
        (_set("base", "layout_digest", value="xy"), "base.layout_digest is not a SHA-256"),
        (_set("adapters", 0, "weight", value="1"), "adapters[0].weight is not a number"),
        (_set("adapters", 0, "sources", 0, "x", value=1), "adapters[0].sources[0].x is not known"),
        (_set("adapters", value=[]), "it has no adapters or no files"),
        (_set("files", 0, "size", value=-1), "files[0].size is not a whole number"),
        (_set("files", 0, "name", value="../x"),
         "the file name '../x' is not a plain relative path"),
        (_set("files", 0, "name", value="/x"), "the file name '/x' is not a plain relative path"),
        (_set("files", 1, "name", value="config.json"), "a file stands twice"),
    ],
)  # fmt: skip
def test_strict(tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str) -> None:
    """A field that is missing, unknown or mistyped is named."""
    data = json.loads(LOCK.to_json())
    change(data)
    path = tmp_path / "adreg.lock.json"
    path.write_text(json.dumps(data))
    with pytest.raises(LockBroken) as caught:
        read_lock(path)

    assert reason == caught.value.reason


def test_not_json(tmp_path: Path) -> None:
    """A file that is no JSON is LockBroken too."""
    path = tmp_path / "adreg.lock.json"
    path.write_text("{")
    with pytest.raises(LockBroken):
        read_lock(path)
