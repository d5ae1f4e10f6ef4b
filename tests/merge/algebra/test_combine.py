"""Combined adapters, loaded by PEFT: against PEFT's own combinations, and by hand where it errs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.merge.algebra.combine import (
    METHODS,
    CombinedAdapter,
    Settings,
    combine_specs,
)
from adreg.registry.merge.algebra.low_rank import Target

Deltas = Callable[..., dict[str, torch.Tensor]]
WEIGHTS = (0.7, -0.4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with adapters for different modules: linear layers, an embedding, other ranks."""
    root = tmp_path_factory.mktemp("combine")
    base = factory.make_base(root / "base", "llama", dtype=torch.float32)
    factory.make_adapter(base, root / "one", seed=1)
    modules = ["q_proj", "embed_tokens", "down_proj"]
    factory.make_adapter(base, root / "two", seed=2, target_modules=modules, lora_alpha=3)
    factory.make_adapter(
        base,
        root / "patterned",
        seed=3,
        r=3,
        use_rslora=True,
        rank_pattern={"layers.1.self_attn.q_proj": 5},
        alpha_pattern={"down_proj": 20},
    )
    return root


def combined(
    root: Path, names: tuple[str, ...], out: Path, weights: tuple[float, ...] = WEIGHTS, **how: Any
) -> CombinedAdapter:
    """Combine adapters of the root into the new folder ``out``."""
    out.mkdir()
    specs = [read_adapter(root / name) for name in names]
    return combine_specs(list(zip(specs, weights, strict=True)), Settings(**how), out)


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the largest relative difference of two adapters' deltas, module by module."""
    assert set(theirs) == set(ours)
    return max(float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs)


@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize("method", METHODS)
def test_as_peft_combines(
    root: Path, tmp_path: Path, deltas: Deltas, method: str, majority: str
) -> None:
    """Each method gives the deltas of PEFT's own, on linear layers and an embedding.

    DARE draws, so it is compared where nothing is dropped.
    """
    if majority == "frequency" and "ties" not in method:
        return
    peft: dict[str, Any] = {"svd_rank": 3, "majority_sign_method": majority}
    ours: dict[str, Any] = {"majority": majority}
    if method.endswith("svd"):
        ours["target"] = Target(3)
    if "ties" in method or "dare" in method or "prune" in method:
        peft["density"] = ours["density"] = 1.0 if "dare" in method else 0.5

    made = combined(root, ("one", "two"), tmp_path / "out", method=method, **ours)

    name = method.removeprefix("factors_").removeprefix("peft_")
    theirs = deltas(
        root / "base",
        [root / "one", root / "two"],
        weights=list(WEIGHTS),
        combination_type=name,
        **peft,
    )
    assert 7 == len(theirs)
    assert difference(deltas(root / "base", tmp_path / "out"), theirs) < 1e-5
    assert len(made.modules) == 7


def by_hand(root: Path, deltas: Deltas, names: tuple[str, ...], weights: tuple[float, ...]) -> Any:
    """Return the weighted sums of the deltas that PEFT has for the adapters alone."""
    total: dict[str, torch.Tensor] = {}
    for name, weight in zip(names, weights, strict=True):
        for module, delta in deltas(root / "base", root / name).items():
            total[module] = total.get(module, 0) + weight * delta
    return total


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_right_where_peft_is_not(root: Path, tmp_path: Path, deltas: Deltas, method: str) -> None:
    """Ranks and alphas of single modules, and rsLoRA, count just once, as they do alone."""
    names = ("patterned", "one", "two")
    weights = (1.0, 0.5, -2.0)
    target = Target(32) if method == "svd" else None

    made = combined(root, names, tmp_path / "out", weights, method=method, target=target)

    expected = by_hand(root, deltas, names, weights)
    assert difference(deltas(root / "base", tmp_path / "out"), expected) < 1e-6
    assert made.relative is not None
    assert made.relative < 1e-6
    ranks = {one.name.partition(".layers.")[2]: one.rank for one in made.modules}
    assert ranks["1.self_attn.q_proj"] == 5 + 4 + 4
    assert ranks["0.self_attn.q_proj"] == 3 + 4 + 4
    assert ranks["0.self_attn.v_proj"] == 3 + 4


def test_peft_linear_on_rslora(root: Path, tmp_path: Path, deltas: Deltas) -> None:
    """PEFT's linear is s B A of one adapter alone, rsLoRA too, where PEFT scales twice."""
    made = combined(root, ("patterned",), tmp_path / "out", (0.3,), method="factors_linear")

    expected = by_hand(root, deltas, ("patterned",), (0.3,))
    assert difference(deltas(root / "base", tmp_path / "out"), expected) < 1e-6
    assert made.relative is None  # there is no delta that it should have been


def test_the_error_is_the_true_one(root: Path, tmp_path: Path, deltas: Deltas) -> None:
    """The errors that are told are those of the folder's deltas, rounding to 16 bits included."""
    made = combined(
        root, ("one", "two"), tmp_path / "out", method="svd", target=Target(3), dtype="BF16"
    )

    exact = by_hand(root, deltas, ("one", "two"), WEIGHTS)
    ours = deltas(root / "base", tmp_path / "out")
    for one in made.modules:
        error = float((ours[one.name] - exact[one.name]).norm())
        singular = torch.linalg.svdvals(exact[one.name])
        assert one.error is not None
        assert np.isclose(error, one.error, rtol=1e-4)
        assert np.isclose(float(exact[one.name].norm()), one.norm, rtol=1e-5)
        assert float(singular[3:].norm()) <= error <= 1.01 * float(singular[3:].norm())
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {torch.bfloat16} == {one.dtype for name, one in tensors.items() if "lora_" in name}


@pytest.mark.parametrize("kind", ["gpt2", "resnet", "bert", "llama-tied"])
@pytest.mark.parametrize("method", ["cat", "svd"])
def test_other_layers(tmp_path: Path, deltas: Deltas, kind: str, method: str) -> None:
    """Conv1D and convolutions keep their shapes, and the sum is exact there too."""
    base = factory.make_base(tmp_path / "base", kind, dtype=torch.float32)
    for seed in (1, 2):
        factory.make_adapter(base, tmp_path / f"a{seed}", seed=seed, r=seed + 1)
    target = Target(5) if method == "svd" else None

    combined(tmp_path, ("a1", "a2"), tmp_path / "out", method=method, target=target)

    expected = by_hand(tmp_path, deltas, ("a1", "a2"), WEIGHTS)
    assert difference(deltas(base, tmp_path / "out"), expected) < 1e-5


def test_dare_draws_by_adapter(root: Path, tmp_path: Path) -> None:
    """DARE with a seed is the same in any order of the adapters, and another with another seed."""
    files = []
    for number, (names, weights, seed) in enumerate(
        [
            (("one", "two"), (0.7, -0.4), 0),
            (("two", "one"), (-0.4, 0.7), 0),
            (("one", "two"), (0.7, -0.4), 1),
        ]
    ):
        out = tmp_path / str(number)
        combined(root, names, out, weights, method="factors_dare_linear", density=0.5, seed=seed)
        files.append(load_file(out / "adapter_model.safetensors"))
    one, turned, other = files

    assert all(torch.equal(one[name], turned[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    zeros = torch.cat([(tensor == 0).flatten() for name, tensor in one.items() if "v_proj" in name])
    assert 0.4 < float(zeros.double().mean()) < 0.6


def test_the_same_bytes_again(root: Path, tmp_path: Path) -> None:
    """The same combination writes the same files, byte for byte."""
    for name in ("x", "y"):
        combined(root, ("one", "two"), tmp_path / name, method="svd", target=Target(2))

    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()
    assert ["README.md", "adapter_config.json", "adapter_model.safetensors"] == sorted(
        path.name for path in (tmp_path / "x").iterdir()
    )


def test_lora_biases_add_up(tmp_path: Path) -> None:
    """Trained biases of B are summed with weight and scale, as PEFT's merge would add them."""
    base = factory.make_base(tmp_path / "base", "qwen2", dtype=torch.float32)
    states = []
    for seed in (1, 2):
        settings: dict[str, Any] = {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]}
        factory.make_adapter(base, tmp_path / f"a{seed}", seed=seed, **settings)
        model = factory.load_adapter(base, tmp_path / f"a{seed}", torch.float32)
        states.append(model.merge_and_unload().state_dict())

    combined(tmp_path, ("a1", "a2"), tmp_path / "out", method="cat")

    before = factory.load_base(base).state_dict()
    merged = factory.load_adapter(base, tmp_path / "out").merge_and_unload().state_dict()
    changed = [name for name in before if not torch.equal(states[0][name], before[name])]
    assert 8 == len(changed)
    for name in changed:
        expected = before[name].double()
        for state, weight in zip(states, WEIGHTS, strict=True):
            expected = expected + weight * (state[name].double() - before[name])
        assert torch.allclose(expected, merged[name].double(), atol=1e-5)


def test_whole_modules_are_kept(tmp_path: Path) -> None:
    """A module that one adapter saved whole, at weight 1, is in the combination as it was."""
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    factory.make_adapter(base, tmp_path / "a1", seed=1)
    factory.make_adapter(base, tmp_path / "a2", seed=2, modules_to_save=["lm_head"], bias="all")

    combined(tmp_path, ("a1", "a2"), tmp_path / "out", (0.5, 1.0), method="cat")

    key = "base_model.model.lm_head.weight"
    ours, theirs = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "a2")
    )
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert torch.equal(ours[key], theirs[key])
    assert ["lm_head"] == config["modules_to_save"]
    loaded = factory.load_adapter(base, tmp_path / "out").state_dict()
    assert torch.equal(
        loaded["base_model.model.lm_head.modules_to_save.default.weight"], theirs[key]
    )


def test_trained_biases_go_where_peft_finds_them(tmp_path: Path) -> None:
    """A bias that one adapter trained stays whole, though another puts factors on its module."""
    base = factory.make_base(tmp_path / "base", "qwen2", dtype=torch.float32)
    factory.make_adapter(base, tmp_path / "a1", seed=1, target_modules=["q_proj"])
    factory.make_adapter(base, tmp_path / "a2", seed=2, target_modules=["v_proj"], bias="all")

    combined(tmp_path, ("a1", "a2"), tmp_path / "out", (0.5, 1.0), method="cat")

    trained = factory.load_adapter(base, tmp_path / "a2").merge_and_unload().state_dict()
    ours = factory.load_adapter(base, tmp_path / "out").merge_and_unload().state_dict()
    biases = [name for name in trained if name.endswith(".bias")]
    assert 6 == len(biases)
    assert all(torch.equal(trained[name], ours[name]) for name in biases)


def test_raw_dumps(root: Path, tmp_path: Path, deltas: Deltas) -> None:
    """Adapters whose keys still hold the adapter's name combine into one that PEFT reads."""
    dump = tmp_path / "dump"
    factory.make_adapter(root / "base", dump, seed=1, modules_to_save=["lm_head"])
    expected = deltas(root / "base", dump)

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            raw = name.replace(".weight", ".default.weight")
            raw = raw.replace("lm_head.default", "lm_head.modules_to_save.default")
            tensors[raw] = tensors.pop(name)

    factory.edit_tensors(dump, rename)

    combined(tmp_path, ("dump",), tmp_path / "out", (1.0,), method="cat")

    assert difference(deltas(root / "base", tmp_path / "out"), expected) < 1e-6
    assert "base_model.model.lm_head.weight" in load_file(
        tmp_path / "out" / "adapter_model.safetensors"
    )


def test_the_modules_are_chosen_as_before(root: Path, tmp_path: Path) -> None:
    """Adapters of the same modules keep their target_modules; others are named one by one."""
    combined(root, ("one", "patterned"), tmp_path / "same", method="cat")
    combined(root, ("one", "two"), tmp_path / "mixed", method="cat")

    same, mixed = (
        json.loads((tmp_path / name / "adapter_config.json").read_text())
        for name in ("same", "mixed")
    )
    assert {"q_proj", "v_proj", "down_proj"} == set(same["target_modules"])
    assert 7 == len(mixed["target_modules"])
    assert "model.embed_tokens" in mixed["target_modules"]
    assert not same["use_rslora"]


def test_without_a_folder_nothing_is_written(root: Path) -> None:
    """Without a folder the ranks, errors and sizes are told all the same."""
    specs = [read_adapter(root / name) for name in ("one", "two")]

    made = combine_specs(list(zip(specs, WEIGHTS, strict=True)), Settings("svd", Target(2)), None)

    assert () == made.files
    assert {2} == {one.rank for one in made.modules}
    assert made.nbytes == 4 * made.parameters > 0
