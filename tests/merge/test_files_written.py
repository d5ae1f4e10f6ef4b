"""The files of a merged checkpoint: what is the base's stays so, bit for bit, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.recipe import Recipe
from adreg.registry.ops.merge import Merged

TOUCHED = 6
"""q, v and down of two layers."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base with buffers of other types, a card, a licence, code and hidden files."""
    folder = factory.make_base(tmp_path_factory.mktemp("files") / "base", shard_size=20_000)
    last = max(folder.glob("*.safetensors"))

    def put(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.steps"] = torch.arange(7)
        tensors["model.mask"] = torch.tensor([[True, False]])
        tensors["model.bytes"] = torch.arange(5, dtype=torch.uint8)
        tensors["model.inverse"] = torch.rand(3, dtype=torch.float32)
        tensors["model.limit"] = torch.tensor([float("-inf"), float("nan"), -0.0]).bfloat16()
        tensors["model.scalar"] = torch.tensor(2.5)
        tensors["model.none"] = torch.zeros(0, 4)

    factory.edit_tensors(folder, put, last.name)
    index = folder / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"] |= dict.fromkeys(load_file(last), last.name)
    index.write_text(json.dumps(value))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# The base's card")
    (folder / "LICENSE").write_text("MIT")
    (folder / "modeling_x.py").write_text("raise SystemExit('run')")
    (folder / ".hidden").write_text("x")
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    """Return an adapter for it."""
    return factory.make_adapter(base, base.parent / "adapter")


def merge(home: Path, base: Path, adapter: Path, out: Path, **more: Any) -> Merged:
    """Merge one adapter with what else a recipe says."""
    recipe = Recipe.from_dict({"base": str(base), "adapters": [str(adapter)], **more})
    return Registry(home).merge(recipe, output=out, name="merged")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    return {n: t for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits, NaN and -0 included."""
    return (
        one.dtype == two.dtype
        and one.shape == two.shape
        and torch.equal(one.reshape(-1).view(torch.uint8), two.reshape(-1).view(torch.uint8))
    )


def test_untouched_tensors(tmp_path: Path, home: Path, base: Path, adapter: Path) -> None:
    """All but the targets are the base's bits, whatever their type, in the base's own shards."""
    merged = merge(home, base, adapter, tmp_path / "out")
    before, after = tensors(base), tensors(tmp_path / "out")
    changed = {name for name in before if not same_bits(before[name], after[name])}

    assert set(before) == set(after)
    assert changed == {tensor.name for tensor in merged.tensors if tensor.action == "merge"}
    assert TOUCHED == len(changed)
    assert {path.name for path in base.glob("*.safetensors")} == {
        path.name for path in (tmp_path / "out").glob("*.safetensors")
    }
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(path, "pt") as ours, safe_open(base / path.name, "pt") as theirs:
            assert set(theirs.keys()) == set(ours.keys())
            assert {"format": "pt"} == ours.metadata()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_another_dtype(tmp_path: Path, home: Path, base: Path, adapter: Path, dtype: str) -> None:
    """Float tensors are cast as torch casts them, others stay, and config.json says the dtype."""
    merged = merge(home, base, adapter, tmp_path / "out", dtype=dtype)
    before, after = tensors(base), tensors(tmp_path / "out")
    target = getattr(torch, dtype)
    for tensor in merged.tensors:
        wanted = before[tensor.name]
        wanted = wanted.to(target) if wanted.is_floating_point() else wanted
        assert wanted.dtype == after[tensor.name].dtype
        if tensor.action != "merge":
            assert torch.equal(wanted.isnan(), after[tensor.name].isnan())
            assert torch.equal(wanted.nan_to_num(), after[tensor.name].nan_to_num())

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert dtype == config["dtype"]
    assert (
        target
        == transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype
    )


def test_shards(tmp_path: Path, home: Path, base: Path, adapter: Path) -> None:
    """Other shards hold the same tensors, under names and with an index that transformers reads."""
    merge(home, base, adapter, tmp_path / "own")
    merge(home, base, adapter, tmp_path / "one", max_shard_size="1GB")
    merge(home, base, adapter, tmp_path / "many", max_shard_size="10KB")
    own = tensors(tmp_path / "own")
    for name in ("one", "many"):
        other = tensors(tmp_path / name)
        assert set(own) == set(other)
        assert all(same_bits(own[tensor], other[tensor]) for tensor in own)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))

    assert ["model.safetensors"] == [p.name for p in (tmp_path / "one").glob("*.safetensors*")]
    assert files == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, 1 + len(files))
    ]
    assert sum(t.nbytes for t in own.values()) == index["metadata"]["total_size"]
    assert {n: f for f in files for n in load_file(tmp_path / "many" / f)} == index["weight_map"]
    for file in files:
        held = load_file(tmp_path / "many" / file)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= 10_000
    states = [
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("own", "many")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_files_beside_the_weights(tmp_path: Path, home: Path, base: Path, adapter: Path) -> None:
    """Tokenizer, generation settings, licence and config are the base's; card and code are not."""
    merged = merge(home, base, adapter, tmp_path / "out")
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    taken = {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "LICENSE",
    }

    assert taken <= names
    for name in taken:
        assert (base / name).read_bytes() == (out / name).read_bytes()
    assert {".hidden", "training_args.bin", "modeling_x.py"}.isdisjoint(names)
    assert "The base's card" not in (out / "README.md").read_text()
    assert any("modeling_x.py" in remark for remark in merged.remarks)
    assert names == {file.name for file in merged.files}
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert "<s>user: hi</s>" in transformers.AutoTokenizer.from_pretrained(out).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )


def test_no_temporary_names(tmp_path: Path, home: Path, base: Path, adapter: Path) -> None:
    """Nothing in the written texts names this machine's folders or the time: runs are equal."""
    merge(home, base, adapter, tmp_path / "first")
    merge(home, base, adapter, tmp_path / "second")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    )

    assert first == second
    assert str(tmp_path).encode() not in b"".join(first.values())


def test_a_double_is_rounded_once(tmp_path: Path, home: Path, base: Path, adapter: Path) -> None:
    """A float64 tensor is cast to float16 directly, and merged with all its digits kept."""
    wide = tmp_path / "wide"
    factory.make_base(wide, dtype=torch.float64)
    tie = torch.tensor([1 + 2**-11 + 2**-40, 1e300, 1.0], dtype=torch.float64)
    extra = {"model.tie": tie[:1].clone(), "model.wide": tie}
    factory.edit_tensors(wide, lambda t: t.update(extra), "model.safetensors")
    merge(home, wide, adapter, tmp_path / "kept")
    before, after = tensors(wide), tensors(tmp_path / "kept")
    name = "model.layers.0.self_attn.q_proj.weight"
    factors = load_file(adapter / "adapter_model.safetensors")
    a, b = (
        factors[f"base_model.model.{name.removesuffix('.weight')}.lora_{part}.weight"].double()
        for part in "AB"
    )

    assert same_bits(before["model.wide"], after["model.wide"])
    assert torch.allclose(before[name] + 2 * b @ a, after[name], rtol=1e-12, atol=1e-14)

    factory.edit_tensors(wide, lambda t: t.pop("model.wide"), "model.safetensors")
    merge(home, wide, adapter, tmp_path / "cast", dtype="float16")
    # torch itself goes by way of float32 here, and gives 1.
    assert [1 + 2**-10] == tensors(tmp_path / "cast")["model.tie"].tolist()
    del base


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_sum_that_overflows(
    tmp_path: Path, home: Path, base: Path, adapter: Path, dtype: str
) -> None:
    """A sum beyond float32 is refused without a warning, though the output could hold it."""
    recipe = Recipe.from_dict({"base": str(base), "adapters": [f"{adapter}=1e39"], "dtype": dtype})
    with pytest.raises(MergeRefused, match="values that are not finite"):
        Registry(home).merge(recipe, output=tmp_path / "out")

    assert ["adreg-home"] == [path.name for path in tmp_path.iterdir()]
