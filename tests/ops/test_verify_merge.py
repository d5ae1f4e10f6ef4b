"""Proving recorded models, of several architectures, against PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import architectures
import factory
import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, OFTConfig, get_peft_model
from safetensors.torch import load_file
from sqlalchemy import update
from transformers import LlamaForSequenceClassification

from adreg.registry import Registry
from adreg.registry.catalog import schema
from adreg.registry.errors import BaseRefused, Damaged, InputRefused, NotFound
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-tied": {"target_modules": ["q_proj", "embed_tokens"]},
    "qwen2": {"target_modules": "all-linear", "bias": "all"},
    "gpt2": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "bert": {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"},
    "resnet": {},
}
TARGETS = {"llama-tied": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}
OTHERS = ["t5", "whisper", "bert_mlm", "clip", "wav2vec2"]


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """Return a registry with a tiny Llama and three adapters; "dora" brings a head too."""
    registry = Registry(home)
    base = factory.make_base(tmp_path / "base")
    registry.add_base(str(base), name="tiny")
    factory.make_adapter(base, tmp_path / "one", seed=1)
    factory.make_adapter(base, tmp_path / "two", seed=2, r=2, use_rslora=True)
    head: dict[str, Any] = {"use_dora": True, "modules_to_save": ["lm_head"]}
    factory.make_adapter(base, tmp_path / "dora", seed=3, **head)
    for name in ("one", "two", "dora"):
        registry.add(tmp_path / name, name=name, base="tiny")
    return registry


def merge(registry: Registry, *adapters: tuple[str, float], **more: Any) -> Path:
    """Merge as "bot" and return the folder."""
    parts = tuple(RecipeAdapter(ref, weight) for ref, weight in adapters)
    output = more.pop("output", None)
    return registry.merge(Recipe(parts, **more), name="bot", output=output).folder


@pytest.mark.parametrize("kind", [*CONFIGS, *OTHERS])
def test_architectures(tmp_path: Path, home: Path, kind: str) -> None:
    """What adreg merges is proven the same, for texts, labels, pictures and sound."""
    if kind in CONFIGS:
        base = factory.make_base(tmp_path / "base", kind)
        one = factory.make_adapter(base, tmp_path / "one", **CONFIGS[kind])
    else:
        base = architectures.make_base(tmp_path / "base", kind)
        one = architectures.make_adapter(base, tmp_path / "one", kind)
    registry = Registry(home)
    merge(registry, (str(one), 1.0), base=str(base), dtype="bfloat16")
    proof = registry.verify_merge("bot")

    assert "same" == proof.verdict
    assert "unmerged" == proof.comparison.way
    assert proof.comparison.effect is not None
    assert proof.comparison.effect.rms > 0.05
    assert 0 < proof.comparison.merged.rms < 0.2 * proof.comparison.effect.rms


def test_a_head_that_the_base_lacks(tmp_path: Path, home: Path) -> None:
    """A language model with an adapter that makes it a classifier is proven as one."""
    base = factory.make_base(tmp_path / "base")
    model = factory.load_base(base)
    headed: Any = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    one = _classifier_adapter(base, tmp_path / "one", model.config, headed)
    registry = Registry(home)
    merge(registry, (str(one), 1.0), base=str(base))
    proof = registry.verify_merge("bot")

    assert ("same", None) == (proof.verdict, proof.comparison.effect)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2"])
def test_a_base_that_torch_saved(tmp_path: Path, home: Path, kind: str) -> None:
    """A base in pytorch_model.bin is read by adreg, and never by torch."""
    base = factory.make_base(tmp_path / "base", kind)
    one = factory.make_adapter(base, tmp_path / "one", target_modules=TARGETS[kind])
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    registry = Registry(home)
    merge(registry, (str(one), 1.0), base=str(base))

    assert "same" == registry.verify_merge("bot").verdict


@pytest.mark.parametrize(
    ("config", "weight", "way"),
    [
        (LoHaConfig(r=4, target_modules=["q_proj", "v_proj"]), 1.0, "unmerged"),
        (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), 0.5, "folded"),
        (OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj"]), 1.0, "unmerged"),
    ],
    ids=["loha", "ia3", "oft"],
)
def test_tuners(tmp_path: Path, home: Path, config: Any, weight: float, way: str) -> None:
    """Kinds of adapters other than LoRA are proven too, in the way that PEFT can weight them."""
    base = factory.make_base(tmp_path / "base")
    wrapped: Any = get_peft_model(factory.load_base(base), config)
    factory.fill_adapter(wrapped, 1)
    wrapped.save_pretrained(str(tmp_path / "one"))
    registry = Registry(home)
    merge(registry, (str(tmp_path / "one"), weight), base=str(base))
    proof = registry.verify_merge("bot")

    assert ("same", way) == (proof.verdict, proof.comparison.way)


def _classifier_adapter(base: Path, out: Path, config: Any, settings: dict[str, Any]) -> Path:
    config.num_labels = 3
    model: Any = LlamaForSequenceClassification.from_pretrained(base, config=config)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], **settings))
    factory.fill_adapter(wrapped, 1)
    wrapped.save_pretrained(str(out))
    return out


@pytest.mark.parametrize(
    ("adapters", "way"),
    [
        ([("one", 0.5), ("two", -1.5)], "unmerged"),
        ([("dora", 1.0)], "unmerged"),
        ([("dora", 0.5), ("two", 1.0)], "folded"),
        ([("dora", 0.5)], "folded"),
    ],
)
def test_weights(registry: Registry, adapters: list[tuple[str, float]], way: str) -> None:
    """PEFT scales what LoRA adds; a delta that is no such sum is folded in by itself."""
    merge(registry, *adapters)
    proof = registry.verify_merge("bot")

    assert ("same", way) == (proof.verdict, proof.comparison.way)
    assert [(f"{name}@1", weight) for name, weight in adapters] == list(proof.adapters)


def test_changed_weights_are_found(registry: Registry) -> None:
    """One tensor of the model that is the base's again is a difference."""
    folder = merge(registry, ("one", 1.0))
    base = factory.load_base(registry.base("tiny").record.facts.location).state_dict()
    name = "model.layers.1.self_attn.q_proj.weight"
    factory.edit_tensors(folder, lambda t: t.update({name: base[name]}), "model.safetensors")

    assert "differs" == registry.verify_merge("bot").verdict


def test_nothing_is_written(registry: Registry, home: Path) -> None:
    """To verify is to look."""
    merge(registry, ("one", 1.0))
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    registry.verify_merge("bot")

    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*")}


def test_renamed_adapter_and_moved_base(registry: Registry, tmp_path: Path) -> None:
    """An adapter is found by its bytes, a base where --base says; the inputs' seed changes them."""
    merge(registry, ("one", 1.0))
    registry.rename("one", "uno")
    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(BaseRefused, match="gone"):
        registry.verify_merge("bot")
    proofs = [
        registry.verify_merge("bot", base=str(tmp_path / "moved"), seed=seed) for seed in (0, 9)
    ]

    assert ["same", "same"] == [proof.verdict for proof in proofs]
    assert (("uno@1", 1.0),) == proofs[0].adapters
    assert proofs[0].comparison.spread != proofs[1].comparison.spread


def test_another_base(registry: Registry, tmp_path: Path) -> None:
    """A base with other tensors than the model's is refused before anything is loaded."""
    merge(registry, ("one", 1.0))
    factory.make_base(tmp_path / "gpt2", "gpt2")
    with pytest.raises(BaseRefused, match="other tensors than tiny"):
        registry.verify_merge("bot", base=str(tmp_path / "gpt2"))


def test_what_cannot_be_proven(registry: Registry, tmp_path: Path) -> None:
    """Removed and changed inputs, a folder that is gone, and what is no model, are refused."""
    folder = merge(registry, (str(tmp_path / "two"), 1.0), base="tiny", output=tmp_path / "bot")
    registry.remove("two")
    factory.edit_tensors(tmp_path / "two", lambda t: [t[key].mul_(2) for key in t])
    with pytest.raises(Damaged, match="no longer the adapter"):
        registry.verify_merge("bot")
    merge(registry, ("one", 1.0), base="tiny")
    registry.remove("one", force=True)
    with pytest.raises(NotFound, match="one@1"):
        registry.verify_merge("bot")
    shutil.rmtree(folder)
    with pytest.raises(Damaged, match="is gone"):
        registry.verify_merge("bot@1")
    with pytest.raises(NotFound):
        registry.verify_merge("dora")


def test_other_methods(registry: Registry) -> None:
    """What is no weighted sum of deltas is refused by its name, to prove and to take apart."""
    merge(registry, ("one", 1.0))
    with registry._context.catalog.write() as connection:
        connection.execute(update(schema.model).values(method="ties"))
        connection.commit()
    with pytest.raises(InputRefused, match="combined by ties, which PEFT cannot do"):
        registry.verify_merge("bot")
    with pytest.raises(InputRefused, match="combined by ties, which is no sum of deltas"):
        registry.unmerge("bot", ["one"])


def test_prompts(registry: Registry) -> None:
    """Each prompt is an input of its own, and an empty one is refused."""
    merge(registry, ("one", 1.0))

    assert 2 == registry.verify_merge("bot", prompts=["the cat", "a dog"]).comparison.inputs
    with pytest.raises(InputRefused, match="no tokens"):
        registry.verify_merge("bot", prompts=[""])


def test_the_generator_is_left_alone(registry: Registry) -> None:
    """The state of torch's generator is what it was before."""
    merge(registry, ("one", 1.0))
    before = torch.random.get_rng_state()
    registry.verify_merge("bot")

    assert torch.equal(before, torch.random.get_rng_state())
