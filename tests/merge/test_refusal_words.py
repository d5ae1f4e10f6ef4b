"""Each refusal of a merge says what is wrong with what, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from factory import edit_config, edit_tensors
from safetensors.torch import save_file

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import Base, read_base
from adreg.registry.durable import Staging
from adreg.registry.errors import AdregError, InputRefused, MergeRefused, RecipeRefused
from adreg.registry.merge.deltas.tile import Tile
from adreg.registry.merge.methods.make import make_combination
from adreg.registry.merge.methods.method import Method
from adreg.registry.merge.output import SideFile, side_files, write_model
from adreg.registry.merge.plan import (
    Input,
    Job,
    _add_followed,
    _check_ledger,
    make_plan,
)
from adreg.registry.merge.recipe import module_weight, read_recipe
from adreg.registry.merge.run import run
from adreg.registry.merge.terms import Contribution

Q = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{Q}"
ALONE = "Merge the adapter that brings it alone, with weight 1."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return factory.make_base(tmp_path_factory.mktemp("words") / "base")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    """What it is."""
    return read_base(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """A LoRA of it."""
    return factory.make_adapter(folder, folder.parent / "plain")


@pytest.fixture
def other(plain: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(plain, tmp_path / "other")


def refused(base: Base, *inputs: Input) -> AdregError:
    """Plan a merge and return the refusal."""
    with pytest.raises(MergeRefused) as caught:
        make_plan(base, inputs)
    return caught.value


def of(folder: Path, weight: float = 1.0, **weights: float) -> Input:
    """Return an input that goes by the name of its folder."""
    return Input(folder.name, read_adapter(folder), weight, tuple(weights.items()))


def test_nothing_to_merge(base: Base, plain: Path) -> None:
    """No adapter, a weight of 0, weights of 0 for all modules, and a pattern of none."""
    error = refused(base)
    assert "not merged: no adapter was named" == error.sentence
    assert "Name at least one adapter." == error.hint

    error = refused(base, of(plain, 0))
    assert "not merged: plain has the weight 0" == error.sentence
    assert "Leave it out, or give it another weight." == error.hint

    error = refused(base, of(plain, q_proj=0, v_proj=0, down_proj=0))
    assert "the weights of all modules that the adapters touch are 0" in error.sentence
    assert "Look at the patterns of --weight." == error.hint

    error = refused(base, of(plain, q_prj=0))
    assert "not merged: no module that is touched ends in the pattern 'q_prj'" == error.sentence
    assert "`adreg merge --dry-run` without it lists the tensors" in error.hint


def head(folder: Path, name: str, rows: int, **config: object) -> None:
    """Give an adapter a whole module of its own."""
    edit_config(folder, modules_to_save=[name], **config)
    more = {f"base_model.model.{name}.weight": torch.ones(rows, 32)}
    edit_tensors(folder, lambda tensors: tensors.update(more))


def test_new_tensors(base: Base, plain: Path, other: Path) -> None:
    """A new head cannot be weighted, and a class that has no output head drops no change of it."""
    head(other, "score", 3, task_type="SEQ_CLS")
    error = refused(base, of(other, 0.5))
    assert "'score.weight' is new or of another size and cannot be weighted or" in error.sentence
    assert ALONE == error.hint

    causal = shutil.copytree(plain, other.parent / "causal")
    head(causal, "lm_head", 96)
    error = refused(base, of(other), of(causal))
    assert (
        "not merged: 'lm_head.weight' is changed, and LlamaForSequenceClassification has none"
        == error.sentence
    )
    assert "Merge the classifier and the adapters of the output head apart." == error.hint

    edit_config(other, "task_type")
    error = refused(base, of(other))
    assert (
        "not merged: LlamaForCausalLM has no 'score.weight', and no task_type says which class has"
        == error.sentence
    )
    assert "Set task_type in adapter_config.json: SEQ_CLS, TOKEN_CLS" in error.hint


def test_classes(folder: Path, plain: Path, other: Path) -> None:
    """A class whose layers are elsewhere, and one that needs more than there is, are named."""
    head(other, "qa_outputs", 2, task_type="QUESTION_ANS")
    error = refused(read_base(folder), of(other))
    words = "LlamaForQuestionAnswering keeps its layers in 'transformer', the base in 'model'"
    assert f"not merged: {words}" == error.sentence
    assert "cannot load the base as LlamaForQuestionAnswering; train another head." in error.hint
    del plain


def test_heads_that_need_more(tmp_path: Path) -> None:
    """DistilBERT's classifier has two layers; an adapter of one of them is not enough."""
    import transformers  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    config = transformers.DistilBertConfig(
        vocab_size=96, dim=32, hidden_dim=48, n_layers=1, n_heads=4, pad_token_id=3
    )
    transformers.DistilBertForMaskedLM(config).save_pretrained(tmp_path / "base")
    model: Any = get_peft_model(
        transformers.DistilBertForMaskedLM(config),
        LoraConfig(r=4, target_modules=["q_lin"], init_lora_weights=False),
    )
    model.save_pretrained(str(tmp_path / "adapter"))
    head(tmp_path / "adapter", "classifier", 2, task_type="SEQ_CLS")

    error = refused(read_base(tmp_path / "base"), of(tmp_path / "adapter"))

    assert "DistilBertForSequenceClassification needs pre_classifier, which" in error.sentence
    assert "Train the adapter with all of its head in modules_to_save." == error.hint


def test_a_tied_head_of_another_size() -> None:
    """One adapter brings a head of another size: what others do to the embedding has no place."""
    mine, theirs = Contribution(0, 1.0, ()), Contribution(1, 1.0, ())
    changes = {"lm_head.weight": Job("lm_head.weight", "F32", (99, 8), "add", None, (mine,))}
    nobody: Any = None

    with pytest.raises(MergeRefused) as caught:
        _add_followed([Input("a", nobody)] * 2, changes, "lm_head.weight", (theirs,))

    assert "'lm_head.weight' is of another size, and another adapter" in caught.value.sentence
    assert ALONE == caught.value.hint


def test_a_tensor_without_a_place(plain: Path) -> None:
    """An adapter's tensor that nothing uses is named, whatever the fault of ours was."""
    with pytest.raises(MergeRefused) as caught:
        _check_ledger([of(plain)], {})

    assert "not merged: plain: 'base_model.model.model.layers.0.mlp" in caught.value.sentence
    assert "is not used just once" in caught.value.sentence
    assert "fault of adreg" in caught.value.hint


def test_rows_too_long_for_della() -> None:
    """The tensor is named, and the methods that need no ranks."""
    method = Method("della", density=0.5)
    combination = make_combination(method, "experts.w", 3, 8, [1.0], np.float32)
    tile = Tile(0, 1, 0, 4)
    block = np.ones(tile.shape, np.float32)

    with pytest.raises(MergeRefused) as caught:
        combination.look(block, [block], tile)

    assert "'experts.w' has rows too long for della, which ranks whole" in caught.value.sentence
    assert "Use dare_ties, dare_linear or ties, which need no ranks." == caught.value.hint


def test_tokenizers(base: Base, plain: Path, other: Path) -> None:
    """Asked for the adapters' tokenizer: there must be one, and the same in each."""
    one = shutil.copytree(plain, other.parent / "one")
    with pytest.raises(MergeRefused, match="no adapter brings a tokenizer") as caught:
        side_files(base, [read_adapter(plain)], "adapter")
    assert "Pass --tokenizer base." == caught.value.hint

    for path, text in ((one, "1"), (other, "2")):
        (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": text}))
    with pytest.raises(MergeRefused, match="the adapters' tokenizers differ") as caught:
        side_files(base, [read_adapter(one), read_adapter(other)], "adapter")
    assert "Pass --tokenizer base." == caught.value.hint


def test_a_side_file_that_is_gone(base: Base, plain: Path, tmp_path: Path) -> None:
    """A file that vanishes between look and copy is named, and nothing stays."""
    spec = read_adapter(plain)
    plan = make_plan(base, [Input("plain", spec)])
    gone = tmp_path / "merges.txt"

    sides = [SideFile("merges.txt", gone)]
    with Staging(tmp_path / "out") as staging, pytest.raises(InputRefused) as caught:
        write_model(plan, base, [spec], staging, sides=sides, card="", method=("linear", {}))

    assert f"{gone}: No such file or directory" == caught.value.sentence
    assert "See that it is there and can be read, and try again." == caught.value.hint
    assert [] == list(tmp_path.iterdir())


def other_kind(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    """Write an adapter of a kind that PEFT's own layer merges."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {f"{KEY}.{name}": value for name, value in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


MISS: dict[str, Any] = {"peft_type": "MISS", "r": 4, "target_modules": ["q_proj"]}
THROUGH: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any], str, str]] = {
    "no place": (
        {"miss_block": torch.ones(4, 32), "miss_other": torch.ones(4)},
        MISS,
        f"PEFT's MISS has no place for '{KEY}.miss_other'",
        "The adapter's configuration and its tensors do not belong together.",
    ),
    "shapes": (
        {"miss_block": torch.ones(3, 7)},
        MISS,
        f"PEFT cannot merge MISS into '{Q}': ",
        "Use the adapter with PEFT, unmerged.",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", THROUGH)
def test_kinds_that_peft_merges(base: Base, tmp_path: Path, case: str) -> None:
    """What PEFT says of its own layer is told with the module, and what to do instead."""
    tensors, config, words, hint = THROUGH[case]
    spec = read_adapter(other_kind(tmp_path / "it", tensors, **config))
    plan = make_plan(base, [Input("it", spec)])

    with Staging(tmp_path / "out") as staging, pytest.raises(MergeRefused) as caught:
        run(plan, base, [spec], staging)

    assert f"not merged: {words}" in caught.value.sentence
    assert hint == caught.value.hint


RECIPES: dict[str, str] = {
    "adapters: [a]\nspeed: 9\n": "line 2: the field 'speed' is not known",
    "base: b\n": "line 1: 'adapters' is not a list with one adapter or more",
    "adapters:\n- weight: 1\n": "line 2: the adapter {'weight': 1} is neither a reference nor ref",
    "adapters: [a]\nbase: 3\n": "line 2: 'base' is not a text",
    "adapters: [a]\ndequantize: 3\n": "line 2: 'dequantize' is neither true nor false",
    "adapters: [a]\nparameters: 3\n": "line 2: 'parameters' is not a map",
    "adapters: [a]\nweights: [1]\n": "line 2: 'weights' is not a map, nor a list of different",
    "adapters: [a, &x b, *x]\n": "line 1: it uses an alias (*name)",
    "adapters: [a]\nadapters: [a]\n": "line 2: the field 'adapters' stands twice",
    "adapters: [\n": "line 2: it is not valid YAML",
    "3\n": "it is not a map of fields",
    "adapters: ['full:a']\nmethod: svd\n": "line 1: svd combines adapters, not full:a",
    "adapters:\n- {ref: a, weights: {q: 1}}\nmethod: svd\n": "line 2: svd makes one adapter first",
    "adapters: [a]\nmethod: linear\nparameters: {t: 1}\n": "line 3: t: linear takes normalize",
    "adapters: [a]\nmethod: ties\nparameters: {density: 1, sign: 3}\n": (
        "line 3: sign: 3 is neither 'total' nor 'frequency'"
    ),
    "adapters: [a]\nmethod: ties\nparameters: {density: 1, normalize: 3}\n": (
        "line 3: normalize: 3 is neither true nor false"
    ),
    "adapters: [a]\nmethod: dare_ties\nparameters: {density: 1, seed: -3}\n": (
        "line 3: seed: -3 is not a whole number from 0 up"
    ),
    "adapters: [a]\nmethod: ties\nparameters: {density: x}\n": "density: 'x' is not a number",
    "adapters: [a, b]\nmethod: nuslerp\nparameters: {t: 3}\n": "line 3: t: ",
    "adapters: [a]\nmethod: della\nparameters: {density: 0.5, epsilon: 3}\n": (
        "line 3: epsilon: 3 is not from 0 to 1"
    ),
    "adapters: [a]\nmethod: della\nparameters: {density: 0.5, epsilon: 0.6}\n": (
        "line 3: epsilon: density 0.5 minus and plus epsilon 0.6 must lie between 0 and 1"
    ),
}


@pytest.mark.parametrize("text", RECIPES)
def test_recipes(tmp_path: Path, text: str) -> None:
    """The file, the line and the field, and where recipes are described."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    with pytest.raises(RecipeRefused) as caught:
        read_recipe(path)

    assert str(path) in caught.value.sentence
    assert RECIPES[text] in caught.value.sentence
    assert "docs/recipes.md all that it can say." in caught.value.hint


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    """What the system says of the file stands in the sentence."""
    with pytest.raises(InputRefused) as caught:
        read_recipe(tmp_path / "none.yaml")

    assert f"{tmp_path / 'none.yaml'}: No such file or directory" == caught.value.sentence
    assert "See that it is there and can be read, and try again." == caught.value.hint


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda: module_weight("q_proj"), "'q_proj' is not PATTERN=WEIGHT"),
        (lambda: module_weight("q_proj=x"), "'x' in 'q_proj=x' is not a number"),
        (lambda: Method("magic"), "method: 'magic' is none of linear"),
    ],
)
def test_words_of_values(check: Callable[[], object], words: str) -> None:
    """Values that the command line passes on are told with what they are to be."""
    with pytest.raises(ValueError, match=words):
        check()
