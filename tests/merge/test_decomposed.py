"""PiSSA and OLoRA saved unconverted: what is left of W, against PEFT and float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import factory
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from adreg.registry import Registry
from adreg.registry.errors import Incompatible, MergeRefused
from adreg.registry.merge.deltas import decomposed
from adreg.registry.merge.deltas.decomposed import Decompositions
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.merge.terms import Decomposed

Array = np.ndarray[Any, Any]
SHAPES = {"square": (40, 40), "tall": (72, 24), "wide": (24, 72)}


def matrix(rows: int, columns: int, seed: int = 0) -> Array:
    """Return a seeded matrix whose values float32 holds."""
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def of(weight: Array) -> Decompositions:
    """Return what computes the parts of a matrix."""

    def load(tile: Tile) -> Array:
        return weight[tile.row : tile.row_stop, tile.column : tile.column_stop]

    return Decompositions("w.weight", load, *weight.shape)


def part(weight: Array, term: Decomposed) -> Array:
    """Return the part that is taken away, whole."""
    left, right = of(weight).part(term)
    return np.asarray(left @ right.T)


def exactly(weight: Array, kind: str, rank: int, scale: float) -> Array:
    """Return the same by LAPACK's whole decompositions in float64."""
    wide = weight.astype(np.float64)
    if kind == "pissa":
        u, s, v = np.linalg.svd(wide, full_matrices=False)
        return np.asarray((u[:, :rank] * s[:rank]) @ v[:rank])
    q, r = np.linalg.qr(wide)
    return np.asarray(scale * q[:, :rank] @ r[:rank])


@pytest.mark.parametrize("block", [50, decomposed._BLOCK], ids=["small blocks", "one block"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_the_part_in_float64(
    kind: Any, shape: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of a whole decomposition in float64, however W is cut in blocks."""
    monkeypatch.setattr(decomposed, "_BLOCK", block)
    weight = matrix(*SHAPES[shape])

    ours = part(weight, Decomposed(kind, 5, 1.7))

    np.testing.assert_allclose(ours, exactly(weight, kind, 5, 1.7), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_the_part_that_peft_takes(
    kind: Any, shape: str, dtype: torch.dtype, *, rslora: bool
) -> None:
    """What PEFT leaves of a layer is W less the part, to the rounding of PEFT's arithmetic."""
    weight = torch.from_numpy(matrix(*SHAPES[shape], seed=1)).to(dtype)
    linear = nn.Linear(*SHAPES[shape][::-1], bias=False, dtype=dtype)
    model = nn.Sequential(linear)
    linear.weight.data = weight.clone()
    config = peft.LoraConfig(
        r=6, lora_alpha=9, use_rslora=rslora, init_lora_weights=kind, target_modules=["0"]
    )
    wrapped: Any = peft.get_peft_model(model, config)
    layer = wrapped.base_model.model[0]

    ours = part(weight.float().numpy(), Decomposed(kind, 6, layer.scaling["default"]))

    left = layer.get_base_layer().weight.detach().double().numpy()
    exact = weight.double().numpy() - ours
    # PEFT rounds what is left to bfloat16 (its float32 part moves that by a bit at times).
    rounding = 0.0 if dtype == torch.float32 else 2.0**-8
    np.testing.assert_allclose(exact, left, rtol=rounding, atol=1e-4)
    assert np.abs(ours).max() > 0.5


def test_all_of_it() -> None:
    """A rank as large as the smaller side leaves nothing of W, whatever its values are."""
    for shape in SHAPES.values():
        weight = matrix(*shape)
        weight[:, 1] = weight[:, 0]

        ours = part(weight, Decomposed("pissa", min(shape), 1.0))

        np.testing.assert_allclose(ours, weight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        part(matrix(24, 72), Decomposed("olora", 24, 1.0)), matrix(24, 72), rtol=0, atol=1e-12
    )


def with_values(values: Array) -> Array:
    """Return a square float64 matrix with these singular values."""
    u, v = (
        np.linalg.qr(matrix(len(values), len(values), seed).astype(float))[0] for seed in (3, 4)
    )
    return np.asarray((u * values) @ v.T)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_nearly_equal_singular_values(rank: int) -> None:
    """Where float32 cannot tell the r-th from the next, the merge is refused with the reason."""
    values = np.linspace(3, 1, 12)
    values[rank] = values[rank - 1] * (1 - 1e-7)

    with pytest.raises(MergeRefused) as refused:
        part(with_values(values), Decomposed("pissa", rank, 1.0))

    expected = (
        f"'w.weight' does not tell PiSSA's part of rank {rank}: singular values {rank} and"
        f" {rank + 1} of W differ by 1e-07 of their size"
    )
    assert (expected,) == refused.value.reasons
    assert "path_initial_model_for_weight_conversion" in str(refused.value.hint)


def test_a_gap_that_is_enough() -> None:
    """A gap ten times float32's own error is enough, for adreg's float64 to the tenth digit."""
    values = np.linspace(3, 1, 12)
    values[4] = values[3] - 3 * 2.0**-17

    weight = with_values(values)

    np.testing.assert_allclose(
        part(weight, Decomposed("pissa", 4, 1.0)), exactly(weight, "pissa", 4, 1.0), atol=1e-10
    )


def test_equal_singular_values_of_nothing() -> None:
    """Of a matrix of a lower rank than the adapter's all is taken: there is nothing to tell."""
    values = np.array([3.0, 2.0, 1.0, *[0.0] * 9])

    weight = with_values(values)

    np.testing.assert_allclose(part(weight, Decomposed("pissa", 5, 1.0)), weight, atol=1e-7)
    assert not part(np.zeros((6, 4)), Decomposed("pissa", 2, 1.0)).any()


def test_columns_in_the_span_of_others() -> None:
    """OLoRA's Q of nearly dependent columns is refused; a column of zeros is no doubt."""
    weight = matrix(40, 24)
    weight[:, 2] = 0
    ours = part(weight, Decomposed("olora", 5, 1.0))
    np.testing.assert_allclose(ours, exactly(weight, "olora", 5, 1.0), rtol=0, atol=1e-12)

    weight[:, 3] = weight[:, 0] + weight[:, 1]
    with pytest.raises(MergeRefused) as refused:
        part(weight, Decomposed("olora", 5, 1.0))

    expected = "'w.weight' does not tell OLoRA's Q: column 3 is in the span of those before it"
    assert (expected,) == refused.value.reasons


def test_what_is_not_finite() -> None:
    """A W with a NaN has no decomposition, and is refused by name."""
    weight = matrix(6, 4)
    weight[2, 1] = np.nan

    with pytest.raises(MergeRefused, match=r"'w\.weight' does not tell PiSSA's part: W holds"):
        part(weight, Decomposed("pissa", 2, 1.0))


Adapter = Callable[..., tuple[Path, Path]]


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    """Make a base and an adapter that was trained away from its decomposition."""

    def make(kind: str, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Path, Path]:
        base = factory.make_base(tmp_path / "base", kind, dtype=dtype)
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: Any = peft.get_peft_model(
                factory.load_base(base, torch.float32), peft.LoraConfig(**settings)
            )
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.data += torch.randn_like(parameter) * 0.05
            model.save_pretrained(str(tmp_path / "adapter"))
        return base, tmp_path / "adapter"

    return make


LINEAR = ["q_proj", "k_proj", "down_proj", "up_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "square, wide and tall": ("llama", {"target_modules": LINEAR, "lora_alpha": 5}),
    "rsLoRA": ("llama", {"target_modules": LINEAR, "use_rslora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": LINEAR,
            "rank_pattern": {"down_proj": 2, "layers.0.self_attn.q_proj": 7},
            "alpha_pattern": {"up_proj": 3},
        },
    ),
    "DoRA": ("llama", {"target_modules": LINEAR, "use_dora": True}),
    "Conv1D": ("gpt2", {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}),
    "a head": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "an embedding beside": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "trained biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
}


def by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return PEFT's merge: decomposed in float32, which it asks for, merged in float64."""
    model = factory.load_adapter(base, adapter, dtype=torch.float32)
    model.double()
    merged: nn.Module = model.merge_and_unload(safe_merge=True)
    return dict(merged.state_dict())


def by_adreg(home: Path, base: Path, adapter: Path, **more: Any) -> dict[str, torch.Tensor]:
    """Return adreg's merge."""
    recipe = Recipe((RecipeAdapter(str(adapter), more.pop("weight", 1.0)),), str(base), **more)
    merged = Registry(home).merge(recipe, name="merged")
    return load_file(merged.folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["pissa", "olora"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_peft_merges_it(
    home: Path, adapter: Adapter, case: str, kind: str, dtype: torch.dtype
) -> None:
    """Each merged tensor is PEFT's, to the error of PEFT's decomposition in float32."""
    model, settings = CASES[case]
    base, trained = adapter(model, dtype, r=4, init_lora_weights=kind, **settings)

    ours = by_adreg(home, base, trained, precision="float64", dtype="float32")

    exact, before = by_peft(base, trained), load_file(base / "model.safetensors")
    changed = [name for name in before if not torch.equal(before[name].float(), ours[name])]
    assert len(changed) >= 2
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor.double(), exact[name].double(), rtol=1e-5, atol=3e-6)


def test_a_base_in_bfloat16(home: Path, adapter: Adapter) -> None:
    """Written in bfloat16 it is PEFT's float64 merge rounded once, as float32 sums allow."""
    base, trained = adapter(
        "llama", torch.bfloat16, target_modules=LINEAR, r=4, init_lora_weights="pissa"
    )

    ours = by_adreg(home, base, trained)

    for name, exact in by_peft(base, trained).items():
        off = (ours[name].double() - exact.double()).abs()
        assert bool((off <= exact.double().abs() * 2.0**-8 + 1e-6).all()), name


def test_a_weight(home: Path, adapter: Adapter) -> None:
    """Half of it moves W half as far as PEFT's merge does: the delta is that from W."""
    base, trained = adapter("llama", target_modules=LINEAR, r=4, init_lora_weights="olora")

    ours = by_adreg(home, base, trained, weight=0.5)

    before = load_file(base / "model.safetensors")
    for name, exact in by_peft(base, trained).items():
        half = (before[name].double() + exact.double()) / 2
        torch.testing.assert_close(ours[name].double(), half, rtol=1e-5, atol=3e-6)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "convolution": (
        "resnet",
        {"target_modules": ["convolution"]},
        "is no linear layer, and pissa takes a part of linear layers' W away",
    ),
    "tied head": (
        "llama-tied",
        {"target_modules": ["lm_head"]},
        "'lm_head' is tied to the embedding, from which PEFT takes pissa's part too",
    ),
    "experts": (
        "mixtral",
        {"target_modules": [], "target_parameters": ["experts.down_proj"]},
        "is no linear layer, and pissa takes a part of linear layers' W away",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_it_is_refused(tmp_path: Path, home: Path, case: str) -> None:
    """Layers of which PEFT takes no part away, or that of another too, are refused by name."""
    kind, settings, words = REFUSED[case]
    make = architectures.make_base if kind == "mixtral" else factory.make_base
    base = make(tmp_path / "base", kind)
    trained = factory.make_adapter(base, tmp_path / "adapter", r=2, **settings)
    factory.edit_config(trained, init_lora_weights="pissa")

    with pytest.raises(Incompatible) as refused:
        by_adreg(home, base, trained)

    assert words in str(refused.value)
