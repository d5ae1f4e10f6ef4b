"""Each refusal of a GGUF LoRA says what is wrong with what, and what to do instead."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from adreg.registry.adapters.foreign.door import convert
from adreg.registry.adapters.foreign.form import BaseView, Said
from adreg.registry.errors import AdregError

ONE = np.ones((32, 32), np.float32)
LAYER = "model.layers.0"
CONFIG = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}
SHAPES = {
    f"{LAYER}.self_attn.q_proj.weight": (32, 32),
    f"{LAYER}.mlp.down_proj.weight": (32, 32),
    f"language_model.{LAYER}.mlp.down_proj.weight": (32, 32),
}
BASE = BaseView({**CONFIG, "num_attention_heads": 4}, SHAPES)


def pair(name: str, a: NDArray[Any] = ONE, b: NDArray[Any] = ONE) -> dict[str, NDArray[Any]]:
    """Return the factors of one of llama.cpp's matrices."""
    return {f"{name}.lora_a": a, f"{name}.lora_b": b}


DOWN = pair("blk.0.ffn_down.weight")


def write(  # what a header can say
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    arch: str = "llama",
    *,
    kind: str = "adapter",
    adapter: str = "lora",
    alpha: float = 6.0,
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
    small: bool = False,
) -> Path:
    """Write a GGUF file."""
    writer = gguf.GGUFWriter(path, arch, endianess=endian)
    writer.add_type(kind)
    writer.add_string(gguf.Keys.Adapter.TYPE, adapter)
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, value in tensors.items():
        if small:
            writer.add_tensor(name, gguf.quants.quantize(value, q8), raw_dtype=q8)
        else:
            writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


THEN = "Pass the base that it was trained on."
PEFT = "Add the PEFT folder that it was made from."
MAKE = "Make it again with convert_lora_to_gguf.py"

CASES: dict[str, tuple[Mapping[str, NDArray[Any]], dict[str, Any], Said, str, str]] = {
    "model": (
        DOWN,
        {"kind": "model"},
        Said(base=BASE),
        "it is a GGUF model, not an adapter",
        "Use the model that it was made from.",
    ),
    "alpha": (DOWN, {"alpha": np.nan}, Said(base=BASE), "its alpha is nan, not a number", MAKE),
    "two alphas": (
        DOWN,
        {},
        Said(base=BASE, alpha=2),
        "it holds its alpha, 6",
        "Leave --alpha out.",
    ),
    "no base": (
        DOWN,
        {},
        Said(),
        "it is a GGUF LoRA, whose names can only be read beside those of its base",
        "Pass its base with --base: the model in transformers' layout, not the GGUF.",
    ),
    "type": (
        DOWN,
        {"adapter": "control"},
        Said(base=BASE),
        "it is a GGUF adapter of the type 'control', not 'lora'",
        PEFT,
    ),
    "architecture": (
        DOWN,
        {"arch": "gpt2"},
        Said(base=BASE),
        "how llama.cpp lays out the architecture 'gpt2' is not known here",
        PEFT,
    ),
    "whole": (
        {"blk.0.attn_norm.weight": ONE[0]},
        {},
        Said(base=BASE),
        "the tensor 'blk.0.attn_norm.weight' is a whole one, not a factor",
        PEFT,
    ),
    "nothing": ({}, {}, Said(base=BASE), "it holds no tensors", PEFT),
    "other base": (
        DOWN,
        {"arch": "qwen2"},
        Said(base=BASE),
        "it is for 'qwen2', made from Qwen2ForCausalLM, and the base is LlamaForCausalLM",
        "Pass the base that it was trained on with --base.",
    ),
    "quantised": (
        DOWN,
        {"small": True},
        Said(base=BASE),
        "the tensor 'blk.0.ffn_down.weight.lora_a' is quantised, Q8_0",
        "Make it again with convert_lora_to_gguf.py --outtype f32.",
    ),
    "big-endian": (
        DOWN,
        {"endian": gguf.GGUFEndian.BIG},
        Said(base=BASE),
        "it is a big-endian GGUF",
        "Make it again with convert_lora_to_gguf.py, without --bigendian.",
    ),
    "no tensor": (
        pair("blk.1.ffn_down.weight"),
        {},
        Said(base=BASE),
        "the base has no tensor for 'blk.1.ffn_down.weight'",
        THEN,
    ),
    "two tensors": (
        DOWN,
        {},
        Said(base=BASE),
        "the base has 2 tensors for 'blk.0.ffn_down.weight'",
        THEN,
    ),
    "experts": (
        pair("blk.0.attn_q.weight", np.ones((2, 4, 32), np.float32)),
        {},
        Said(base=BASE),
        "'blk.0.attn_q.weight' has factors of experts, (2, 4, 32)",
        THEN,
    ),
    "heads": (
        pair("blk.0.attn_q.weight"),
        {},
        Said(base=BaseView(CONFIG, SHAPES)),
        "the base's config.json has no number of heads for 'blk.0.attn_q.weight'",
        THEN,
    ),
    "rows": (
        pair("blk.0.attn_q.weight", b=ONE[:12]),
        {},
        Said(base=BASE),
        "'blk.0.attn_q.weight' has 12 rows for 4 heads",
        THEN,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_words(tmp_path: Path, case: str) -> None:
    """The file and the fault stand in one sentence, the way on in another."""
    tensors, header, said, words, hint = CASES[case]
    path = write(tmp_path / "it.gguf", tensors, **header)

    with pytest.raises(AdregError) as refused:
        convert(path, said)

    assert f"{path}: " in refused.value.sentence
    assert words in refused.value.sentence
    assert hint in refused.value.hint


@pytest.mark.parametrize("cut", [1, 100, 4000])
def test_cut_short(tmp_path: Path, cut: int) -> None:
    """A file without its last bytes is called unreadable, wherever it ends."""
    path = write(tmp_path / "it.gguf", DOWN)
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises(AdregError, match="it is no readable GGUF") as refused:
        convert(path, Said(base=BASE))

    assert "Fetch or make it again." == refused.value.hint


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optional package is named, with how to install it."""
    path = write(tmp_path / "it.gguf", DOWN)
    monkeypatch.setitem(sys.modules, "gguf", None)

    with pytest.raises(
        AdregError, match="reading a GGUF adapter needs the package gguf"
    ) as refused:
        convert(path, Said(base=BASE))

    assert "pip install gguf" == refused.value.hint
