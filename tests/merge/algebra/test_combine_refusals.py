"""What cannot become one adapter is refused by name, before a byte is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
import torch

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.errors import AdapterNotMade
from adreg.registry.merge.algebra.combine import Settings, combine_specs
from adreg.registry.merge.algebra.low_rank import Target


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make adapters of one tiny Llama."""
    root = tmp_path_factory.mktemp("refused")
    base = factory.make_base(root / "base", "llama")
    made: dict[str, Path] = {}

    def make(name: str, seed: int = 1, **settings: Any) -> Path:
        if name not in made:
            made[name] = factory.make_adapter(base, root / name, seed=seed, **settings)
        return made[name]

    return make


def refused(
    adapters: list[tuple[Path, float]], settings: Settings, out: Path | None = None
) -> AdapterNotMade:
    """Combine and return the refusal."""
    with pytest.raises(AdapterNotMade) as caught:
        combine_specs([(read_adapter(one), weight) for one, weight in adapters], settings, out)
    return caught.value


def test_dora(make: Callable[..., Path], tmp_path: Path) -> None:
    """DoRA depends on the base's weights: the advice is to merge."""
    dora = make("dora", use_dora=True)

    error = refused([(make("plain"), 1.0), (dora, 1.0)], Settings(), tmp_path)

    assert "dora: its delta depends on the base's weights (DoRA)" in str(error)
    assert "adreg merge" in error.hint
    assert [] == list(tmp_path.iterdir())


def test_the_weight_0(make: Callable[..., Path]) -> None:
    """An adapter at weight 0 does nothing, and is named."""
    assert "plain has the weight 0" in str(refused([(make("plain"), 0.0)], Settings()))


def test_nothing_left(make: Callable[..., Path], tmp_path: Path) -> None:
    """Adapters that cancel out are no adapter, and nothing stays in the folder."""
    one = make("plain")

    error = refused([(one, 1.0), (one, -1.0)], Settings("svd", Target(4)), tmp_path)

    assert "cancel out" in str(error)
    assert [] == list(tmp_path.iterdir())


def test_ranks_that_differ(make: Callable[..., Path]) -> None:
    """PEFT's ways on the factors need one rank a module; sums of deltas do not."""
    error = refused([(make("plain"), 1.0), (make("r2", r=2), 1.0)], Settings("factors_linear"))

    assert "q_proj' has 2 and 4" in str(error)
    assert "cat or svd" in error.hint


def test_whole_modules_that_differ(make: Callable[..., Path]) -> None:
    """Two different saved heads cannot be one."""
    heads = [(make(f"head{n}", seed=n, modules_to_save=["lm_head"]), 1.0) for n in (1, 2)]

    assert "'lm_head.weight' is another tensor in each of head1, head2" in str(
        refused(heads, Settings())
    )


def test_a_whole_module_at_a_weight(make: Callable[..., Path]) -> None:
    """What replaces the base's cannot be taken half."""
    head = make("head1", seed=1, modules_to_save=["lm_head"])

    assert "has the weight 0.5, not 1" in str(
        refused([(head, 0.5), (make("plain"), 1.0)], Settings())
    )


def test_a_whole_module_with_factors(make: Callable[..., Path]) -> None:
    """A weight cannot be replaced by one adapter and changed by another."""
    saved = make("saved", modules_to_save=["v_proj"], target_modules=["q_proj"])

    assert "v_proj.weight' is saved whole in saved and has factors besides" in str(
        refused([(make("plain"), 1.0), (saved, 1.0)], Settings())
    )


def test_biases_of_some_modules(make: Callable[..., Path], tmp_path: Path) -> None:
    """lora_bias in some modules only is refused, as PEFT has it in all or none."""
    base = factory.make_base(tmp_path / "base", "qwen2")
    biased = factory.make_adapter(base, tmp_path / "b", target_modules=["q_proj"], lora_bias=True)
    plain = factory.make_adapter(base, tmp_path / "p", target_modules=["down_proj"])
    del make

    error = refused([(biased, 1.0), (plain, 1.0)], Settings())

    assert "q_proj' has a lora_bias and " in str(error)
    assert "down_proj' has none" in str(error)


def test_other_shapes(make: Callable[..., Path], tmp_path: Path) -> None:
    """Adapters of bases of other sizes do not add up."""
    other = factory.make_base(tmp_path / "base", "gpt2")
    gpt2 = factory.make_adapter(other, tmp_path / "gpt2", target_modules=["c_attn"])
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".h.0.attn.c_attn" in name]:
            tensors[key + name.rpartition("lora_")[2]] = tensors.pop(name)

    factory.edit_tensors(gpt2, rename)

    assert "q_proj' is (32, 32) in plain and (96, 32) in gpt2" in str(
        refused([(make("plain"), 1.0), (gpt2, 1.0)], Settings())
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings("nearly"), "there is no method 'nearly'"),
        (Settings("factors_ties"), "factors_ties needs a density"),
        (Settings("cat", density=0.5), "cat prunes nothing"),
        (Settings("cat", Target(4)), "cat cuts to no rank"),
        (Settings("factors_linear", Target(4)), "factors_linear cuts to no rank"),
    ],
)
def test_settings(make: Callable[..., Path], settings: Settings, words: str) -> None:
    """Settings that mean nothing for a method are refused, not ignored."""
    assert words in str(refused([(make("plain"), 1.0)], settings))


def test_another_kind_of_adapter(make: Callable[..., Path], tmp_path: Path) -> None:
    """Adapters that are no LoRA are named with what they are."""
    from peft import LoHaConfig, get_peft_model  # noqa: PLC0415

    base = factory.make_base(tmp_path / "base", "llama")
    model: Any = get_peft_model(
        factory.load_base(base), LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False)
    )
    model.save_pretrained(str(tmp_path / "loha"))

    assert "loha is LOHA" in str(
        refused([(make("plain"), 1.0), (tmp_path / "loha", 1.0)], Settings())
    )


def test_values_too_large_for_the_type(make: Callable[..., Path]) -> None:
    """What float16 cannot hold is refused with the type that can."""
    error = refused([(make("plain"), 1e9)], Settings("cat", dtype="F16"))

    assert "values over 65504" in str(error)
    assert "--dtype" in error.hint
