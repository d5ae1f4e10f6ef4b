"""Heads of classifiers that adapters bring: the class, the labels and what falls away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import Incompatible, MergeRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

_TINY: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 3,
}
_TINY_LAYERS: dict[str, Any] = {
    "vocab_size": 96,
    "dim": 32,
    "hidden_dim": 48,
    "n_layers": 1,
    "n_heads": 4,
    "pad_token_id": 3,
}

NEW: dict[str, tuple[str, dict[str, Any], str, str, dict[str, Any]]] = {
    "score": (
        "LlamaForCausalLM",
        _TINY,
        "LlamaForSequenceClassification",
        "SEQ_CLS",
        {"target_modules": ["q_proj"]},
    ),
    "score, tied": (
        "LlamaForCausalLM",
        _TINY | {"tie_word_embeddings": True},
        "LlamaForSequenceClassification",
        "SEQ_CLS",
        {"target_modules": ["q_proj", "embed_tokens"]},
    ),
    "tokens": (
        "Qwen2ForCausalLM",
        _TINY | {"num_key_value_heads": 2},
        "Qwen2ForTokenClassification",
        "TOKEN_CLS",
        {"target_modules": ["q_proj"]},
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 1, "n_head": 4, "pad_token_id": 3},
        "GPT2ForSequenceClassification",
        "SEQ_CLS",
        {"target_modules": ["c_attn"]},
    ),
    "two layers": (
        "RobertaForMaskedLM",
        _TINY,
        "RobertaForSequenceClassification",
        "SEQ_CLS",
        {"target_modules": ["query"]},
    ),
    "masked to tokens": (
        "BertForMaskedLM",
        _TINY,
        "BertForTokenClassification",
        "TOKEN_CLS",
        {"target_modules": ["query"]},
    ),
    "masked to answers": (
        "BertForMaskedLM",
        _TINY,
        "BertForQuestionAnswering",
        "QUESTION_ANS",
        {"target_modules": ["query"]},
    ),
    "two modules": (
        "DistilBertForMaskedLM",
        _TINY_LAYERS,
        "DistilBertForSequenceClassification",
        "SEQ_CLS",
        {"target_modules": ["q_lin"], "modules_to_save": ["pre_classifier", "classifier"]},
    ),
    "other labels": (
        "BertForSequenceClassification",
        _TINY | {"id2label": {0: "x", 1: "y", 2: "z"}},
        "BertForSequenceClassification",
        "SEQ_CLS",
        {"target_modules": ["query"]},
    ),
    "other labels, no task": (
        "ViTForImageClassification",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "id2label": {0: "x", 1: "y", 2: "z"},
        },
        "ViTForImageClassification",
        "",
        {"target_modules": ["query", "q_proj"], "modules_to_save": ["classifier"]},
    ),
}
"""Base class and configuration, class of the result, task type, LoraConfig's arguments."""

LABELS = {0: "no", 1: "yes", 2: "both", 3: "neither"}


def train(folder: Path, case: str, *, tokens: int | None = None) -> tuple[PeftModel, Any]:
    """Save a base and an adapter of another class on it; return what was trained, and inputs."""
    architecture, settings, name, task, config = NEW[case]
    with torch.random.fork_rng():
        torch.manual_seed(11)
        made: Any = getattr(transformers, architecture)
        made(made.config_class(**settings)).save_pretrained(folder / "base")
        labels: dict[str, Any] = {} if task == "QUESTION_ANS" else {"id2label": LABELS}
        model = getattr(transformers, name).from_pretrained(
            folder / "base", ignore_mismatched_sizes=True, **labels
        )
        if tokens is not None:
            model.resize_token_embeddings(tokens)
        if task:
            config = {"task_type": task, **config}
        wrapped: PeftModel = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **config))
    factory.fill_adapter(wrapped, 2)
    wrapped.save_pretrained(str(folder / "adapter"))
    wrapped.train(mode=False)
    kind = "resnet" if "ViT" in name else "llama"
    return wrapped, factory.example_inputs(kind)


def answers(model: Any, inputs: Any) -> torch.Tensor:
    """Return the first output: logits, or where answers start."""
    with torch.no_grad():
        first: torch.Tensor = model(**inputs)[0]
    return first


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", NEW)
def test_a_new_head_loads_as_its_class_and_answers_as_peft_did(
    tmp_path: Path, home: Path, case: str
) -> None:
    """The class follows the head; its file has all that the class has and nothing else."""
    _, _, name, task, _ = NEW[case]
    trained, inputs = train(tmp_path, case)
    out = tmp_path / "out"

    Registry(home).merge(
        Recipe((RecipeAdapter(str(tmp_path / "adapter")),), base=str(tmp_path / "base")), output=out
    )

    loaded, told = getattr(transformers, name).from_pretrained(out, output_loading_info=True)
    loaded.train(mode=False)
    assert {key: value for key, value in told.items() if value} == {}
    assert torch.allclose(answers(loaded, inputs), answers(trained, inputs), atol=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == [name]
    count = 2 if task == "QUESTION_ANS" else len(LABELS)
    assert loaded.config.num_labels == count


@pytest.mark.filterwarnings("ignore")
def test_labels_that_the_adapter_brings_are_kept(tmp_path: Path, home: Path) -> None:
    """id2label, label2id and problem_type come from a config.json beside the adapter."""
    trained, _ = train(tmp_path, "score")
    config: Any = trained.get_base_model().config
    config.problem_type = "single_label_classification"
    config.save_pretrained(tmp_path / "adapter")
    registry = Registry(home)
    registry.add(tmp_path / "adapter", name="one")

    registry.merge(
        Recipe((RecipeAdapter("one"),), base=str(tmp_path / "base")), output=tmp_path / "out"
    )

    loaded = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert loaded.id2label == LABELS
    assert loaded.label2id == {label: number for number, label in LABELS.items()}
    assert loaded.problem_type == "single_label_classification"


@pytest.mark.filterwarnings("ignore")
def test_what_falls_away_with_the_old_head_is_named(tmp_path: Path, home: Path) -> None:
    """The output head that a classifier has no place for is left out, and the report says so."""
    train(tmp_path, "two layers")

    Registry(home).merge(
        Recipe((RecipeAdapter(str(tmp_path / "adapter")),), base=str(tmp_path / "base")),
        output=tmp_path / "out",
    )

    dropped = json.loads((tmp_path / "out" / "merge_report.json").read_text())["dropped"]
    before = load_file(tmp_path / "base" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert sorted(dropped) == sorted(before.keys() - after.keys())
    assert sorted(dropped) == sorted(name for name in before if name.startswith("lm_head."))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["score", "score, tied"])
def test_a_classifier_of_more_tokens(tmp_path: Path, home: Path, case: str) -> None:
    """A classifier needs only the embedding of a larger vocabulary: it has no output head."""
    trained, _ = train(tmp_path, case, tokens=101)
    out = tmp_path / "out"
    inputs = {"input_ids": torch.tensor([[100, 4, 99, 7], [5, 98, 6, 8]])}

    Registry(home).merge(
        Recipe((RecipeAdapter(str(tmp_path / "adapter")),), base=str(tmp_path / "base")), output=out
    )

    loaded, told = transformers.AutoModelForSequenceClassification.from_pretrained(
        out, output_loading_info=True
    )
    loaded.train(mode=False)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert loaded.config.vocab_size == 101
    assert torch.allclose(answers(loaded, inputs), answers(trained, inputs), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_head_without_a_part_is_refused(tmp_path: Path, home: Path) -> None:
    """A class with a part that was trained with random values and not saved is named."""
    train(tmp_path, "two modules")
    factory.edit_tensors(
        tmp_path / "adapter",
        lambda tensors: [tensors.pop(key) for key in list(tensors) if "pre_classifier" in key],
    )

    with pytest.raises(MergeRefused, match="needs pre_classifier, which neither base nor adapter"):
        Registry(home).merge(
            Recipe((RecipeAdapter(str(tmp_path / "adapter")),), base=str(tmp_path / "base")),
            output=tmp_path / "out",
        )


@pytest.mark.filterwarnings("ignore")
def test_a_class_that_keeps_its_layers_elsewhere_is_refused(tmp_path: Path, home: Path) -> None:
    """Such a checkpoint would load with all its layers at random."""
    train(tmp_path, "score")
    adapter = tmp_path / "adapter"
    factory.edit_config(adapter, task_type="QUESTION_ANS", modules_to_save=["qa_outputs"])
    key = "base_model.model.score.weight"

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.qa_outputs.weight"] = tensors.pop(key)

    factory.edit_tensors(adapter, rename)

    with pytest.raises(MergeRefused, match="keeps its layers in 'transformer', the base in"):
        Registry(home).merge(
            Recipe((RecipeAdapter(str(adapter)),), base=str(tmp_path / "base")),
            output=tmp_path / "out",
        )


@pytest.mark.filterwarnings("ignore")
def test_a_new_tensor_that_is_no_head_is_refused(tmp_path: Path, home: Path) -> None:
    """What the base lacks is taken for the sign of another base, unless it was saved as a head."""
    train(tmp_path, "score")
    key = "base_model.model.score.weight"

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.model.layers.7.mlp.gate.weight"] = tensors.pop(key)

    factory.edit_tensors(tmp_path / "adapter", rename)

    with pytest.raises(Incompatible, match=r"no tensor 'model\.layers\.7\.mlp\.gate\.weight'"):
        Registry(home).merge(
            Recipe((RecipeAdapter(str(tmp_path / "adapter")),), base=str(tmp_path / "base")),
            output=tmp_path / "out",
        )
