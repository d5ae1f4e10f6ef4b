"""Files that claim or hold too much: each is refused, in 256 MiB and a few seconds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import factory
import pytest
from hostile.bounded import run_bounded

from adreg.registry import Registry
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import read_base
from adreg.registry.errors import AdapterRefused, TensorFileBroken
from adreg.registry.jsonio import MAX_BYTES
from adreg.registry.tensors.header import MAX_HEADER, read_header

HEADER = "from adreg.registry.tensors.header import read_header", "read_header(Path(sys.argv[1]))"
OBJECT = "from adreg.registry.jsonio import read_object", "read_object(Path(sys.argv[1]))"
LAYOUT = "from adreg.registry.tensors.checkpoint import read_layout"

SIZE = MAX_HEADER - 1000
EMPTY = b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
WIDE = "\U0001f600".encode()

BOMBS: dict[str, Callable[[int], bytes]] = {
    "lists": lambda size: b'{"a":[' + b"[]," * (size // 3) + b"0]}",
    "a shape": lambda size: b'{"a":{"dtype":"F32","shape":[' + b"0," * (size // 2) + b"0]}}",
    "numbers": lambda size: b'{"a":[' + b"300," * (size // 4) + b"0]}",
    "a digit": lambda size: b'{"a":' + b"1" * size + b"}",
    "keys": lambda size: b"{" + b",".join(b'"%06x":0' % n for n in range(size // 11)) + b"}",
    "tensors": lambda size: b"{" + b",".join(EMPTY % n for n in range(size // 60)) + b"}",
    "notes": lambda size: (
        b'{"__metadata__":{' + b",".join(b'"%06x":""' % n for n in range(size // 12)) + b"}}"
    ),
    "wide text": lambda size: b'{"__metadata__":{"a":"' + WIDE + b"a" * (size - 50) + b'"}}',
    "escapes": lambda size: b'{"__metadata__":{"a":"' + b"\\n" * (size // 2 - 50) + b'"}}',
    "quotes": lambda size: b'{"' + b'\\"' * (size // 2 - 50) + b'":{}}',
    "depth": lambda size: b'{"a":' * (size // 5),
    "some depth": lambda size: b'{"a":' * 100_000 + b" " * (size // 2),
    "brackets": lambda size: b'{"a":' + b"[" * (size - 10),
    "spaces": lambda size: b"{" + b" " * (size - 10),
    "a name": lambda size: b'{"' + b"a" * (size - 50) + b'":{}}',
}
HARMLESS = {"escapes", "wide text", "a name", "quotes"}
"""Long texts cost what they have; whether they are read depends on where they stand."""


@pytest.mark.parametrize("bomb", BOMBS)
def test_headers(tmp_path: Path, bomb: str) -> None:
    """The longest header of each kind is refused, or read where it only says one long thing."""
    path = tmp_path / "x.safetensors"
    data = BOMBS[bomb](SIZE)
    path.write_bytes(len(data).to_bytes(8, "little") + data)

    answer = run_bounded(*HEADER, path)

    assert answer.startswith("TensorFileBroken") or (answer == "read" and bomb in HARMLESS)


@pytest.mark.parametrize("bomb", BOMBS)
def test_configurations(tmp_path: Path, bomb: str) -> None:
    """The largest JSON file of each kind is refused, or read where it holds one long text."""
    path = tmp_path / "config.json"
    path.write_bytes(BOMBS[bomb](MAX_BYTES - 1000))

    answer = run_bounded(*OBJECT, path)

    assert answer.startswith("JsonBroken") or (answer == "read" and bomb in HARMLESS)


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 1 << 40])
def test_files_of_json_that_are_too_long(tmp_path: Path, size: int) -> None:
    """A configuration of a terabyte of holes is not read to its end."""
    path = tmp_path / "config.json"
    path.write_text("{")
    os.truncate(path, size)

    assert "larger than" in run_bounded(*OBJECT, path)


def test_an_index_of_many_names(tmp_path: Path) -> None:
    """An index of more names than any model has tensors is refused."""
    names = b",".join(b'"%x":"m.safetensors"' % n for n in range(600_000))
    (tmp_path / "model.safetensors.index.json").write_bytes(b'{"weight_map":{' + names + b"}}")

    answer = run_bounded(LAYOUT, "read_layout(Path(sys.argv[1]))", tmp_path)

    assert "holds more than 500,000 values" in answer


def test_a_large_honest_header(tmp_path: Path) -> None:
    """The factors of every expert of the largest models, 140,000 tensors, are read."""
    path = tmp_path / "x.safetensors"
    stem = "base_model.model.model.layers.%d.mlp.experts.%d.gate_proj.lora_A.weight"
    names = (stem % divmod(number, 400) for number in range(140_000))
    data = json.dumps(
        {
            name: {"dtype": "BF16", "shape": [8, 16], "data_offsets": [256 * n, 256 * n + 256]}
            for n, name in enumerate(names)
        },
        separators=(",", ":"),
    ).encode()
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + 256 * 140_000)

    assert "read" == run_bounded(*HEADER, path)


def claim(path: Path, shape: list[int]) -> int:
    """Make a file of holes whose header tells the truth about its size; return that."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    count = shape[0] * shape[1] * 4
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, count]}
    data = json.dumps({name: entry}).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data)
    os.truncate(path, 8 + len(data) + count)
    return path.stat().st_size


@pytest.fixture
def quickly() -> Iterator[None]:
    """Fail a test that takes more than 5 seconds: nobody reads a terabyte through in that."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("quickly")
def test_a_terabyte_of_holes(adapter: Path, base: Path, home: Path) -> None:
    """An adapter or a base of a terabyte that no disk holds is refused at once."""
    (adapter / "adapter_model.safetensors").unlink()
    size = claim(adapter / "adapter_model.safetensors", [8, 1 << 35])
    (base / "model.safetensors").unlink()
    claim(base / "model.safetensors", [8, 1 << 35])
    assert size > 1 << 40

    for read in (read_adapter, Registry().add):
        with pytest.raises(TensorFileBroken, match="hardly any are there"):
            read(adapter)
    with pytest.raises(TensorFileBroken, match="hardly any are there"):
        read_base(base)
    assert not (home / "store").exists()


@pytest.mark.usefixtures("quickly")
def test_a_terabyte_beside_the_weights(adapter: Path) -> None:
    """A tokenizer of a terabyte is neither hashed nor copied."""
    (adapter / "tokenizer.json").touch()
    os.truncate(adapter / "tokenizer.json", 1 << 40)

    with pytest.raises(AdapterRefused, match="more than any file of its kind"):
        read_adapter(adapter)


def test_small_files_with_holes_and_whole_ones(tmp_path: Path) -> None:
    """Holes below a gigabyte are nothing: `cp --sparse` makes them of an untrained B."""
    claim(tmp_path / "x.safetensors", [8, 1 << 20])

    assert 1 == len(read_header(tmp_path / "x.safetensors").tensors)


@pytest.mark.usefixtures("quickly")
def test_verify_stops_early(honest: tuple[Path, Path], home: Path) -> None:
    """A stored file that became a terabyte of holes is named by its size alone."""
    registry = Registry()
    registry.add(honest[1], name="a")
    blob = next(path for path in home.rglob("blobs/*") if path.stat().st_size > 2000)
    blob.chmod(0o644)
    os.truncate(blob, 1 << 40)

    (fault,) = registry.verify().faults

    assert "1,099,511,627,776 bytes instead of" in fault


@pytest.mark.parametrize(
    "lie",
    [
        {"r": 1 << 30},
        {"r": 1 << 40},
        {"rank_pattern": {"q_proj": 1 << 30}},
        {"lora_alpha": 1e400},
        {"layer_replication": [[0, 1 << 40]]},
        {"trainable_token_indices": [1 << 40]},
        {"rank_pattern": {"(a+)+$": 4}},
        {"alpha_pattern": {"(.*)*x": 4}},
        {"target_modules": r"(\w+\s?)*$" * 20, "r": 1 << 30},
    ],
)
@pytest.mark.usefixtures("quickly")
def test_a_configuration_that_asks_for_much(adapter: Path, lie: dict[str, object]) -> None:
    """A rank, a row or a layer that no tensor has costs nothing, nor does a pattern without end."""
    factory.edit_config(adapter, **lie)

    with pytest.raises(AdapterRefused):
        read_adapter(adapter)
