"""Bases in files of torch.save: the same base, and the same merge, as their safetensors."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import factory
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.bases.base import read_base
from adreg.registry.errors import AdregError, BaseRefused, PickleRefused, TensorFileBroken
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.tensors.checkpoint import PICKLED, PICKLED_INDEX

ONE, TWO = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


def pickled(base: Path, out: Path, *, shards: bool = False, new: bool = True) -> Path:
    """Save a base of safetensors as transformers 4 saved it: what its state_dict holds."""
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    state = dict(factory.load_base(base).state_dict())
    names = sorted(state)
    parts = {PICKLED: names}
    if shards:
        # Tied weights lie in one shard.
        half = [name for name in names if "layers.1." in name or "layer.1." in name]
        parts = {ONE: [name for name in names if name not in half], TWO: half}
        weight_map = {name: file for file, held in parts.items() for name in held}
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (out / PICKLED_INDEX).write_text(json.dumps(index))
    for file, held in parts.items():
        part = {name: state[name] for name in held}
        torch.save(part, out / file, _use_new_zipfile_serialization=new)
    return out


def merge(home: Path, base: Path, adapter: Path, out: Path) -> Path:
    """Merge one adapter, the weights into one file; return the folder."""
    recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(base))
    Registry(home).merge(recipe, output=out, name=out.name)
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of all safetensors files of a folder."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("shards", [False, True], ids=["one", "shards"])
@pytest.mark.parametrize("kind", ["llama", "bert", "resnet"])
def test_the_same_merge(tmp_path: Path, home: Path, kind: str, *, shards: bool, new: bool) -> None:
    """A base of torch.save gives bit for bit the tensors that its safetensors give."""
    base = factory.make_base(tmp_path / "base", kind)
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    other = pickled(base, tmp_path / "other", shards=shards and kind != "resnet", new=new)

    expected = tensors(merge(home, base, adapter, tmp_path / "expected"))
    actual = tensors(merge(home, other, adapter, tmp_path / "actual"))

    assert read_base(base).layout_digest == read_base(other).layout_digest
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert any(not torch.equal(actual[n], t) for n, t in tensors(base).items())
    many = shards and kind != "resnet"
    assert (2 if many else 1) == len(list((tmp_path / "actual").glob("*.safetensors")))
    assert many == (tmp_path / "actual" / "model.safetensors.index.json").exists()
    assert not list((tmp_path / "actual").glob("*.bin*"))


@pytest.mark.parametrize("target", ["q_proj", "embed_tokens", "lm_head"])
@pytest.mark.parametrize("shards", [False, True], ids=["one", "shards"])
def test_tied(tmp_path: Path, home: Path, target: str, *, shards: bool) -> None:
    """A tied base that holds its head too is merged to what PEFT answers, whatever is targeted."""
    base = factory.make_base(tmp_path / "base", "llama-tied", dtype=torch.float32)
    adapter = factory.make_adapter(base, tmp_path / "adapter", target_modules=[target])
    other = pickled(base, tmp_path / "other", shards=shards)
    read = read_base(other)
    inputs = factory.example_inputs("llama-tied")

    out = merge(home, other, adapter, tmp_path / "out")

    assert read.tied
    head, embedding = read.layout["lm_head.weight"], read.layout["model.embed_tokens.weight"]
    assert (head.start, head.end) == (embedding.start, embedding.end)
    with torch.no_grad():
        ours = factory.load_base(out)(**inputs).logits
        theirs = factory.load_adapter(base, adapter)(**inputs).logits
    assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def test_safetensors_win(tmp_path: Path) -> None:
    """Where both are there the safetensors are read, and the pickle is not even opened."""
    base = factory.make_base(tmp_path / "base")
    before = read_base(base)
    (base / PICKLED).write_bytes(b"cos\nsystem\n")
    (base / PICKLED_INDEX).write_text("{")

    assert before == read_base(base)


def test_what_a_merge_takes_over(tmp_path: Path) -> None:
    """Files of torch.save are weights, never side files of a merged checkpoint."""
    base = factory.make_base(tmp_path / "base")
    other = pickled(base, tmp_path / "other", shards=True)
    (other / "optimizer.bin").write_bytes(b"x")

    assert read_base(base).side_files == read_base(other).side_files


def refusal(folder: Path) -> AdregError:
    """Return the error of a base."""
    with pytest.raises(AdregError) as caught:
        read_base(folder)
    return caught.value


class Runs:
    """Pickles as a call of os.system."""

    def __reduce__(self) -> tuple[object, ...]:
        """Return what the pickle calls."""
        return os.system, ("touch was-run",)


def test_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base whose pickle would run code is refused, and does not."""
    monkeypatch.chdir(tmp_path)
    base = factory.make_base(tmp_path / "base")
    other = pickled(base, tmp_path / "other")
    torch.save({"a": torch.ones(2), "b": Runs()}, other / PICKLED)

    error = refusal(other)

    assert isinstance(error, PickleRefused)
    assert "posix.system, which is code" in str(error)
    assert not (tmp_path / "was-run").exists()


def test_shards_that_disagree(tmp_path: Path) -> None:
    """The index of .bin shards is held against them in both directions."""
    base = factory.make_base(tmp_path / "base")
    other = pickled(base, tmp_path / "other", shards=True)
    index = json.loads((other / PICKLED_INDEX).read_text())
    weight_map = index["weight_map"]

    def refused(changed: object) -> str:
        (other / PICKLED_INDEX).write_text(json.dumps({"weight_map": changed}))
        return str(refusal(other))

    name = next(iter(weight_map))
    assert "holds" in refused({k: v for k, v in weight_map.items() if k != name})
    assert "does not hold 'x'" in refused({**weight_map, "x": ONE})
    assert "not a plain file name" in refused({**weight_map, name: f"../other/{ONE}"})
    assert "not a plain file name" in refused({**weight_map, name: "model.safetensors"})
    assert "has no weight_map" in refused({})
    missing = {**weight_map, name: "pytorch_model-00003-of-00002.bin"}
    assert "pytorch_model-00003-of-00002.bin is missing" in refused(missing)


def test_one_file_and_shards(tmp_path: Path) -> None:
    """With one .bin file and .bin shards nobody knows which is the model."""
    base = factory.make_base(tmp_path / "base")
    other = pickled(base, tmp_path / "other", shards=True)
    shutil.copy(other / ONE, other / PICKLED)

    error = refusal(other)

    assert isinstance(error, BaseRefused)
    assert f"holds both {PICKLED} and {PICKLED_INDEX}" in str(error)


def test_no_weights_in_it(tmp_path: Path) -> None:
    """A pointer, a page and an empty file in the place of weights are called so."""
    other = pickled(factory.make_base(tmp_path / "base"), tmp_path / "other")
    for data, words in (
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<html>", "a web page"),
        (b"", "it is empty"),
    ):
        (other / PICKLED).write_bytes(data)
        error = refusal(other)
        assert isinstance(error, TensorFileBroken)
        assert words in str(error)


def test_an_adapter_with_a_pickle(tmp_path: Path) -> None:
    """A folder with an adapter's configuration and only a pickle is an adapter, not a base."""
    other = pickled(factory.make_base(tmp_path / "base"), tmp_path / "other")
    (other / "adapter_config.json").write_text("{}")

    assert "it is an adapter, not a base" in str(refusal(other))
