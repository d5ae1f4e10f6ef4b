"""Links, hard links, pipes, sockets, devices, and names that are two files here and one there."""

from __future__ import annotations

import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.utils._shared_blobs import shared_blob_path

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import read_base
from adreg.registry.errors import AdapterRefused, BaseRefused, JsonBroken, TensorFileBroken
from adreg.registry.names import collisions, file_fault
from adreg.registry.opening import open_regular
from adreg.registry.tensors.checkpoint import read_layout

WEIGHTS = "adapter_model.safetensors"
OF_ADAPTER = ["adapter_config.json", WEIGHTS, "README.md", "tokenizer.json"]
OF_BASE = ["config.json", "model.safetensors", "generation_config.json"]


def pipe(path: Path) -> None:
    """Put a pipe that nobody writes to there."""
    os.mkfifo(path)


def listening(path: Path) -> None:
    """Put a socket there, by a short name: the path of one has at most 107 bytes."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    """Put a device there that gives zeros without end, as far as one may."""
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device is not allowed here")


def a_folder(path: Path) -> None:
    """Put a folder there."""
    path.mkdir()


KINDS = [pipe, listening, device]


@pytest.mark.parametrize("put", [*KINDS, a_folder])
def test_only_regular_files_are_opened(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """What is no regular file is refused at once, and never waited for."""
    put(tmp_path / "x")

    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        open_regular(tmp_path / "x")


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize("name", OF_ADAPTER)
def test_special_files_in_an_adapter(adapter: Path, name: str, put: Callable[[Path], None]) -> None:
    """A pipe, a socket or a device under the name of a file is named and refused."""
    (adapter / name).unlink(missing_ok=True)
    put(adapter / name)

    with pytest.raises(AdapterRefused, match=f"'{name}' is not a regular file"):
        read_adapter(adapter)


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize("name", OF_BASE)
def test_special_files_in_a_base(base: Path, name: str, put: Callable[[Path], None]) -> None:
    """So it is in a base, for its configuration, its weights and what lies beside them."""
    (base / name).unlink()
    put(base / name)

    with pytest.raises((BaseRefused, JsonBroken, TensorFileBroken), match="not a regular file"):
        read_base(base)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors.index.json"])
def test_a_pipe_as_other_weights(tmp_path: Path, name: str) -> None:
    """Pickles and indexes are opened in the same way."""
    pipe(tmp_path / name)

    with pytest.raises((JsonBroken, TensorFileBroken), match="not a regular file"):
        read_layout(tmp_path)


@pytest.mark.parametrize("name", OF_ADAPTER[:3])
def test_hard_links_in_an_adapter(adapter: Path, name: str) -> None:
    """A file with another name somewhere could be somebody else's, and is refused."""
    os.link(adapter / name, adapter.parent / "elsewhere")

    with pytest.raises(AdapterRefused, match=f"'{name}' is a hard link"):
        read_adapter(adapter)


@pytest.mark.parametrize("name", OF_BASE)
def test_links_out_of_a_base(base: Path, name: str) -> None:
    """Neither kind of link leads out of a base's folder, and a link within it may stand."""
    outside = base.parent / "elsewhere"
    os.link(base / name, outside)
    with pytest.raises(BaseRefused, match=f"'{name}' is a hard link"):
        read_base(base)

    (base / name).unlink()
    (base / name).symlink_to(outside)
    with pytest.raises(BaseRefused, match=f"'{name}' is a link out of its folder"):
        read_base(base)

    (base / name).unlink()
    outside.rename(base / ".kept")
    (base / name).symlink_to(".kept")
    assert read_base(base).parameters


def test_links_of_shards_out_of_a_base(base: Path) -> None:
    """A shard that the index names may not be a link elsewhere either."""
    (base / "model.safetensors").rename(base.parent / "elsewhere")
    layout = read_layout_of(base.parent / "elsewhere")
    (base / "one.safetensors").symlink_to(base.parent / "elsewhere")
    names = ", ".join(f'"{name}": "one.safetensors"' for name in layout)
    (base / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{names}}}}}')

    with pytest.raises(BaseRefused, match=r"'one\.safetensors' is a link out of its folder"):
        read_base(base)


def read_layout_of(path: Path) -> list[str]:
    """Return the names of a file's tensors."""
    from adreg.registry.tensors.header import read_header  # noqa: PLC0415

    return [tensor.name for tensor in read_header(path).tensors]


def test_the_shared_blobs_of_a_hub_cache(adapter: Path) -> None:
    """The store that all repositories of one Hub cache share may be led to, as the Hub names it."""
    cache = adapter.parent / "hub"
    home = cache / "models--o--lora"
    snapshot = home / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for number, path in enumerate(sorted(adapter.iterdir())):
        shared = shared_blob_path(cache, f"{number:x}" * 64)
        shared.parent.mkdir(parents=True)
        shutil.copy(path, shared)
        (home / "blobs" / str(number)).symlink_to(os.path.relpath(shared, home / "blobs"))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert read_adapter(snapshot).parameters == read_adapter(adapter).parameters

    other = cache / "blobs" / "secret"
    shutil.copy(adapter / "README.md", other)
    (snapshot / "README.md").unlink()
    (snapshot / "README.md").symlink_to(other)
    with pytest.raises(AdapterRefused, match=r"'README\.md' is a link out of its folder"):
        read_adapter(snapshot)


COLLIDING = [
    ("LICENSE", "License"),
    ("README.md", "readme.MD"),
    ("LICENSE-\u00e9", "LICENSE-e\u0301"),
    ("LICENSE-STRASSE", "LICENSE-stra\u00dfe"),
]


@pytest.mark.parametrize(("one", "other"), COLLIDING)
def test_colliding_names_in_an_adapter(adapter: Path, one: str, other: str) -> None:
    """Two names that are one file elsewhere are refused, whichever of them would be kept."""
    for name in (one, other):
        (adapter / name).write_text("x")

    with pytest.raises(AdapterRefused, match="are one file on macOS and Windows"):
        read_adapter(adapter)


def test_colliding_names_that_are_left_out(adapter: Path) -> None:
    """Files that are not taken in may be called as they like."""
    for name in ("a.py", "A.py"):
        (adapter / name).write_text("x")

    assert ["A.py", "a.py"] == [name for name, _ in read_adapter(adapter).left_out]


@pytest.mark.parametrize(("one", "other"), COLLIDING)
def test_colliding_names_in_a_base(base: Path, one: str, other: str) -> None:
    """So it is in a base."""
    for name in (one.replace(".md", ".rst"), other.replace(".MD", ".rst")):
        (base / name).write_text("x")

    with pytest.raises(BaseRefused, match="are one file on macOS and Windows"):
        read_base(base)


def test_colliding_shards(base: Path) -> None:
    """Shards that differ in case alone would overwrite each other when they are copied."""
    maps = '{"weight_map": {"a": "m.safetensors", "b": "M.safetensors"}}'
    (base / "model.safetensors.index.json").write_text(maps)

    with pytest.raises(TensorFileBroken, match="are one file on macOS and Windows"):
        read_layout(base)


RESERVED = ["con", "NUL.json", "Aux.tar.x", "com1", "LPT9.txt", "COM\u00b9", "prn .x", "CONIN$"]
ENDING = ["LICENSE.", "LICENSE "]
PATHS = ["LICENSE:stream", "C:LICENSE", "a\\b", "LICENSE\n", "LICENSE\u202etxt", "LICENSE\x9b31m"]


@pytest.mark.parametrize("name", [*RESERVED, *ENDING, *PATHS, "LICENSE" + "\u00e9" * 125])
def test_names_that_are_no_files_elsewhere(adapter: Path, base: Path, name: str) -> None:
    """Devices and streams of Windows, paths and control characters are no names of files."""
    words = "is a device|drops|characters that are not allowed|is longer than 255"
    assert file_fault(name) is not None
    if len(name.encode()) > 255:
        return
    for folder in (adapter, base):
        (folder / name).write_text("x")

    with pytest.raises(AdapterRefused, match=words) as raised:
        read_adapter(adapter)
    assert str(raised.value).isprintable()
    with pytest.raises(BaseRefused, match=words) as refused:
        read_base(base)
    assert str(refused.value).isprintable()


def test_honest_names() -> None:
    """What real repositories hold stays allowed."""
    names = ["model-00001-of-00002.safetensors", "console.json", "LICENSE", "com10.txt", "null"]
    names += ["Réadme.md", "auxiliary.json", "comma", "tokenizer.model.v3", "nul_.txt", "a b.txt"]

    assert [] == [name for name in names if file_fault(name)]
    assert [] == list(collisions([*names, unicodedata.normalize("NFC", "README")]))
