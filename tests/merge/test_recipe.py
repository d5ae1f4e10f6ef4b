"""Recipes: what they say and hold, and every mistake in one with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from adreg.registry.errors import InputRefused, RecipeRefused
from adreg.registry.merge.algebra.combine import METHODS as COMBINATIONS
from adreg.registry.merge.methods.method import METHODS
from adreg.registry.merge.recipe import (
    _FIELDS,
    Fault,
    Recipe,
    RecipeAdapter,
    parse_size,
    read_recipe,
    recipe_adapter,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes.md"
WHOLE: dict[str, Any] = {
    "base": "acme/llama",
    "adapters": [
        {"ref": "team/one@prod", "weight": -0.5, "weights": {"q_proj": 2.0, ".*": 0.0}},
        {"ref": "full:./tuned", "weight": 1.0},
    ],
    "method": "della",
    "parameters": {"density": 0.5, "epsilon": 0.25, "seed": 3, "lambda": 0.9, "sign": "frequency"},
    "weights": {r"layers\.0\..*": 0.25, "lm_head": 0.0},
    "dtype": "float16",
    "max_shard_size": 5_000_000_000,
    "precision": "float64",
    "tokenizer": "base",
    "dequantize": True,
    "allow_code": True,
}


def write(folder: Path, text: str) -> Path:
    """Write a recipe file."""
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> RecipeRefused:
    """Return the error that refuses a recipe file."""
    with pytest.raises(RecipeRefused) as caught:
        read_recipe(write(folder, text))
    return caught.value


def test_all_fields_there_and_back() -> None:
    """A recipe that says everything is the same after to_dict and from_dict."""
    recipe = Recipe.from_dict(WHOLE)

    assert set(WHOLE) == _FIELDS
    assert set(Recipe.__dataclass_fields__) == _FIELDS
    assert recipe == Recipe.from_dict(recipe.to_dict())
    assert recipe == Recipe(
        adapters=(
            RecipeAdapter("team/one@prod", -0.5, (("q_proj", 2.0), (".*", 0.0))),
            RecipeAdapter("full:./tuned", 1.0),
        ),
        base="acme/llama",
        method="della",
        parameters=WHOLE["parameters"],
        weights=((r"layers\.0\..*", 0.25), ("lm_head", 0.0)),
        dtype="float16",
        max_shard_size=5_000_000_000,
        precision="float64",
        tokenizer="base",
        dequantize=True,
        allow_code=True,
    )
    assert "./tuned" == recipe.adapters[1].full
    assert recipe.adapters[0].full is None


def test_what_is_left_out() -> None:
    """The defaults are those of the class: a weighted sum in float32 on the adapters' own base."""
    recipe = Recipe.from_dict({"adapters": ["one"]})

    assert Recipe((RecipeAdapter("one"),)) == recipe
    assert recipe == Recipe.from_dict(
        {"adapters": [{"ref": "one"}], **dict.fromkeys(_FIELDS - {"adapters"})}
    )
    assert ("linear", "float32", "auto", False) == (
        recipe.method,
        recipe.precision,
        recipe.tokenizer,
        recipe.dequantize,
    )


def test_a_file(tmp_path: Path) -> None:
    """A YAML file is the same recipe as its values."""
    path = write(tmp_path, yaml.safe_dump(WHOLE, sort_keys=False))

    assert Recipe.from_dict(WHOLE) == read_recipe(path)


@pytest.mark.parametrize("name", [*METHODS, *COMBINATIONS])
def test_every_method_by_its_name(name: str) -> None:
    """Each method with what it needs is a recipe, there and back."""
    info = METHODS.get(name)
    prunes = "density" in info.parameters if info else bool(re.search("ties|dare|prune", name))
    count = max(1, info.inputs[0]) if info else 2
    needs = {"density": 0.5} if prunes else {}
    value = {"adapters": ["a", "b"][:count], "method": name, "parameters": needs}

    recipe = Recipe.from_dict(value)

    assert name == recipe.method
    assert recipe == Recipe.from_dict(recipe.to_dict())
    assert recipe.on_factors == (name in COMBINATIONS)


MISTAKES: dict[str, tuple[str, int, str]] = {
    "an unknown field": ("adapters: [a]\nbse: x\n", 2, "the field 'bse' is not known"),
    "no adapters": ("base: x\nmethod: linear\n", 1, "'adapters' is not a list with one"),
    "an empty list": ("base: x\nadapters: []\n", 2, "'adapters' is not a list with one"),
    "a text for the list": ("\nadapters: one\n", 2, "'adapters' is not a list with one"),
    "an adapter that is a number": ("adapters:\n- a\n- 3\n", 3, "the adapter 3 is neither"),
    "no ref": ("adapters:\n- a\n-\n  weight: 1\n", 4, "the adapter {'weight': 1} is neither"),
    "an adapter's unknown field": (
        "adapters:\n- ref: a\n  weight: 1\n  wight: 2\n",
        4,
        "the field 'wight' of an adapter is not known",
    ),
    "a bad name": ("adapters:\n- a\n- x@y@z\n", 3, "'y@z' is not allowed"),
    "a bad weight": ("adapters:\n- ref: a\n  weight: much\n", 3, "the weight 'much' is not a"),
    "a yes for a weight": ("adapters:\n- ref: a\n  weight: yes\n", 3, "is not a finite number"),
    "an endless weight": ("adapters:\n- {ref: a, weight: .inf}\n", 2, "is not a finite number"),
    "no number": ("adapters:\n- ref: a\n  weight: .nan\n", 3, "is not a finite number"),
    "a bad pattern": ("adapters: [a]\nweights:\n  q: 1\n  '(': 2\n", 4, "the pattern '(' is no"),
    "an endless pattern": ("adapters: [a]\nweights: {'(a+)+': 2}\n", 2, "could take for ever"),
    "a pattern's weight": (
        "adapters:\n- ref: a\n  weights:\n    q_proj: lots\n",
        4,
        "the weight 'lots' is not a finite number",
    ),
    "weights that are a list": ("adapters: [a]\nweights: [1]\n", 2, "'weights' is not a map"),
    "weights that are one number": ("adapters: [a]\nweights: 0.5\n", 2, "'weights' is not a map"),
    "an unknown method": ("method: tise\nadapters: [a]\n", 1, "'method' is 'tise' and not one"),
    "another's parameter": (
        "adapters: [a]\nmethod: ties\nparameters:\n  density: 0.5\n  gamma: 0.1\n",
        5,
        "gamma: ties takes density",
    ),
    "nobody's parameter": (
        "adapters: [a]\nmethod: ties\nparameters:\n  density: 0.5\n  densty: 0.1\n",
        5,
        "densty: ties takes density",
    ),
    "a parameter too large": (
        "adapters: [a]\nmethod: ties\nparameters:\n\n  density: 1.5\n",
        5,
        "density: 1.5 is not over 0 and at most 1",
    ),
    "a parameter that is a text": (
        "adapters: [a]\nmethod: ties\nparameters: {density: 'half'}\n",
        3,
        "density: 'half' is not a number",
    ),
    "a parameter that is missing": ("adapters: [a]\nmethod: ties\n", 1, "density: ties needs one"),
    "too few adapters": ("method: sce\nadapters: [a]\n", 2, "adapters: sce combines 2 or more"),
    "too many adapters": (
        "adapters: [a, b, c]\nmethod: slerp\n",
        1,
        "adapters: slerp combines 1 to 2, not 3",
    ),
    "parameters of a combination": (
        "adapters: [a, b]\nmethod: svd\nparameters:\n  gamma: 1\n",
        4,
        "gamma",
    ),
    "a fine-tune in a combination": (
        "method: cat\nadapters:\n- a\n- full:b\n",
        4,
        "cat combines adapters, not full:b",
    ),
    "own weights in a combination": (
        "method: cat\nadapters:\n- a\n- ref: b\n  weights: {q: 1}\n",
        5,
        "cat makes one adapter first",
    ),
    "a bad dtype": ("adapters: [a]\ndtype: int8\n", 2, "'dtype' is 'int8' and not one of"),
    "a bad precision": ("adapters: [a]\nprecision: half\n", 2, "'precision' is 'half' and not"),
    "a bad size": ("adapters: [a]\nmax_shard_size: 5XB\n", 2, "'5XB' is not a size such as 5GB"),
    "the size 0": ("adapters: [a]\nmax_shard_size: 0\n", 2, "0 is not a size"),
    "a bad tokenizer": ("adapters: [a]\ntokenizer: mine\n", 2, "'tokenizer' is 'mine' and not"),
    "a bad flag": ("adapters: [a]\ndequantize: perhaps\n", 2, "'dequantize' is neither true nor"),
    "a number for a text": ("adapters: [a]\nbase: 3\n", 2, "'base' is not a text"),
    "a field twice": ("base: a\nadapters: [a]\nbase: b\n", 3, "the field 'base' stands twice"),
    "a pattern twice": ("adapters: [a]\nweights:\n  q: 1\n  q: 2\n", 4, "'q' stands twice"),
    "a weight twice": (
        "adapters:\n- ref: a\n  weight: 1\n  weight: 2\n",
        4,
        "the field 'weight' stands twice",
    ),
    "a broken line": ("adapters: [a\nbase: b\n", 2, "it is not valid YAML"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_and_its_line(tmp_path: Path, case: str) -> None:
    """Each mistake is said in words, with the line that it stands in."""
    text, line, words = MISTAKES[case]

    error = refusal(tmp_path, text)

    assert words in str(error)
    assert line == error.line
    assert str(line) in str(error)
    assert "recipe.yaml" in str(error)


NO_MAPS = {
    "nothing": "",
    "a list": "- a\n",
    "a text": "linear\n",
    "numbers": "1: a\nadapters: [b]\n",
}


@pytest.mark.parametrize("case", NO_MAPS)
def test_no_map(tmp_path: Path, case: str) -> None:
    """A file that is no map of fields is refused as that."""
    assert "it is not a map of fields" in str(refusal(tmp_path, NO_MAPS[case]))


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.getpid []\n", "a: !!python/name:os.x\n"]
)
def test_a_file_that_would_run_code(tmp_path: Path, text: str) -> None:
    """YAML's tags for objects are refused: nothing is made but plain values."""
    assert "it is not valid YAML" in str(refusal(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be read is another error, which names it."""
    with pytest.raises(InputRefused, match=re.escape("gone.yaml")):
        read_recipe(tmp_path / "gone.yaml")


def test_types_of_yaml(tmp_path: Path) -> None:
    """Whole numbers, exponents and texts of sizes are taken as a reader would take them."""
    text = (
        "adapters:\n- {ref: a, weight: 2}\n- {ref: b, weight: 1e-3, weights: {q: 1, v: 5.0e-1}}\n"
        "max_shard_size: 2GiB\nweights: {k: -1}\ndequantize: off\nparameters: {}\n"
    )
    with pytest.raises(RecipeRefused, match=r"line 3.*'1e-3' is not a finite number"):
        read_recipe(write(tmp_path, text))

    recipe = read_recipe(write(tmp_path, text.replace("1e-3", "1.0e-3")))

    assert (2.0, 0.001) == tuple(one.weight for one in recipe.adapters)
    assert all(isinstance(one.weight, float) for one in recipe.adapters)
    assert (("q", 1.0), ("v", 0.5)) == recipe.adapters[1].weights
    assert 2 << 30 == recipe.max_shard_size
    assert (("k", -1.0),) == recipe.weights
    assert not recipe.dequantize


REFERENCES = {
    "team/one@3=0.5": RecipeAdapter("team/one@3", 0.5),
    "one=-1": RecipeAdapter("one", -1.0),
    "full:./tuned=0.3": RecipeAdapter("full:./tuned", 0.3),
    "full:bot@2": RecipeAdapter("full:bot@2", 1.0),
}


@pytest.mark.parametrize("text", REFERENCES)
def test_a_reference_with_a_weight(text: str) -> None:
    """REF=WEIGHT and full:PATH=WEIGHT are read as text in a list of adapters too."""
    assert REFERENCES[text] == recipe_adapter(text)
    assert (REFERENCES[text],) == Recipe.from_dict({"adapters": [text]}).adapters


@pytest.mark.parametrize("text", ["full:", "one=", "one=much", "no such name!"])
def test_no_reference(text: str) -> None:
    """What is no reference is refused at its place in the list."""
    with pytest.raises(Fault, match="is not allowed") as caught:
        Recipe.from_dict({"adapters": ["a", text]})

    assert ("adapters", 1) == caught.value.path


@pytest.mark.parametrize(
    ("value", "size"),
    [(5, 5), ("5GB", 5 * 10**9), ("512MiB", 512 << 20), ("1.5 kb", 1500), (" 20KB ", 20_000)],
)
def test_sizes(value: object, size: int) -> None:
    """Sizes are bytes, or decimal or binary units in any case."""
    assert size == parse_size(value)


@pytest.mark.parametrize("value", ["", "5XB", "-1GB", "GB", 0, -3, True, 2.5, None, "0.1"])
def test_no_sizes(value: object) -> None:
    """What is no number of bytes from 1 up is an error."""
    with pytest.raises(ValueError, match="is not a size such as 5GB or 512MiB"):
        parse_size(value)


def rows() -> dict[str, list[str]]:
    """Return the cells of the page's tables by what stands first in a row."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("| `"): row[1:] for row in cells}


def test_the_page_has_every_field() -> None:
    """Each field of a recipe and of an adapter has one row in docs/recipes.md, and no other."""
    fields = [row for row in rows() if not row.startswith("adapters[].")]
    of_adapters = [row.partition(".")[2] for row in rows() if row.startswith("adapters[].")]

    assert sorted(_FIELDS) == sorted(fields)
    assert sorted(RecipeAdapter.__dataclass_fields__) == sorted(of_adapters)


def test_the_page_has_the_defaults() -> None:
    """The table's defaults are those of a recipe that says nothing else."""
    plain = Recipe.from_dict({"adapters": ["one"]}).to_dict()
    told = {name: cells[1].strip("`") for name, cells in rows().items()}

    for name in ("method", "precision", "tokenizer"):
        assert plain[name] == told[name]
    assert "false" == told["dequantize"]
    assert "1" == told["adapters[].weight"]
    assert "required" == told["adapters"] == told["adapters[].ref"]


def examples() -> list[str]:
    """Return the page's YAML blocks."""
    return re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("text", examples())
def test_the_pages_examples(tmp_path: Path, text: str) -> None:
    """Each example of the page is a recipe."""
    assert read_recipe(write(tmp_path, text)).adapters


def test_one_example_says_all() -> None:
    """One of the page's examples has every field in it."""
    said = [yaml.safe_load(text) for text in examples()]

    assert any(set(one) == _FIELDS for one in said)
    adapters = [a for one in said for a in one["adapters"] if isinstance(a, dict)]
    assert any({"ref", "weight", "weights"} == set(a) for a in adapters)
