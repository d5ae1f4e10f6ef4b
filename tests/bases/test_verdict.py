"""Exact, same-shapes or incompatible: what is known of an adapter and a base, and why."""

from __future__ import annotations

from pathlib import Path

import factory
import pytest
import torch

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import read_base
from adreg.registry.bases.verdict import Grade, judge

NAMES = frozenset({"org/tiny", "tiny"})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base that no test changes."""
    return factory.make_base(tmp_path_factory.mktemp("verdict") / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """Return an adapter that says it was made for org/tiny."""
    folder = factory.make_adapter(base, tmp_path / "adapter")
    factory.edit_config(folder, base_model_name_or_path="org/tiny")
    return folder


def test_the_base_it_names(base: Path, adapter: Path) -> None:
    """A fitting base that goes by the name in the configuration is the one."""
    verdict = judge(read_adapter(adapter), read_base(base), NAMES)

    assert Grade.EXACT is verdict.grade
    assert ("the adapter names its base 'org/tiny', and this is it",) == verdict.reasons
    assert (12, 12) == (verdict.matched, verdict.total)


def test_the_base_that_is_recorded(base: Path, adapter: Path) -> None:
    """A recorded base counts more than the name."""
    opened = read_base(base)
    exact = judge(read_adapter(adapter), opened, frozenset(), opened.layout_digest)
    other = judge(read_adapter(adapter), opened, NAMES, "0" * 64)

    assert Grade.EXACT is exact.grade
    assert Grade.SAME_SHAPES is other.grade
    assert "another base is recorded" in other.reasons[0]


def test_a_base_that_fits_by_its_shapes(base: Path, adapter: Path) -> None:
    """Without a name, or under other names, shapes are all that is known."""
    named = judge(read_adapter(adapter), read_base(base), frozenset({"org/other"}))
    factory.edit_config(adapter, base_model_name_or_path=None)
    nameless = judge(read_adapter(adapter), read_base(base), NAMES)

    assert Grade.SAME_SHAPES is named.grade is nameless.grade
    assert "goes by other names" in named.reasons[0]
    assert ("the adapter does not name its base",) == nameless.reasons


def test_a_base_that_does_not_fit(base: Path, adapter: Path) -> None:
    """The name does not help when tensors have no place; those that have one are counted."""
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    factory.edit_tensors(adapter, lambda t: t.update({key: torch.ones(48, 4)}))
    verdict = judge(read_adapter(adapter), read_base(base), NAMES)

    assert Grade.INCOMPATIBLE is verdict.grade
    assert "q_proj" in verdict.reasons[0]
    assert (10, 12) == (verdict.matched, verdict.total)
