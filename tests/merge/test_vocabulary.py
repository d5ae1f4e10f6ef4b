"""Adapters of another vocabulary: merged, the checkpoint is what PEFT is on a resized base."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import architectures
import factory
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import AdregError, Incompatible, MergeRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

LARGER, SMALLER = factory.VOCABULARY + 5, factory.VOCABULARY - 7
QUIET = pytest.mark.filterwarnings("ignore")

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "saved both": ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}, LARGER),
    "fewer rows": ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}, SMALLER),
    "not trained": ("llama", {}, LARGER),
    "LoRA on both": ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}, LARGER),
    "DoRA on both": (
        "llama",
        {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
        LARGER,
    ),
    "LoRA on both, fewer": ("llama", {"target_modules": ["embed_tokens", "lm_head"]}, SMALLER),
    "new rows": ("llama", {"trainable_token_indices": [3, LARGER - 1]}, LARGER),
    "tied, not trained": ("llama-tied", {}, LARGER),
    "tied, embedding": ("llama-tied", {"target_modules": ["embed_tokens", "q_proj"]}, LARGER),
    "tied, head": ("llama-tied", {"target_modules": ["lm_head", "q_proj"]}, LARGER),
    "tied, saved embedding": ("llama-tied", {"modules_to_save": ["embed_tokens"]}, LARGER),
    "tied, LoRA on both": ("llama-tied", {"target_modules": ["embed_tokens", "lm_head"]}, LARGER),
    "tied, new rows": ("llama-tied", {"trainable_token_indices": [3, LARGER - 1]}, LARGER),
    "gpt2": ("gpt2", {"target_modules": ["wte", "c_attn"]}, LARGER),
}


def train(base: Path, adapter: Path, tokens: int, **config: Any) -> PeftModel:
    """Save an adapter of a base that was resized first; return the model that it is on."""
    model = factory.load_base(base, torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.resize_token_embeddings(tokens)
        config = {"target_modules": ["q_proj"], "r": 4, "lora_alpha": 8, **config}
        wrapped: PeftModel = get_peft_model(model, LoraConfig(**config))
    factory.fill_adapter(wrapped, 1)
    wrapped.save_pretrained(str(adapter))
    wrapped.train(mode=False)
    return wrapped


def merge(home: Path, base: Path, *adapters: Path, output: Path, **weights: float) -> Any:
    """Merge adapters that lie in folders."""
    given = tuple(RecipeAdapter(str(one), weights.get(one.name, 1.0)) for one in adapters)
    return Registry(home).merge(Recipe(given, base=str(base)), output=output, name="merged")


@QUIET
@pytest.mark.parametrize("case", CASES)
def test_the_merged_model_answers_as_peft_on_the_resized_base(
    tmp_path: Path, home: Path, case: str
) -> None:
    """Logits, new tokens among them, are PEFT's unmerged ones, and vocab_size follows the rows."""
    kind, config, tokens = CASES[case]
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    factory.make_base(base, kind, dtype=torch.float32)
    trained = train(base, adapter, tokens, **config)
    inputs = {"input_ids": torch.tensor([[3, 9, tokens - 1, 41, tokens - 2, 5]])}

    merge(home, base, adapter, output=out)

    model: Any = factory.load_base(out)
    with torch.no_grad():
        ours, theirs = model.double()(**inputs).logits, trained.double()(**inputs).logits
    assert ours.shape[-1] == tokens
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == tokens
    assert model.get_input_embeddings().weight.shape[0] == tokens


@QUIET
def test_the_resized_matrices_are_those_of_a_float64_merge(tmp_path: Path, home: Path) -> None:
    """W0 is the matrix that the adapter brings: each element is W0 + s B A, rounded once."""
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    factory.make_base(base, "llama", dtype=torch.bfloat16)
    train(base, adapter, LARGER, target_modules=["embed_tokens", "lm_head"])

    merge(home, base, adapter, output=out)

    saved = {
        key.removeprefix("base_model.model."): tensor.double()
        for key, tensor in load_file(adapter / "adapter_model.safetensors").items()
    }
    head = saved["lm_head.lora_B.weight"] @ saved["lm_head.lora_A.weight"]
    rows = (
        saved["model.embed_tokens.lora_embedding_B"] @ saved["model.embed_tokens.lora_embedding_A"]
    )
    exact = {
        "lm_head.weight": saved["lm_head.base_layer.weight"] + 2 * head,
        "model.embed_tokens.weight": saved["model.embed_tokens.base_layer.weight"] + 2 * rows.T,
    }
    ours, before = load_file(out / "model.safetensors"), load_file(base / "model.safetensors")
    for name, tensor in ours.items():
        if name in exact:
            assert tensor.dtype == torch.bfloat16
            apart = (tensor != exact[name].to(torch.bfloat16)).double().mean()
            assert apart < 1e-3, name  # float32 sums near the middle between two bfloat16
        else:
            assert torch.equal(tensor, before[name]), name


FAULTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "one side": (
        "llama",
        {"target_modules": ["embed_tokens"]},
        "-",
        rf"'model.embed_tokens.weight' with {LARGER} rows and leaves 'lm_head.weight' at 96",
    ),
    "one side saved": (
        "llama",
        {"modules_to_save": ["lm_head"]},
        "embed_tokens",
        rf"'lm_head.weight' with {LARGER} rows and leaves 'model.embed_tokens.weight' at 96",
    ),
    "no matrix": (
        "llama",
        {"target_modules": ["embed_tokens", "lm_head"]},
        "base_layer",
        rf"for a vocabulary of {LARGER}, the base's 'lm_head.weight' has 96, .*embedding_layers=T",
    ),
    "no matrix, tied": (
        "llama-tied",
        {"target_modules": ["embed_tokens"]},
        "base_layer",
        rf"is for a vocabulary of {LARGER}, the base's 'model.embed_tokens.weight' has 96",
    ),
    "a row beyond": (
        "llama",
        {"trainable_token_indices": [LARGER - 1]},
        "base_layer|lm_head",
        rf"the row of token {LARGER - 1}, the base's 'model.embed_tokens.weight' has 96 rows",
    ),
    "a tied head left behind": (
        "llama-tied",
        {"modules_to_save": ["embed_tokens"]},
        "lm_head",
        rf"has {LARGER} rows and 'lm_head.weight', which was tied to it and not trained with it",
    ),
}
"""Kind of base, LoraConfig's arguments, what is left out of the file, words of the refusal."""


@QUIET
@pytest.mark.parametrize("case", FAULTS)
def test_half_a_vocabulary_is_refused_with_both_sizes(
    tmp_path: Path, home: Path, case: str
) -> None:
    """A vocabulary that does not come whole is refused; the message names both sizes."""
    kind, config, left_out, words = FAULTS[case]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    factory.make_base(base, kind)
    train(base, adapter, LARGER, **config)
    factory.edit_tensors(
        adapter,
        lambda tensors: [tensors.pop(key) for key in list(tensors) if re.search(left_out, key)],
    )

    with pytest.raises(Incompatible, match=words):
        merge(home, base, adapter, output=tmp_path / "out")

    assert not (tmp_path / "out").exists()


@QUIET
def test_a_resized_vocabulary_cannot_be_weighted_or_shared(tmp_path: Path, home: Path) -> None:
    """Half of a larger matrix minus a smaller one is no number: it is refused by name."""
    base, adapter, other = tmp_path / "base", tmp_path / "adapter", tmp_path / "other"
    factory.make_base(base, "llama")
    train(base, adapter, LARGER, modules_to_save=["embed_tokens", "lm_head"])
    factory.make_adapter(base, other, target_modules=["embed_tokens"])

    def refused(*adapters: Path, **weights: float) -> None:
        with pytest.raises(MergeRefused, match="cannot be weighted or come from two"):
            merge(home, base, *adapters, output=tmp_path / "out", **weights)

    refused(adapter, adapter=0.5)
    refused(adapter, other)
    refused(other, adapter)
    assert not (tmp_path / "out").exists()


@QUIET
def test_another_adapter_beside_a_resized_vocabulary_keeps_its_weight(
    tmp_path: Path, home: Path
) -> None:
    """Attention of a second adapter is added with its weight; the vocabulary is the first one's."""
    base, adapter, other = tmp_path / "base", tmp_path / "adapter", tmp_path / "other"
    factory.make_base(base, "llama", dtype=torch.float32)
    train(base, adapter, LARGER, modules_to_save=["embed_tokens", "lm_head"])
    factory.make_adapter(base, other, target_modules=["k_proj"])

    merge(home, base, adapter, other, output=tmp_path / "out", other=0.5)

    ours = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(base / "model.safetensors")
    tensors = load_file(other / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.k_proj"
    b, a = (tensors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "BA")
    assert torch.allclose(
        ours[f"{name}.weight"].double(), before[f"{name}.weight"].double() + b @ a, atol=1e-6
    )
    assert ours["lm_head.weight"].shape == (LARGER, factory.HIDDEN)


@QUIET
def test_a_matrix_of_another_width_is_no_other_vocabulary(tmp_path: Path, home: Path) -> None:
    """Other differences of shape stay what they were: not a vocabulary, so incompatible."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    factory.make_base(base, "llama")
    train(base, adapter, factory.VOCABULARY, modules_to_save=["embed_tokens"])
    key = "base_model.model.model.embed_tokens.weight"

    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = tensors[key][:, :8].contiguous()

    factory.edit_tensors(adapter, narrow)

    with pytest.raises(AdregError, match=r"has the shape \(96, 8\)"):
        merge(home, base, adapter, output=tmp_path / "out")


@QUIET
def test_a_model_of_two_configurations_says_it_in_the_inner_one(tmp_path: Path, home: Path) -> None:
    """A vision-language model's vocab_size stands in its text_config; it loads, and answers."""
    base = architectures.make_base(tmp_path / "base", "llava")
    model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(base)
    tokens = model.config.text_config.vocab_size + 3
    model.resize_token_embeddings(tokens)
    wrapped: Any = get_peft_model(
        model,
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    )
    factory.fill_adapter(wrapped, 1)
    wrapped.save_pretrained(str(tmp_path / "adapter"))
    wrapped.train(mode=False)
    inputs = {"input_ids": torch.tensor([[3, 9, tokens - 1, 7]])}

    merge(home, base, tmp_path / "adapter", output=tmp_path / "out")

    loaded: Any = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    loaded.train(mode=False)
    with torch.no_grad():
        ours, theirs = loaded(**inputs).logits, wrapped(**inputs).logits
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == tokens
    assert "vocab_size" not in config or config["vocab_size"] == tokens


@QUIET
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_shards_and_dtypes_follow_the_larger_vocabulary(
    tmp_path: Path, home: Path, dtype: str | None
) -> None:
    """Cut anew into shards, the index counts the larger matrices in the dtype that is written."""
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    factory.make_base(base, "llama")
    train(base, adapter, LARGER, modules_to_save=["embed_tokens", "lm_head"])

    Registry(home).merge(
        Recipe((RecipeAdapter(str(adapter)),), str(base), dtype=dtype, max_shard_size=20_000),
        output=out,
    )

    model = factory.load_base(out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    size = sum(
        tensor.nbytes for file in out.glob("*.safetensors") for tensor in load_file(file).values()
    )
    assert index["metadata"]["total_size"] == size
    assert model.lm_head.weight.shape == (LARGER, factory.HIDDEN)
    assert model.lm_head.weight.dtype == (torch.float32 if dtype else torch.bfloat16)
