"""Each refusal to make an adapter says what is wrong with what, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from factory import edit_config, edit_tensors

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import read_base
from adreg.registry.errors import AdapterNotMade
from adreg.registry.merge.algebra.combine import Settings, combine_specs, settings_of
from adreg.registry.merge.algebra.extract import Extraction, extract_lora
from adreg.registry.merge.algebra.low_rank import Target

MERGE = "adreg merge"
Q = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{Q}"
SINGLE = "model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return factory.make_base(tmp_path_factory.mktemp("words") / "base")


@pytest.fixture(scope="module")
def plain(base: Path) -> Path:
    """A LoRA of it."""
    return factory.make_adapter(base, base.parent / "plain")


@pytest.fixture
def other(plain: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(plain, tmp_path / "other")


def refused(*adapters: tuple[Path, float], how: Settings | None = None) -> AdapterNotMade:
    """Combine and return the refusal."""
    specs = [(read_adapter(folder), weight) for folder, weight in adapters]
    with pytest.raises(AdapterNotMade) as caught:
        combine_specs(specs, Settings() if how is None else how, None)
    return caught.value


DELTAS = "Use cat or svd, which add up deltas."
SETTINGS: dict[str, tuple[Settings, str, str]] = {
    "method": (
        Settings("nearly"),
        "there is no method 'nearly'",
        "Choose one of cat, svd, factors",
    ),
    "density": (
        Settings("factors_ties"),
        "factors_ties needs a density",
        "Pass --density, the share to keep: 0.5.",
    ),
    "no density": (
        Settings("cat", density=0.5),
        "cat prunes nothing, so a density means nothing",
        "Leave --density out.",
    ),
    "rank": (
        Settings("cat", Target(4)),
        "cat cuts to no rank",
        "Leave --rank and --energy out, or use svd.",
    ),
    "range": (
        Settings("cat", dtype="F16"),
        "has values over 65504, the most of F16",
        "Pass --dtype float32 or bfloat16.",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(plain: Path, case: str) -> None:
    """A setting and the method that does not go with it, and what to pass."""
    how, words, hint = SETTINGS[case]

    error = refused((plain, 1e9), how=how)

    assert error.sentence.startswith("no adapter was made: ")
    assert words in error.sentence
    assert hint in error.hint


def config(**fields: object) -> Callable[[Path], object]:
    """Return an edit of the configuration."""
    return lambda folder: edit_config(folder, **fields)


def loha(folder: Path) -> None:
    """Make it an adapter of another kind."""
    edit_config(folder, peft_type="LOHA")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors.clear()
        for part in "12":
            tensors[f"{KEY}.hada_w{part}_a"] = torch.ones(32, 4)
            tensors[f"{KEY}.hada_w{part}_b"] = torch.ones(4, 32)

    edit_tensors(folder, edit)


def kasa(folder: Path) -> None:
    """Make it KaSA's."""
    edit_config(folder, kasa_config={"beta": 1.0})
    more = {f"{KEY}.lora_diag": torch.ones(4)}
    edit_tensors(folder, lambda tensors: tensors.update(more))


def rows(folder: Path) -> None:
    """Make it one that replaces rows of the embedding."""
    edit_config(folder, trainable_token_indices=[1, 2])
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.ones(2, 32)}))


def wrapped(folder: Path) -> None:
    """Put one factor behind a wrapped layer, as target_parameters do."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for part in "AB":
            value = tensors.pop(f"{KEY}.lora_{part}.weight")
            tensors[f"{KEY}.base_layer.lora_{part}.weight"] = value

    edit_tensors(folder, edit)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another kind": (loha, "other is LOHA, and only LoRA adapters add up to one"),
    "kasa": (kasa, "other: it truncates the base's weights (KaSA)"),
    "blocks": (config(use_bdlora={"a": 1}), "other: its factors are block-diagonal (BD-LoRA)"),
    "velora": (config(velora_config={"a": 1}), "other: it is VeLoRA"),
    "monteclora": (config(monteclora_config={"a": 1}), "other: it is MonteCLoRA"),
    "parameters": (
        config(target_parameters=["experts.w"]),
        "other: it is of fused expert parameters",
    ),
    "layers": (config(layer_replication=[[0, 2]]), "other: it repeats layers of the base"),
    "rows": (rows, "other: it replaces single rows of an embedding"),
    "start": (
        config(init_lora_weights="pissa"),
        "other changes the base's weights when it is loaded (pissa)",
    ),
    "wrapped": (wrapped, f"other has the tensor '{KEY}.base_layer.lora_A.weight', which is no"),
}


@pytest.mark.parametrize("case", KINDS)
def test_kinds(plain: Path, other: Path, case: str) -> None:
    """What cannot become one adapter is named, and a merge is the way on."""
    edit, words = KINDS[case]
    edit(other)

    error = refused((plain, 1.0), (other, 1.0))

    assert words in error.sentence
    assert MERGE in error.hint


def test_whole_modules(base: Path, plain: Path, tmp_path: Path) -> None:
    """Heads that replace the base's are named with who has them."""
    head = factory.make_adapter(base, tmp_path / "head", modules_to_save=["lm_head"])
    same = shutil.copytree(head, tmp_path / "same")

    half = refused((head, 0.5), (plain, 1.0))
    some = refused((head, 1.0), (same, 1.0), (plain, 1.0))

    assert (
        "'lm_head.weight' replaces the base's, but head has the weight 0.5, not 1" in half.sentence
    )
    assert "'lm_head.weight' is in some of the adapters only: head, same" in some.sentence
    assert MERGE in half.hint
    assert MERGE in some.hint


def test_biases_and_ranks(tmp_path: Path, base: Path, plain: Path) -> None:
    """PEFT's ways on the factors need one rank and no lora_bias."""
    qwen = factory.make_base(tmp_path / "qwen", "qwen2")
    biased = factory.make_adapter(
        qwen, tmp_path / "biased", target_modules=["q_proj"], lora_bias=True
    )
    small = factory.make_adapter(base, tmp_path / "small", r=2)

    bias = refused((biased, 1.0), how=Settings("factors_linear"))
    rank = refused((plain, 1.0), (small, 1.0), how=Settings("factors_linear"))

    assert f"factors_linear has no meaning for the lora_bias of '{Q}'" in bias.sentence
    assert f"factors_linear needs one rank, but '{Q}' has 2 and 4" in rank.sentence
    assert DELTAS == bias.hint
    assert DELTAS == rank.hint


def test_adapters_that_cancel_out(plain: Path) -> None:
    """What adds up to nothing is no adapter."""
    error = refused((plain, 1.0), (plain, -1.0), how=Settings("svd", Target(4)))

    assert "no adapter was made: the adapters cancel out: nothing would change" == error.sentence
    assert "Give them other weights: REF=0.5." == error.hint


def test_bases_that_differ_are_a_remark(plain: Path, other: Path) -> None:
    """Adapters that name two bases are combined, and it is said."""
    edit_config(other, base_model_name_or_path="someone/else")

    made = combine_specs([(read_adapter(p), 1.0) for p in (plain, other)], Settings(), None)

    assert any("the adapters name different bases: " in one for one in made.remarks)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"t": 1}, "t: svd takes density, energy, rank, seed, sign"),
        ({"rank": -1}, "rank: -1 is none that svd can take"),
        ({"sign": "most"}, "sign: 'most' is none that svd can take"),
        ({"energy": 2}, "energy: 2 is none that svd can take"),
    ],
)
def test_parameters_in_a_recipe(parameters: dict[str, Any], words: str) -> None:
    """A parameter of a recipe that the method cannot take is named with its value."""
    with pytest.raises(ValueError, match=words):
        settings_of("svd", parameters)


def with_value(name: str, value: float) -> Callable[[Path], object]:
    """Return an edit that puts a value into a tensor of a checkpoint."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[3] = value

    return lambda folder: edit_tensors(folder, edit, SINGLE)


NORM = "model.layers.0.input_layernorm.weight"
EXTRACTS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str, str]] = {
    "same": (
        lambda folder: folder,
        {},
        "the fine-tune is the base: no tensor differs",
        "Name the model that it was trained from with --base.",
    ),
    "norms": (
        with_value(NORM, 9.0),
        {},
        f"nothing of what differs fits a LoRA: '{NORM}', it is a norm or a bias; --with-norms",
        "Use the fine-tune as a base of its own.",
    ),
    "others": (
        with_value(f"{Q}.weight", 9.0),
        {"modules": "v_proj"},
        f"nothing of what differs fits a LoRA: '{Q}.weight', it is not targeted",
        "Use the fine-tune as a base of its own.",
    ),
    "not finite": (
        with_value(f"{Q}.weight", float("nan")),
        {},
        f"'{Q}.weight' has values that are not finite",
        "Fetch or save the fine-tune again.",
    ),
    "range": (
        with_value(f"{Q}.weight", 1e30),
        {"dtype": "F16"},
        f"'{Q}.weight' has values over 65504, the most of F16",
        "Pass --dtype float32 or bfloat16.",
    ),
    "pattern": (
        with_value(f"{Q}.weight", 9.0),
        {"modules": "("},
        "'(' is no regular expression: missing ), unterminated subpattern",
        "Write it as q_proj|v_proj.",
    ),
}


@pytest.mark.parametrize("case", EXTRACTS)
def test_extracting(base: Path, tmp_path: Path, case: str) -> None:
    """The tensor and the reason stand in one sentence, the way on in another."""
    edit, how, words, hint = EXTRACTS[case]
    full = shutil.copytree(base, tmp_path / "full")
    edit(full)

    with pytest.raises(AdapterNotMade) as caught:
        extract_lora(read_base(base), read_base(full), Extraction(Target(3), **how), None)

    assert f"no adapter was made: {words}" in caught.value.sentence
    assert hint == caught.value.hint


LOST: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], object], str]] = {
    "more": (
        "model.x.weight",
        lambda tensors: tensors.update({"x.weight": torch.ones(2, 2)}),
        "only the fine-tune has it",
    ),
    "fewer": (NORM, lambda tensors: tensors.pop(NORM), "only the base has it"),
    "shape": (
        NORM,
        lambda tensors: tensors.update({NORM: torch.ones(8)}),
        "it is (32) in the base and (8) in the fine-tune",
    ),
}


@pytest.mark.parametrize("case", LOST)
def test_what_is_lost_is_named(base: Path, tmp_path: Path, case: str) -> None:
    """What differs and cannot be in a LoRA is in the list of what is lost, with why."""
    name, edit, words = LOST[case]
    full = shutil.copytree(base, tmp_path / "full")
    with_value(f"{Q}.weight", 9.0)(full)
    edit_tensors(full, edit, SINGLE)

    made = extract_lora(read_base(base), read_base(full), Extraction(Target(3)), None)

    assert {name: words} == {one.name: one.reason for one in made.lost}
    assert json.dumps(made.config)
