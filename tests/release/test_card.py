"""The model card: Hub metadata and text from facts alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from adreg.registry.release.card import CardAdapter, CardBase, CardFacts, model_card

FACTS = CardFacts(
    title="support-bot",
    base=CardBase("smollm2", "ab" * 32, "HuggingFaceTB/SmolLM2-135M", "f00d", "apache-2.0"),
    adapters=(
        CardAdapter("team/support@3", "cd" * 32, 0.5, "apache-2.0"),
        CardAdapter("tone@1", "ef" * 32, 1.0, "mit"),
    ),
    method="linear",
    precision="float32",
    dtype="bfloat16",
    architecture="LlamaForCausalLM",
    model_type="llama",
    licence="other",
)


def _front(text: str) -> dict[str, Any]:
    data = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(data, dict)
    return data


def test_metadata() -> None:
    """The front matter says what the Hub wants to know, in the Hub's words."""
    expected = {
        "base_model": ["HuggingFaceTB/SmolLM2-135M"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "apache-2.0-and-mit",
        "tags": ["merge", "adreg", "lora"],
    }

    assert expected == _front(model_card(FACTS))


def test_hub_reads_it() -> None:
    """The Hub's own card reader takes it and finds the same metadata."""
    card = ModelCard(model_card(FACTS))

    assert _front(model_card(FACTS)) == card.data.to_dict()


def test_body_names_everything() -> None:
    """Each adapter stands with version, weight and digest; loading and rebuilding are told."""
    text = model_card(FACTS)

    assert f"| `team/support@3` | 0.5 | `{'cd' * 32}` |" in text
    assert "AutoModelForCausalLM.from_pretrained(folder)" in text
    assert "adreg rebuild adreg.lock.json -o DIR" in text
    assert "| adapter `tone@1` | `mit` |" in text


def test_same_facts_same_bytes() -> None:
    """Nothing but the facts is in the text."""
    assert model_card(FACTS) == model_card(dataclasses.replace(FACTS))


@pytest.mark.parametrize("repo", [None, "/models/base", "./base", "C:\\base", "a/b/c"])
def test_no_path_as_base(repo: str | None) -> None:
    """A base whose Hub id is not known is left out of the metadata, and the text says so."""
    base = dataclasses.replace(FACTS.base, repo=repo)
    text = model_card(dataclasses.replace(FACTS, base=base))

    assert "base_model" not in _front(text)
    assert "is not known" in text
    assert repo is None or repo not in text


def test_hostile_text_stays_text() -> None:
    """No name breaks out of its table cell, its code span or the front matter."""
    base = CardBase("a`|b\n---\nlicense: mit", "ab" * 32, None, None, "x|y: [z]\n# h")
    adapter = CardAdapter("<script>|`x`", "cd" * 32, 1.0, None)
    facts = dataclasses.replace(
        FACTS, title="# <b>\n---", base=base, adapters=(adapter,), licence="weird: yes\n- x"
    )
    text = model_card(facts)

    assert "weird: yes\n- x" == _front(text)["license"]
    assert "# \\# \\<b\\> ---" in text.splitlines()
    assert [4, 4, 4] == [
        line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| ")
    ][:3]


@pytest.mark.parametrize(
    ("architecture", "model_type", "loader", "task"),
    [
        ("GPT2LMHeadModel", "gpt2", "AutoModelForCausalLM", "text-generation"),
        ("BertForSequenceClassification", "bert", "AutoModelForSequenceClassification",
         "text-classification"),
        ("T5ForConditionalGeneration", "t5", "AutoModelForSeq2SeqLM", None),
        ("Gemma3ForConditionalGeneration", "gemma3", "AutoModelForImageTextToText",
         "image-text-to-text"),
        ("LlamaModel", "llama", "AutoModel", None),
        (None, None, "AutoModel", None),
    ],
)  # fmt: skip
def test_loader(
    architecture: str | None, model_type: str | None, loader: str, task: str | None
) -> None:
    """The card loads with the Auto class of the architecture."""
    facts = dataclasses.replace(FACTS, architecture=architecture, model_type=model_type)
    text = model_card(facts)

    assert f"model = {loader}.from_pretrained" in text
    assert task == _front(text).get("pipeline_tag")
