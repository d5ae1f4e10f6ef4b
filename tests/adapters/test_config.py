"""Ranks, alphas and scales are PEFT's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
from peft.tuners.lora import LoraLayer

from adreg.registry.adapters.config import alpha_of, parse_config, rank_of, scale_of
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.adapters.spec import LoraSettings
from adreg.registry.errors import AdapterRefused


def settings(**config: object) -> LoraSettings:
    """Return the settings of a configuration without a fault."""
    fields = parse_config(config)
    assert fields.reasons == ()
    assert fields.lora is not None
    return fields.lora


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"lora_alpha": 1.5},
        {
            "rank_pattern": {
                "q_proj": 2,
                "layers.1.self_attn.v_proj": 3,
                "^model.layers.0.mlp.*": 9,
            },
            "alpha_pattern": {r"layers\.\d\.mlp\.down_proj": 5, "v_proj": 0.25},
        },
        {"use_rslora": True, "rank_pattern": {".*_proj": 6}, "alpha_pattern": {"roj": 3}},
        {"rank_pattern": {"a|q_proj": 2}},
    ],
    ids=str,
)
def test_scales_are_those_of_peft(make: Callable[..., Path], config: dict[str, Any]) -> None:
    """Every module's scale and rank equal what PEFT computes when it loads the adapter."""
    made = make(**config)
    spec = read_adapter(made)
    model = factory.load_adapter(made.parent / "llama", made)
    modules = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }

    assert {tensor.module for tensor in spec.tensors} == set(modules)
    for name, module in modules.items():
        assert module.scaling["default"] == scale_of(spec.lora, name)
        assert module.r["default"] == rank_of(spec.lora, name)
        assert module.lora_alpha["default"] == alpha_of(spec.lora, name)


def test_patterns_that_overlap(make: Callable[..., Path]) -> None:
    """PEFT sorts the patterns when it saves: it cannot load this one again, and it is refused."""
    made = make(rank_pattern={"q_proj": 2, ".*layers.0.*": 3})

    with pytest.raises(RuntimeError, match="size mismatch"):
        factory.load_adapter(made.parent / "llama", made)
    with pytest.raises(AdapterRefused, match="rank 2 in its tensors and 3 in the configuration"):
        read_adapter(made)


def test_defaults() -> None:
    """An absent r and alpha are 8."""
    assert (8, 8.0) == (settings().rank, settings().alpha)
    assert scale_of(settings(), "any.module") == 1.0


def test_first_pattern_wins() -> None:
    """Patterns are tried in their order, against the end of the name."""
    lora = settings(rank_pattern={"proj": 1, "q_proj": 2, "layers.*": 3})

    assert rank_of(lora, "model.q_proj") == 2
    assert rank_of(lora, "layers.0.q_proj") == 2
    assert rank_of(lora, "layers.0.proj") == 1
    assert rank_of(lora, "layers.0.k") == 3
    assert rank_of(lora, "model.layersk") == 3


def test_many_patterns_are_fast() -> None:
    """A rank for each of a thousand modules, as rank searches write it."""
    lora = settings(rank_pattern={f"layers.{n}.q_proj": n + 1 for n in range(1000)})

    assert [rank_of(lora, f"model.layers.{n}.q_proj") for n in range(1000)] == list(range(1, 1001))


def test_target_modules_may_be_a_pattern() -> None:
    """Text is one regular expression, a list is names; names that stand twice count once."""
    assert parse_config({"target_modules": ".*proj"}).targets == (".*proj",)
    assert parse_config({"target_modules": ["a", "b", "a"]}).targets == ("a", "b")
