"""Merged checkpoints, right and wrong ones, against base and adapters; PEFT makes them all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
import transformers

from adreg.registry.errors import Incompatible, InputRefused
from adreg.registry.tensors.checkpoint import read_layout
from adreg.registry.trial.compare import Checkpoint, Comparison, Weighted, compare
from adreg.registry.trial.distance import distance, spread
from adreg.registry.trial.loading import Subject

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"target_modules": "all-linear"},
    "llama-tied": {"target_modules": ["q_proj", "embed_tokens"]},
    "gpt2": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "bert": {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"},
    "resnet": {},
}
LOADERS = {
    "bert": "AutoModelForSequenceClassification",
    "resnet": "AutoModelForImageClassification",
}


def merged_by_peft(base: Path, adapter: Path, out: Path, dtype: torch.dtype) -> Path:
    """Save PEFT's own merge, rounded to a dtype, with a head of its own where it was tied."""
    model = factory.load_adapter(base, adapter, torch.float32)
    head = model.get_output_embeddings()
    tied = bool(getattr(model.config, "tie_word_embeddings", False)) and head is not None
    if tied:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain: Any = model.merge_and_unload()
    if tied:
        plain.config.tie_word_embeddings = False
    plain.to(dtype).save_pretrained(out)
    return out


def compared(
    base: Path,
    adapters: list[tuple[Path, float]],
    merged: Path,
    kind: str = "llama",
    way: Any = "unmerged",
    **more: Any,
) -> Comparison:
    """Compare folders of a kind."""
    loader = LOADERS.get(kind, "AutoModelForCausalLM")
    dtypes = {info.name: info.dtype for info in read_layout(merged)}
    return compare(
        Subject("base", base, loader),
        [Weighted(Subject(folder.name, folder), weight) for folder, weight in adapters],
        Checkpoint(Subject("merged", merged, loader), dtypes),
        way=way,
        **more,
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a tiny Llama in bfloat16."""
    return factory.make_base(tmp_path / "base")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_right_merge_is_the_same(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    """PEFT's own merge is the same within rounding, and rounding to 16 bits is seen as such."""
    base = factory.make_base(tmp_path / "base", kind, dtype)
    one = factory.make_adapter(base, tmp_path / "one", **CONFIGS[kind])
    merged = merged_by_peft(base, one, tmp_path / "merged", dtype)
    found = compared(base, [(one, 1.0)], merged, kind)

    assert "same" == found.verdict(2.0)
    assert found.effect is not None
    assert found.effect.rms > 0.05
    assert found.beyond_rounding.rms < 1e-5
    assert (found.rounding.rms > 1e-4) == (dtype is torch.bfloat16)
    assert found.merged.agreement is not None
    assert found.merged.agreement > 0.9


@pytest.mark.parametrize("kind", ["llama", "bert", "resnet"])
def test_a_scale_that_is_a_fiftieth_off_differs(tmp_path: Path, kind: str) -> None:
    """An error of 2 % in the scale of an adapter is told from the rounding to bfloat16."""
    base = factory.make_base(tmp_path / "base", kind)
    one = factory.make_adapter(base, tmp_path / "one", **CONFIGS[kind])
    other = factory.make_adapter(base, tmp_path / "other", **CONFIGS[kind])
    factory.edit_config(other, lora_alpha=8.16)
    merged = merged_by_peft(base, other, tmp_path / "merged", torch.bfloat16)

    assert "differs" == compared(base, [(one, 1.0)], merged, kind).verdict(2.0)


def test_the_base_in_place_of_the_merge_differs(base: Path, tmp_path: Path) -> None:
    """A merge that did nothing is as far from the reference as the base is."""
    one = factory.make_adapter(base, tmp_path / "one")
    found = compared(base, [(one, 1.0)], base)

    assert "differs" == found.verdict(2.0)
    assert found.effect is not None
    assert found.merged.largest == pytest.approx(found.effect.largest, rel=0.5)


def test_an_untrained_adapter_does_nothing(base: Path, tmp_path: Path) -> None:
    """Where the adapter changes no output, no merge of it is proven."""
    one = factory.make_adapter(base, tmp_path / "one")
    factory.edit_tensors(one, lambda t: [t[k].zero_() for k in t if "lora_B" in k])

    assert "nothing" == compared(base, [(one, 1.0)], base).verdict(2.0)


def test_an_effect_below_rounding_is_lost(base: Path, tmp_path: Path) -> None:
    """A right merge whose deltas vanish in bfloat16 is told apart from one that keeps them."""
    one = factory.make_adapter(base, tmp_path / "one")
    factory.edit_tensors(one, lambda t: [t[k].mul_(1e-4) for k in t if "lora_B" in k])
    lost = merged_by_peft(base, one, tmp_path / "lost", torch.bfloat16)
    kept = merged_by_peft(base, one, tmp_path / "kept", torch.float32)

    assert "lost" == compared(base, [(one, 1.0)], lost).verdict(2.0)
    assert "same" == compared(base, [(one, 1.0)], kept).verdict(2.0)


def test_the_numbers_are_those_of_peft(base: Path, tmp_path: Path) -> None:
    """The distances of merged and base are those of logits computed apart, on the same prompt."""
    one = factory.make_adapter(base, tmp_path / "one")
    merged = merged_by_peft(base, one, tmp_path / "merged", torch.bfloat16)
    factory.make_tokenizer().save_pretrained(merged)
    found = compared(base, [(one, 1.0)], merged, prompts=["the cat sat on a mat"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    ids = tokenizer("the cat sat on a mat", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        said = [
            model(ids).logits[0].double().numpy()
            for model in (
                factory.load_adapter(base, one, torch.float32),
                factory.load_base(merged, torch.float32),
                factory.load_base(base, torch.float32),
            )
        ]
    reference, ours, plain = said
    unit = reference.std()

    assert 1 == found.inputs
    assert found.spread == pytest.approx(unit)
    assert found.merged.rms == pytest.approx(np.sqrt(((ours - reference) ** 2).mean()) / unit)
    assert found.merged.largest == pytest.approx(np.abs(ours - reference).max() / unit)
    assert found.effect is not None
    assert found.effect.mean == pytest.approx(np.abs(plain - reference).mean() / unit)


@pytest.mark.parametrize("way", ["unmerged", "folded"])
def test_weights(base: Path, tmp_path: Path, way: Any) -> None:
    """Several adapters are taken as many times as they weigh, unmerged or a delta at a time."""
    one = factory.make_adapter(base, tmp_path / "one", seed=1)
    two = factory.make_adapter(base, tmp_path / "two", seed=2, r=2, use_rslora=True)
    model = factory.load_base(base, torch.float32)
    weights = model.state_dict()
    start = {name: value.clone() for name, value in weights.items()}
    for folder, weight in ((one, 0.5), (two, -1.5)):
        plain: Any = factory.load_adapter(base, folder, torch.float32).merge_and_unload()
        for name, value in plain.state_dict().items():
            weights[name] += weight * (value - start[name])
    model.save_pretrained(tmp_path / "merged")
    found = compared(base, [(one, 0.5), (two, -1.5)], tmp_path / "merged", way=way)
    other = compared(base, [(one, 0.5), (two, -1.4)], tmp_path / "merged", way=way)

    assert ("same", "differs") == (found.verdict(2.0), other.verdict(2.0))


def test_broken_weights_are_refused(base: Path, tmp_path: Path) -> None:
    """Outputs that are not finite are no numbers to compare."""
    one = factory.make_adapter(base, tmp_path / "one")
    merged = merged_by_peft(base, one, tmp_path / "merged", torch.bfloat16)
    spoil = "model.layers.0.mlp.down_proj.weight"
    factory.edit_tensors(merged, lambda t: t[spoil].fill_(float("nan")), "model.safetensors")
    with pytest.raises(InputRefused, match="not finite"):
        compared(base, [(one, 1.0)], merged)


def test_a_prompt_for_pictures_is_refused(tmp_path: Path) -> None:
    """A model of images takes no prompt."""
    base = factory.make_base(tmp_path / "base", "resnet")
    one = factory.make_adapter(base, tmp_path / "one")
    with pytest.raises(InputRefused, match="no text"):
        compared(base, [(one, 1.0)], base, "resnet", prompts=["a cat"])


def test_an_adapter_that_fits_in_part_is_refused(base: Path, tmp_path: Path) -> None:
    """PEFT would go on with a warning; a proof of half an adapter is none."""
    one = factory.make_adapter(base, tmp_path / "one")
    factory.edit_tensors(one, lambda t: t.update(stray=torch.ones(2)))
    with pytest.raises(Incompatible, match="stray"):
        compared(base, [(one, 1.0)], base)


def test_distance() -> None:
    """Distances are those of the plain formulas, over all inputs together."""
    generator = torch.Generator().manual_seed(0)
    reference = [torch.randn((rows, 5), generator=generator) for rows in (3, 4)]
    other = [one + 0.3 * torch.randn(one.shape, generator=generator) for one in reference]
    p, q = torch.cat(reference).double().numpy(), torch.cat(other).double().numpy()
    log_p = p - np.log(np.exp(p).sum(1, keepdims=True))
    log_q = q - np.log(np.exp(q).sum(1, keepdims=True))
    found = distance(reference, other)

    assert spread(reference) == pytest.approx(p.std())
    assert found.largest == pytest.approx(np.abs(p - q).max() / p.std())
    assert found.mean == pytest.approx(np.abs(p - q).mean() / p.std())
    assert found.divergence == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(1).mean())
    assert found.agreement == pytest.approx((p.argmax(1) == q.argmax(1)).mean())


def test_hidden_states_have_no_classes() -> None:
    """What is no logits has no divergence and no largest class."""
    found = distance([torch.ones(2, 3)], [torch.zeros(2, 3)], logits=False)

    assert (1.0, None, None) == (found.mean, found.divergence, found.agreement)
