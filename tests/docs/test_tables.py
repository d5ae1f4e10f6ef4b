"""The generated tables in docs/ against the code, the tests and the installed PEFT."""

from __future__ import annotations

import importlib
import re
from typing import Any

import docs_tables
import pytest
from docs_tables import BLOCKS, DOCS, ON_THE_WAY_IN, rewritten, tuner_cases
from peft import LoraConfig
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import PeftType

from adreg.registry.adapters.foreign import merged_linear
from adreg.registry.adapters.refusals import INITIALISATIONS, SETTINGS, refused_initialisation
from adreg.registry.adapters.tuners import LORA, NATIVE, REFUSED, decomposition, tuner_of
from adreg.registry.merge.algebra import combine
from adreg.registry.merge.methods.method import METHODS

KINDS = [str(kind.value) for kind in PeftType]
MERGED = [kind for kind in KINDS if kind not in REFUSED]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_what_would_be_written(name: str) -> None:
    """Each table stands in docs/ as it would be made now: ``python tests/docs_tables.py``."""
    file, make = BLOCKS[name]
    text = (DOCS / file).read_text()

    assert rewritten(text, name, make()) == text


def test_a_block_that_differs_is_seen() -> None:
    """A table with another word in it is another text, and a missing marker is an error."""
    file, make = BLOCKS["refused kinds"]
    text = (DOCS / file).read_text()

    assert rewritten(text, "refused kinds", make() + "| `NEW` | why |\n") != text
    with pytest.raises(ValueError, match="no block 'others'"):
        rewritten(text, "others", "")


def test_every_kind_of_peft_has_a_row() -> None:
    """Each kind of the installed PEFT is named just once in docs/tuners.md."""
    rows = re.findall(r"^\| `([A-Z_0-9]+)` \|", (DOCS / "tuners.md").read_text(), re.MULTILINE)

    assert sorted({*KINDS, *REFUSED}) == sorted(rows)


def test_the_readme_counts_them() -> None:
    """The number of kinds in README.md is that of those in the tables that are merged."""
    readme = (DOCS.parent / "README.md").read_text()

    assert [str(len(MERGED))] == re.findall(r"\[(\d+) kinds of adapter\]", readme)


@pytest.mark.parametrize("kind", MERGED)
def test_every_kind_that_is_merged_is_compared_with_peft(kind: str) -> None:
    """What is said to be merged has a case of its own in tests/merge/test_tuners.py."""
    cases: Any = docs_tables.module_of("merge/test_tuners.py")

    assert kind in cases.KINDS


def test_no_case_is_of_a_kind_that_is_refused() -> None:
    """The cases are of kinds that the tables say are merged."""
    assert set(tuner_cases()) <= set(MERGED)


@pytest.mark.parametrize("kind", MERGED)
def test_parameters_begin_as_in_peft(kind: str) -> None:
    """The beginning of a kind's parameter names is the one that PEFT registered."""
    expected = PEFT_TYPE_TO_PREFIX_MAPPING[PeftType(kind)]

    assert expected == tuner_of({"peft_type": kind}).prefix
    assert NATIVE.get(kind, expected) == expected


def test_every_setting_of_lora_has_a_row() -> None:
    """Each field of the installed LoraConfig is understood, PEFT's, refused or nothing to merge."""
    through_peft = set(filter(docs_tables.through_peft, LoraConfig.__dataclass_fields__))
    groups = [
        set(docs_tables.UNDERSTOOD) - set(SETTINGS),
        set(docs_tables.NOTHING_TO_MERGE),
        set(SETTINGS) - set(ON_THE_WAY_IN),
        through_peft,
    ]

    assert set(LoraConfig.__dataclass_fields__) == set().union(*groups)
    assert len(set().union(*groups)) == sum(map(len, groups))


def test_what_is_converted_on_the_way_in_is() -> None:
    """The settings that PEFT has no more are recognised by the converter, not by the reader."""
    assert list(ON_THE_WAY_IN) == ["enable_lora"]
    assert merged_linear.is_config({"enable_lora": [True, False, True]})


def test_variants_are_compared_with_peft() -> None:
    """Each setting that PEFT's layer merges, and each decomposition of W, is in a case."""
    cases: Any = docs_tables.module_of("merge/test_tuners.py")
    settings = [config for kind, _, config in cases.LAYERS.values() if kind == LORA]
    used = {name for config in settings for name in config}
    started = {config.get("init_lora_weights") for config in settings}

    assert set(filter(docs_tables.through_peft, LoraConfig.__dataclass_fields__)) <= used
    for names in docs_tables.INITIAL:
        for name in names.split(", "):
            taken = decomposition({"peft_type": LORA, "init_lora_weights": name})
            assert (taken is not None) == (name in started), name


def test_every_initialisation_has_a_row() -> None:
    """Each value that PEFT's annotation allows is in one of the rows, and treated as it says."""
    values = re.findall(r"'([^']+)'", str(LoraConfig.__annotations__["init_lora_weights"]))
    passing = {name for names in docs_tables.INITIAL for name in names.split(", ")}
    passing -= {"true", "false"}

    assert len(values) > 5
    for value in values:
        refused = any(value.startswith(start) for start in INITIALISATIONS)
        assert refused != (value in passing), value
        assert (refused_initialisation({"init_lora_weights": value}) is not None) == refused


def test_every_method_has_a_row() -> None:
    """Each way to combine stands in docs/methods.md, once."""
    rows = re.findall(r"^\| `([a-z_]+)` \|", (DOCS / "methods.md").read_text(), re.MULTILINE)

    assert sorted([*METHODS, *combine.METHODS]) == sorted(rows)


def test_every_combination_of_peft_has_a_row() -> None:
    """Each combination_type that PEFT's own message lists is matched by a method of ours."""
    lora: Any = importlib.import_module("peft.tuners.lora.model").LoraModel
    doc = str(lora.add_weighted_adapter.__doc__)
    listed = re.search(r"can be one of \[(.*?)\]", doc, re.DOTALL)
    assert listed is not None
    theirs = set(re.findall(r"`([a-z_]+)`", listed[1]))
    text = (DOCS / "methods.md").read_text()

    assert {"cat", "svd", "linear", "ties", "dare_ties_svd"} <= theirs
    assert [name for name in sorted(theirs) if f"`{name}`" not in text] == []
