"""A GGUF LoRA, written here as llama.cpp's converter writes it, merges as the PEFT one does."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from adreg.registry import Registry
from adreg.registry.errors import (
    AdapterRefused,
    MissingPackage,
    NotAnAdapter,
    TensorFileBroken,
)
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.down_proj": "ffn_down",
}
Arrays = dict[str, NDArray[Any]]


def llama_cpp(peft: Arrays, *, permuted: bool, heads: int = 4, key_heads: int = 2) -> Arrays:
    """Return a PEFT adapter's factors as convert_lora_to_gguf.py lays them out.

    Rows of q and k are walked one by one, with no reshaping in common with adreg's code.
    """
    result: Arrays = {}
    for key, value in peft.items():
        module, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        if module == "model.embed_tokens":
            is_a = part == "embedding_A"
            result[f"token_embd.weight.lora_{'a' if is_a else 'b'}"] = value.T if is_a else value
            continue
        _, _, layer, leaf = module.split(".", 3)
        name = NAMES[leaf]
        count = {"attn_q": heads, "attn_k": key_heads}.get(name)
        if permuted and count and part == "B.weight":
            size = len(value) // count
            places = [divmod(row, size) for row in range(len(value))]
            moved = [
                head * size + 2 * (at % (size // 2)) + at // (size // 2) for head, at in places
            ]
            laid_out = np.empty_like(value)
            laid_out[moved] = value
        else:
            laid_out = value
        result[f"blk.{layer}.{name}.weight.lora_{part[0].lower()}"] = laid_out
    return result


def write(
    path: Path,
    tensors: Arrays,
    arch: str,
    *,
    alpha: float = 6.0,
    kind: str = "adapter",
    tokens: tuple[int, ...] = (),
) -> Path:
    """Write a GGUF file of these tensors; ``tokens`` make it an activated LoRA."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(kind)
    if tokens:
        writer.add_array("adapter.alora.invocation_tokens", list(tokens))
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, value in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(reference: str, base: Path, output: Path) -> Arrays:
    """Return the tensors of a merge."""
    Registry().merge(Recipe((RecipeAdapter(reference),), base=str(base)), output=output)
    return load_file(output / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "arch", "is_permuted"), [("llama", "llama", True), ("qwen2", "qwen2", False)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_round_trip(
    *,
    home: Path,
    tmp_path: Path,
    bases: Callable[[str], Path],
    kind: str,
    arch: str,
    is_permuted: bool,
    dtype: type,
) -> None:
    """Merged from PEFT's folder and from the GGUF made of it, every tensor is the same."""
    del home
    base = bases(kind)
    targets = [*(name.rpartition(".")[2] for name in NAMES), "embed_tokens"]
    peft = factory.make_adapter(base, tmp_path / "peft", r=4, lora_alpha=6, target_modules=targets)
    factory.edit_tensors(
        peft,
        lambda tensors: (
            [tensors.pop(key) for key in list(tensors) if "base_layer" in key]
            + [tensors.update({k: v.to(torch_of(dtype)).float()}) for k, v in tensors.items()]
        ),
    )
    tensors = load_file(peft / "adapter_model.safetensors")
    laid_out = llama_cpp(tensors, permuted=is_permuted)
    path = write(tmp_path / "it.gguf", {n: v.astype(dtype) for n, v in laid_out.items()}, arch)

    added = Registry().add(path, base=str(base))

    assert "a GGUF LoRA of llama.cpp" == added.converted
    Registry().add(peft, name="peft", base=str(base))
    expected = merged("peft", base, tmp_path / "one")
    found = merged("it", base, tmp_path / "two")
    before = load_file(base / "model.safetensors")
    assert expected.keys() == found.keys()
    changed = [name for name in before if not np.array_equal(before[name], expected[name])]
    assert len(NAMES) * factory.LAYERS + 1 == len(changed)
    for name, value in expected.items():
        assert np.array_equal(value, found[name]), name


def torch_of(dtype: type) -> Any:
    """Return torch's name of a numpy type."""
    return torch.float16 if dtype is np.float16 else torch.float32


def test_alpha_of_zero_is_scale_one(
    tmp_path: Path,
    bases: Callable[[str], Path],
    check: Callable[..., Any],
    random: Callable[..., Any],
) -> None:
    """Where alpha is 0 llama.cpp scales by 1, and so does adreg."""
    a, b = random(4, 48), random(32, 4)
    name = "blk.1.ffn_down.weight"
    path = write(tmp_path / "it.gguf", {f"{name}.lora_a": a, f"{name}.lora_b": b}, "llama", alpha=0)

    check(
        path,
        bases("llama"),
        {"model.layers.1.mlp.down_proj.weight": b.astype(np.float64) @ a.astype(np.float64)},
    )


@pytest.mark.parametrize(
    ("arch", "name", "base", "words"),
    [
        ("llama", "blk.7.ffn_down.weight", "llama", "the base has no tensor for 'blk.7.ffn_down"),
        ("llama", "blk.0.ffn_down.weight", "qwen2", "and the base is Qwen2ForCausalLM"),
        ("llama", "blk.0.ffn_down.weight", None, "only be read beside those of its base"),
        ("gpt2", "blk.0.ffn_down.weight", "gpt2", "lays out the architecture 'gpt2' is not known"),
    ],
)
def test_refusals(
    *,
    home: Path,
    tmp_path: Path,
    bases: Callable[[str], Path],
    arch: str,
    name: str,
    base: str | None,
    words: str,
) -> None:
    """What it was made for must be known, named and at hand."""
    one = np.ones((4, 48), np.float32)
    tensors = {f"{name}.lora_a": one, f"{name}.lora_b": np.ones((32, 4), np.float32)}
    path = write(tmp_path / "it.gguf", tensors, arch)

    with pytest.raises(AdapterRefused, match=words) as refused:
        Registry().add(path, base=None if base is None else str(bases(base)))

    assert refused.value.hint
    assert not [file for file in home.rglob("*.safetensors") if file.is_file()]


def test_no_lora_of_gguf(
    home: Path, tmp_path: Path, bases: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GGUF model, whole tensors, a second alpha and a cut file are refused by name."""
    del home
    base = str(bases("llama"))
    one = np.ones((32, 32), np.float32)
    model = write(tmp_path / "model.gguf", {"blk.0.attn_q.weight": one}, "llama", kind="model")
    with pytest.raises(NotAnAdapter, match="a GGUF model, not an adapter"):
        Registry().add(model, base=base)
    whole = write(tmp_path / "whole.gguf", {"blk.0.attn_norm.weight": one[0]}, "llama")
    with pytest.raises(AdapterRefused, match=r"'blk\.0\.attn_norm\.weight' is a whole one"):
        Registry().add(whole, base=base)
    factors = {"blk.0.attn_v.weight.lora_a": one, "blk.0.attn_v.weight.lora_b": one}
    path = write(tmp_path / "it.gguf", factors, "llama")
    with pytest.raises(AdapterRefused, match="it holds its alpha, 6"):
        Registry().add(path, base=base, alpha=4.0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TensorFileBroken):
        Registry().add(path, base=base)
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)
    with pytest.raises(TensorFileBroken, match="no readable GGUF"):
        Registry().add(path, base=base)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingPackage, match="reading a GGUF adapter needs the package gguf"):
        Registry().add(path, base=base)


def test_unknown_number_of_heads(tmp_path: Path, home: Path, bases: Callable[[str], Path]) -> None:
    """Without the number of heads rows of q are not left as they are, but refused."""
    del home
    base = shutil.copytree(bases("llama"), tmp_path / "base")
    factory.edit_config(base, "num_attention_heads")
    one = np.ones((32, 32), np.float32)
    factors = {"blk.0.attn_q.weight.lora_a": one, "blk.0.attn_q.weight.lora_b": one}
    path = write(tmp_path / "it.gguf", factors, "llama")

    with pytest.raises(AdapterRefused, match="no number of heads"):
        Registry().add(path, base=str(base))


def test_kinds_of_gguf_lora_that_are_refused(
    tmp_path: Path, home: Path, bases: Callable[[str], Path]
) -> None:
    """An activated LoRA, and one whose factors are quantised, are refused by name."""
    del home
    one = np.ones((32, 32), np.float32)
    factors = {"blk.0.attn_v.weight.lora_a": one, "blk.0.attn_v.weight.lora_b": one}
    path = write(tmp_path / "activated.gguf", factors, "llama", tokens=(3, 4))
    with pytest.raises(AdapterRefused, match="activated LoRA applies from a token on"):
        Registry().add(path, base=str(bases("llama")))

    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 6.0)
    for name, value in factors.items():
        small = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, small, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(AdapterRefused, match="is quantised, Q8_0"):
        Registry().add(tmp_path / "small.gguf", base=str(bases("llama")))
