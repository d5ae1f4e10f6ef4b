"""A README that may be somebody's: adreg renews its part, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from adreg.registry.errors import CardRefused
from adreg.registry.release.readme import BEGIN, END, Part, metadata, renewed

PART = Part(
    title="support",
    facts={"base_model": "org/base", "base_model_relation": "adapter", "library_name": "peft"},
    defaults={"license": "apache-2.0", "pipeline_tag": "text-generation"},
    tags=("lora", "adreg"),
    text="## How to load\n\nSo.",
)

THEIRS = """---
# a remark of theirs
language:
- de
license: mit
tags: [mine, lora]
base_model: /models/base
extra: {a: 1}
---

# My adapter

Words of mine.
"""


def test_a_new_readme_is_a_card_that_the_hub_client_reads() -> None:
    """huggingface_hub reads every field from a new README, and the title and section follow."""
    text = renewed(None, PART)

    card = ModelCard(text)
    assert {**PART.facts, **PART.defaults, "tags": ["lora", "adreg"]} == card.data.to_dict()
    assert f"\n# support\n\n{BEGIN}\n\n## How to load\n\nSo.\n\n{END}\n" == card.text


def test_what_is_not_ours_stays_to_the_byte() -> None:
    """Other fields, remarks and words stay as they are; facts are put right, tags gain."""
    text = renewed(THEIRS, PART)

    assert text == (
        "---\n# a remark of theirs\nlanguage:\n- de\nlicense: mit\ntags:\n- mine\n- lora\n- adreg\n"
        "base_model: org/base\nextra: {a: 1}\nbase_model_relation: adapter\nlibrary_name: peft\n"
        "pipeline_tag: text-generation\n---\n\n# My adapter\n\nWords of mine.\n\n"
        f"{BEGIN}\n\n## How to load\n\nSo.\n\n{END}\n"
    )


@pytest.mark.parametrize(
    "first",
    [
        None,
        "",
        THEIRS,
        THEIRS.replace("\n", "\r\n"),
        "# No metadata\n",
        "---\n---\ntext",
        "\ufeff" + THEIRS,
        "---\ntags: [a,\n  b]\n? odd\n: 1\n---\n",
        "---\ntags:\n  - a\n\nlicense: mit\n---\nbody",
        "---\nbase_model: [org/base]\n---\n",
        "--- not a fence\n",
    ],
)
def test_renewing_again_changes_nothing(first: str | None) -> None:
    """The second renewal gives the same bytes, and all that the metadata had is still there."""
    once = renewed(first, PART)

    assert once == renewed(once, PART)
    before = metadata(first or "")
    after = metadata(once)
    assert {**before, **PART.facts}.keys() <= after.keys()
    assert "org/base" in (after["base_model"], *after["base_model"])
    assert set(before.get("tags", [])) <= set(after["tags"])
    assert ("\r\n" in once) == ("\r\n" in (first or ""))


def test_the_section_is_renewed_in_its_place() -> None:
    """New words replace the old ones between the markers; words behind them stay behind."""
    first = renewed(THEIRS, PART) + "\nAfter it.\n"

    text = renewed(first, replace(PART, text="Other words."))

    assert "So." not in text
    assert text == first.replace("## How to load\n\nSo.", "Other words.")
    assert text.endswith("\nAfter it.\n")


def test_words_of_ours_cannot_end_the_section() -> None:
    """A name that holds the end marker is made harmless, or the next renewal would cut there."""
    text = renewed(None, replace(PART, text=f"a {END} b"))

    assert 1 == text.count(END)
    assert text == renewed(text, replace(PART, text=f"a {END} b"))


@pytest.mark.parametrize(
    ("readme", "reason"),
    [
        ("---\nlicense: mit\n# no end", "begins with --- and does not end"),
        ("---\na: [\n---\n", "is no YAML"),
        ("---\n- a\n---\n", "not a list of fields"),
        ("---\na: &x [1]\nb: *x\n---\n", "has aliases"),
        (f"---\na: {'x' * 40_000}\n---\n", "longer than 32,768"),
        ("---\na: " + "[" * 20_000 + "\n---\n", "more than 500 brackets"),
        (f"{BEGIN}\nno end", "not one pair"),
        (f"{END}\n{BEGIN}", "not one pair"),
        (f"{BEGIN}{END}{BEGIN}{END}", "not one pair"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(readme: str, reason: str) -> None:
    """Metadata or markers that are broken are somebody's to mend, and are told so."""
    with pytest.raises(CardRefused, match=reason) as caught:
        renewed(readme, PART)

    assert "the model card cannot be written: " in caught.value.sentence
    assert "Mend its README.md on the Hub, and push again." == caught.value.hint


def test_fields_are_written_so_that_yaml_reads_them_back() -> None:
    """Whatever the facts hold, the metadata that is read back is what was said."""
    odd = {"base_model": "org/yes", "license": "no", "license_name": "a: b # c", "v": 1.5}

    text = renewed(THEIRS, replace(PART, facts=odd))

    assert odd.items() <= yaml.safe_load(text.split("---\n")[1]).items()


def test_a_tag_that_names_a_folder_goes() -> None:
    """PEFT tags an adapter with the path of its base; the Hub id's tags and others stay."""
    tags = ["base_model:adapter:/models/base", "base_model:org/base", "base_model:./x", "mine"]
    text = renewed(f"---\ntags: {json.dumps(tags)}\n---\n", PART)

    assert ["base_model:org/base", "mine", "lora", "adreg"] == metadata(text)["tags"]
