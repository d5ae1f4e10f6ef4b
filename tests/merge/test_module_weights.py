"""Weights of modules by pattern: factors on the adapters' weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file

from adreg.cli.main import main
from adreg.registry import Registry
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.recipe import Fault, Recipe, RecipeAdapter, module_weight

Tensors = dict[str, torch.Tensor]
GLOBAL = {r"layers\.0\..*": 0.5, "v_proj": 0.0, "q_proj": 3.0, "(self_attn|down_proj)": 2.0}
"""The first takes all of layer 0, so the others are layer 1's; no module ends in self_attn."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base in float32, a LoRA on q, v and down with a saved norm, and a DoRA on all."""
    root = tmp_path_factory.mktemp("weights")
    base = factory.make_base(root / "base", dtype=torch.float32)
    one = factory.make_adapter(base, root / "one", seed=1)
    two = factory.make_adapter(
        base, root / "two", seed=2, target_modules="all-linear", use_dora=True
    )
    return base, one, two


@pytest.fixture(scope="module")
def deltas(folders: tuple[Path, Path, Path]) -> tuple[Tensors, Tensors, Tensors]:
    """W and what PEFT makes of each adapter less W, in float64."""
    base, *adapters = folders
    before = {n: t.double() for n, t in load_file(base / "model.safetensors").items()}
    found = []
    for adapter in adapters:
        alone = factory.load_adapter(base, adapter, dtype=torch.float64).double()
        state = alone.merge_and_unload().state_dict()
        found.append({name: state[name] - before[name] for name in before})
    return before, found[0], found[1]


def merge(home: Path, recipe: Mapping[str, Any]) -> Tensors:
    """Merge a recipe in float64 and return the tensors."""
    asked = Recipe.from_dict({"precision": "float64", **recipe})
    return load_file(Registry(home).merge(asked, name="mix").folder / "model.safetensors")


def check(ours: Tensors, exact: Tensors) -> None:
    """Compare with float64 sums that are rounded once."""
    assert sorted(exact) == sorted(ours)
    for name, tensor in exact.items():
        assert torch.allclose(tensor, ours[name].double(), rtol=7e-8, atol=1e-10), name


def factor(patterns: Mapping[str, float], tensor: str) -> float:
    """Return the factor by PEFT's own matching of rank_pattern; 1 where none matches."""
    module = tensor.removesuffix(".weight")
    key = get_pattern_key(tuple(patterns), module)
    return patterns.get(key, 1.0)


def test_factors_for_all_adapters(
    home: Path, folders: tuple[Path, Path, Path], deltas: tuple[Tensors, Tensors, Tensors]
) -> None:
    """Each pattern scales all deltas of the modules whose names end in it; the first counts."""
    base, one, two = folders
    before, first, second = deltas
    adapters = [{"ref": str(one), "weight": 0.7}, {"ref": str(two), "weight": -0.4}]

    ours = merge(home, {"base": str(base), "adapters": adapters, "weights": GLOBAL})

    exact = {
        name: w + factor(GLOBAL, name) * (0.7 * first[name] - 0.4 * second[name])
        for name, w in before.items()
    }
    check(ours, exact)
    assert {0.0, 0.5, 1.0, 2.0, 3.0} == {factor(GLOBAL, name) for name in before}
    still = "model.layers.1.self_attn.v_proj.weight"
    assert first[still].any()
    assert torch.equal(before[still].float(), ours[still])


def test_an_adapters_own_factors(
    home: Path, folders: tuple[Path, Path, Path], deltas: tuple[Tensors, Tensors, Tensors]
) -> None:
    """Factors of one adapter are its own, and count more than those for all."""
    base, one, two = folders
    before, first, second = deltas
    own = {"q_proj": -1.0, r"self_attn\.v_proj": 0.0}
    everyone = {"q_proj": 5.0, "down_proj": 0.25}
    adapters = [{"ref": str(one), "weight": 2.0, "weights": own}, str(two)]

    ours = merge(home, {"base": str(base), "adapters": adapters, "weights": everyone})

    exact = {
        name: w
        + 2.0 * factor({**everyone, **own}, name) * first[name]
        + factor(everyone, name) * second[name]
        for name, w in before.items()
    }
    check(ours, exact)


def test_with_a_method(
    home: Path, folders: tuple[Path, Path, Path], deltas: tuple[Tensors, Tensors, Tensors]
) -> None:
    """A method sees the weights of each module; where all are 0 it leaves the module alone."""
    base, one, two = folders
    before, first, second = deltas
    own, everyone = {"q_proj": 3.0}, {r"layers\.1\..*": 0.0}
    asked = {
        "base": str(base),
        "adapters": [{"ref": str(one), "weights": own}, {"ref": str(two), "weight": 0.5}],
        "weights": everyone,
        "method": "ties",
        "parameters": {"density": 1.0},
    }

    ours = merge(home, asked)

    exact = {}
    for name, w in before.items():
        weight = factor({**own, **everyone}, name)
        other = 0.5 * factor(everyone, name)
        a, b = weight * first[name], other * second[name]
        plus = a + b >= 0
        agree = [torch.where(plus, part > 0, part < 0) for part in (a, b)]
        divisor = abs(weight) * agree[0] + abs(other) * agree[1]
        total = agree[0] * a + agree[1] * b
        exact[name] = w + total / torch.where(divisor == 0, 1, divisor)
    check(ours, exact)
    still = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(before[still].float(), ours[still])
    # The adapter's own pattern comes first, also where the one for all says 0.
    assert not torch.equal(
        before["model.layers.1.self_attn.q_proj.weight"].float(),
        ours["model.layers.1.self_attn.q_proj.weight"],
    )


def test_with_a_combination_of_factors(
    home: Path, folders: tuple[Path, Path, Path], deltas: tuple[Tensors, Tensors, Tensors]
) -> None:
    """An adapter that is made of the adapters first is scaled by module like any other."""
    base, one, _ = folders
    before, first, _ = deltas

    ours = merge(
        home,
        {"base": str(base), "adapters": [str(one)], "method": "cat", "weights": {"v_proj": 0.5}},
    )

    check(ours, {n: w + factor({"v_proj": 0.5}, n) * first[n] for n, w in before.items()})


def test_a_fine_tune_by_module(
    tmp_path: Path, home: Path, folders: tuple[Path, Path, Path]
) -> None:
    """A whole checkpoint's delta is scaled by module too."""
    base, one, _ = folders
    tuned = tmp_path / "tuned"
    Registry(home).merge(Recipe((RecipeAdapter(str(one)),), str(base)), output=tuned)

    asked = {"base": str(base), "adapters": [f"full:{tuned}"], "weights": {"q_proj": 0.0}}
    ours = merge(home, asked)

    before, after = (load_file(f / "model.safetensors") for f in (base, tuned))
    for name, tensor in ours.items():
        expected = before if name.endswith("q_proj.weight") else after
        assert torch.equal(expected[name], tensor), name


def test_modules_by_their_names_on_disk(tmp_path: Path, home: Path) -> None:
    """Patterns match the names that stand in the files: GPT-2's transformer.h.0.attn.c_attn."""
    base = factory.make_base(tmp_path / "base", "gpt2", dtype=torch.float32)
    adapter = factory.make_adapter(base, tmp_path / "adapter", fan_in_fan_out=True)
    before = load_file(base / "model.safetensors")

    weights = {r"h\.0\.attn\.c_attn": 0.0}
    ours = merge(home, {"base": str(base), "adapters": [str(adapter)], "weights": weights})

    c_attn = [name for name in before if name.endswith("c_attn.weight")]
    assert [True, False] == [torch.equal(before[name], ours[name]) for name in sorted(c_attn)]


def test_all_of_them_0(tmp_path: Path, home: Path, folders: tuple[Path, Path, Path]) -> None:
    """Where no module is left that changes, the merge is refused and names the flag."""
    base, one, _ = folders
    recipe = Recipe((RecipeAdapter(str(one)),), str(base), weights=((".*", 0.0),))

    with pytest.raises(MergeRefused) as caught:
        Registry(home).merge(recipe, output=tmp_path / "out")

    assert "the weights of all modules that the adapters touch are 0" in str(caught.value)
    assert "--weight" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_pattern_for_nothing(
    tmp_path: Path, home: Path, folders: tuple[Path, Path, Path]
) -> None:
    """A pattern that no touched module matches would be a mistake that nobody sees: refused."""
    base, one, _ = folders
    recipe = Recipe((RecipeAdapter(str(one)),), str(base), weights=(("q_prj", 0.5),))

    with pytest.raises(MergeRefused, match="q_prj"):
        Registry(home).merge(recipe, output=tmp_path / "out")


def test_the_order_of_patterns_makes_another_model(
    home: Path, folders: tuple[Path, Path, Path]
) -> None:
    """Which pattern comes first is part of what was asked: another order is another model."""
    base, one, _ = folders
    adapters, registry = (RecipeAdapter(str(one)),), Registry(home)
    patterns = (("q_proj", 0.5), (".*", 2.0))

    first = registry.merge(Recipe(adapters, str(base), weights=patterns), name="first")
    second = registry.merge(Recipe(adapters, str(base), weights=patterns[::-1]), name="second")

    assert second.new
    assert first.folder != second.folder


def test_flags_are_the_recipe(tmp_path: Path, home: Path, folders: tuple[Path, Path, Path]) -> None:
    """``--weight`` given twice is a recipe's map of two, and takes the place of a file's."""
    base, one, _ = folders
    weights = {r"layers\.(0|9)\..*": -0.5, "v_proj": 0.25}
    exact = merge(home, {"base": str(base), "adapters": [str(one)], "weights": weights})
    file = tmp_path / "recipe.yaml"
    file.write_text(f"base: {base}\nadapters: ['{one}']\nweights: {{q_proj: 7}}\n")
    flags = [part for text in weights.items() for part in ("--weight", "{}={}".format(*text))]
    said = ["-q", "merge", "--recipe", str(file), *flags, "--precision", "float64"]

    with pytest.raises(SystemExit) as exited:
        main([*said, "-o", str(tmp_path / "out")])

    assert not exited.value.code
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(exact[name], ours[name]) for name in exact)


FLAGS = {
    "q_proj=0.5": ("q_proj", 0.5),
    r"layers\.(0|1)\..*=-0.3": (r"layers\.(0|1)\..*", -0.3),
    "a=b=2": ("a=b", 2.0),
    "v_proj=0": ("v_proj", 0.0),
    ".*=1e-3": (".*", 0.001),
}


@pytest.mark.parametrize("text", FLAGS)
def test_a_flag(text: str) -> None:
    """The number stands behind the last equals sign."""
    assert FLAGS[text] == module_weight(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q_proj", "'q_proj' is not PATTERN=WEIGHT"),
        ("=0.5", "'=0.5' is not PATTERN=WEIGHT"),
        ("q_proj=", "'' in 'q_proj=' is not a number"),
        ("q_proj=much", "'much' in 'q_proj=much' is not a number"),
        ("q_proj=nan", "is not a finite number"),
        ("q_proj=inf", "is not a finite number"),
        ("(=0.5", "the pattern '(' is no regular expression"),
        ("(a+)+=0.5", "the pattern '(a+)+' repeats a repetition and could take for ever"),
    ],
)
def test_a_flag_that_is_wrong(text: str, words: str) -> None:
    """What is wrong with a flag is said in words."""
    with pytest.raises(ValueError, match=re.escape(words)):
        module_weight(text)


def test_a_combination_has_no_adapters_own_factors(folders: tuple[Path, Path, Path]) -> None:
    """Methods that make one adapter first refuse factors of single adapters, and say where."""
    _, one, _ = folders
    adapters = [{"ref": str(one), "weights": {"q_proj": 2}}]

    with pytest.raises(Fault, match="weights of modules are for all") as caught:
        Recipe.from_dict({"adapters": adapters, "method": "cat"})

    assert ("adapters", 0, "weights") == caught.value.path
