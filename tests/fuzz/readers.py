"""The readers of what others write, each as a function of bytes, with honest bytes to spoil."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from fuzz import mutate
from safetensors.numpy import load_file, save

from adreg.registry.adapters.card import read_licence
from adreg.registry.adapters.foreign.door import convert
from adreg.registry.adapters.foreign.form import BaseView, Said
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.adapters.templates import template_fault
from adreg.registry.bases.base import read_base
from adreg.registry.catalog import grammar
from adreg.registry.merge.recipe import read_recipe
from adreg.registry.names import Reference, Tag, check_name, suggest_name
from adreg.registry.release.lock import read_lock
from adreg.registry.tensors.checkpoint import read_layout
from adreg.registry.tensors.header import read_header
from adreg.registry.tensors.pickles import read_pickle

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Reader:
    """How to read bytes, honest bytes of that kind, and words that may mean something in it."""

    read: Read
    seeds: list[bytes]
    words: list[bytes]


RECIPE = b"""base: smollm2
adapters:
  - {ref: team/support@prod, weight: 0.7, weights: {"layers.1": 0.5}}
  - team/tone=0.5
method: ties
parameters: {density: 0.3, seed: 4}
dtype: bfloat16
max_shard_size: 5GB
"""
SEARCHES = [b"rank>=16 and (type:dora or not tag:old)", b'base:"my base" target:q_proj', b"a or b"]
NAMES = [b"team/support@prod=0.5", b"hf://owner/repo@main=1", b"./runs/a=0.3", b"key=value"]
TEMPLATE = (
    b"{%- for m in messages if m.role != 'x' -%}{% generation %}{{ m['content'] | trim }}"
    b"{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{%- endfor -%}{{ bos_token }}"
)
CARD = b"---\nlicense: other\nlicense_name: my-licence\ntags:\n- lora\n---\n# A card\n"
HEX = "0123456789abcdef" * 4


def _lock() -> bytes:
    file = {"name": "model.safetensors", "sha256": HEX, "size": 10}
    value = {
        "schema": 1,
        "adreg": "0.1.0",
        "engine": {"numpy": "2.0"},
        "model": {"name": "m", "dtype": "bfloat16"}
        | dict.fromkeys(["architecture", "model_type", "licence"]),
        "recipe": {"method": "linear"},
        "base": {"names": ["b"], "layout_digest": HEX, "config_digest": HEX, "files": [file]}
        | dict.fromkeys(["repo", "revision", "licence"]),
        "adapters": [
            {"name": "a", "number": 1, "digest": HEX, "weight": 0.5, "licence": None}
            | {"sources": [{"repo": "o/r", "revision": None}], "files": [file]}
        ],
        "files": [file],
    }
    return json.dumps(value).encode()


def _gguf(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_array("general.tags", ["a", "b"])
    writer.add_tensor("blk.0.attn_v.weight.lora_a", np.ones((2, 32), np.float32))
    writer.add_tensor("blk.0.attn_v.weight.lora_b", np.ones((16, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _npz() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("a", "b"):
            array = io.BytesIO()
            shape = (32, 2) if name == "a" else (2, 16)
            np.lib.format.write_array(array, np.ones(shape, np.float32))
            key = f"model.layers.0.self_attn.q_proj.lora_{name}.npy"
            archive.writestr(key, array.getvalue())
    return made.getvalue()


def _torch(*, new: bool) -> bytes:
    made = io.BytesIO()
    state = {"a.weight": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.float16)}
    torch.save(state, made, _use_new_zipfile_serialization=new)
    return made.getvalue()


def _foreign() -> list[bytes]:
    ones = np.ones((2, 32), np.float32)
    stem = "lora_unet_down_blocks_0_attentions_0_proj_in"
    kohya = {f"{stem}.lora_down.weight": ones, f"{stem}.lora_up.weight": ones.T.copy()}
    kohya[f"{stem}.alpha"] = np.array(2, np.float32)
    diffusers = {"unet.a.b.lora.down.weight": ones, "unet.a.b.lora.up.weight": ones.T.copy()}
    loralib = {"h.0.attn.lora_A": ones, "h.0.attn.lora_B": ones.T.copy()}
    mlx = {"model.layers.0.q.lora_a": ones.T.copy(), "model.layers.0.q.lora_b": ones}
    notes = {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 4}'}
    return [save(kohya), save(diffusers, notes), save(loralib), save(mlx)]


def _at(path: Path, read: Callable[[Path], object], *, folder: bool = False) -> Read:
    """Return a reader of bytes that writes them to ``path`` first."""

    def with_bytes(data: bytes) -> object:
        path.write_bytes(data)
        return read(path.parent if folder else path)

    return with_bytes


def _text(read: Callable[[str], object]) -> Read:
    """Return a reader of bytes of one of text: arguments of a command can hold any bytes."""
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


def _names(text: str) -> None:
    check_name(suggest_name(text))  # whatever the text, what is made of it is a name
    for parse in (Reference.parse, Tag.parse, check_name):
        parse(text)


def readers(root: Path, base: Path, adapter: Path) -> dict[str, Reader]:
    """Return all readers by name; ``root`` is a folder to write to."""
    config = (adapter / "adapter_config.json").read_bytes()
    base_config = (base / "config.json").read_bytes()
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    index = {"a": "one.safetensors", "b": "two.safetensors"}
    shards = root / "shards"
    for folder in (shards, root / "files", root / "card"):
        folder.mkdir(parents=True)
    for name, file in index.items():
        (shards / file).write_bytes(save({name: np.ones(3, np.float32)}))
    view = BaseView(
        json.loads(base_config),
        {name: array.shape for name, array in load_file(base / "model.safetensors").items()},
    )
    said = Said(base=view, convert_pickle=True)
    foreign = _foreign()
    files = root / "files"
    binary, words = mutate.BINARY_WORDS, mutate.JSON_WORDS
    mlx = b'{"fine_tune_type": "lora", "num_layers": 2, '
    mlx += b'"lora_parameters": {"rank": 2, "scale": 20.0}}'
    (root / "mlx").mkdir()
    (root / "mlx" / "adapters.safetensors").write_bytes(foreign[3])
    return {
        "header": Reader(
            _at(files / "x.safetensors", read_header),
            [weights[:4000], foreign[0]],
            [*words, *binary],
        ),
        "index": Reader(
            _at(shards / "model.safetensors.index.json", read_layout, folder=True),
            [json.dumps({"metadata": {"total_size": 24}, "weight_map": index}).encode()],
            [*words, b"one.safetensors", b"two.safetensors"],
        ),
        "adapter_config": Reader(
            _at(adapter / "adapter_config.json", read_adapter, folder=True), [config], words
        ),
        "weights": Reader(
            _at(root / "adapter" / "adapter_model.safetensors", read_adapter, folder=True),
            [weights],
            [*words, *binary],
        ),
        "config": Reader(_at(base / "config.json", read_base, folder=True), [base_config], words),
        "recipe": Reader(_at(files / "recipe.yaml", read_recipe), [RECIPE], mutate.YAML_WORDS),
        "search": Reader(_text(grammar.parse), SEARCHES, mutate.SEARCH_WORDS),
        "lock": Reader(_at(files / "adreg.lock.json", read_lock), [_lock()], words),
        "names": Reader(_text(_names), NAMES, mutate.NAME_WORDS),
        "pickle": Reader(
            _at(files / "x.bin", read_pickle), [_torch(new=True), _torch(new=False)], binary
        ),
        "gguf": Reader(
            _at(files / "x.gguf", lambda path: convert(path, said)),
            [_gguf(root / "a.gguf")],
            binary,
        ),
        "npz": Reader(
            _at(files / "x.npz", lambda path: convert(path, said)), [_npz()], [*binary, b"(-1,)"]
        ),
        "foreign": Reader(
            _at(files / "y.safetensors", lambda path: convert(path, said)), foreign, words
        ),
        "mlx_config": Reader(
            _at(root / "mlx" / "adapter_config.json", lambda p: convert(p, said), folder=True),
            [mlx],
            words,
        ),
        "template": Reader(_text(template_fault), [TEMPLATE], mutate.TEMPLATE_WORDS),
        "card": Reader(
            _at(root / "card" / "README.md", read_licence, folder=True), [CARD], mutate.YAML_WORDS
        ),
    }
