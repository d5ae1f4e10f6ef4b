"""Each lie and each gap in an adapter's configuration or tensors is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from factory import edit_config, edit_tensors
from peft import LoraConfig, get_peft_model

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.adapters.refusals import INITIALISATIONS, SETTINGS
from adreg.registry.errors import AdapterRefused

Tensors = dict[str, torch.Tensor]
Maker = Callable[..., Path]
Q = "base_model.model.model.layers.0.self_attn.q_proj"


def reasons(folder: Path) -> str:
    """Return the reasons for which an adapter is refused, a line each."""
    with pytest.raises(AdapterRefused) as caught:
        read_adapter(folder)
    return "\n".join(caught.value.reasons)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("r", "8", "r is '8', not a whole number above 0"),
        ("r", 0, "r is 0, not"),
        ("r", -4, "r is -4, not"),
        ("r", 4.0, "r is 4.0, not"),
        ("r", True, "r is True, not"),
        ("r", 1 << 40, "not a whole number"),
        ("lora_alpha", "16", "lora_alpha is '16', not a finite number"),
        ("lora_alpha", float("nan"), "lora_alpha is nan, not"),
        ("lora_alpha", 10**40 * 10**360, "lora_alpha is 1000"),
        ("lora_alpha", 0, "lora_alpha is 0, so that the adapter would change nothing"),
        ("lora_dropout", [], "lora_dropout is [], not"),
        ("use_rslora", "yes", "use_rslora is 'yes', not true or false"),
        ("use_dora", 1, "use_dora is 1, not true or false"),
        ("fan_in_fan_out", "false", "fan_in_fan_out is 'false', not true or false"),
        ("bias", "some", "bias is 'some', not 'none', 'all' or 'lora_only'"),
        ("bias", {}, "bias is {}, not"),
        ("modules_to_save", "score", "modules_to_save is 'score', not a list of names"),
        ("modules_to_save", [1], "modules_to_save is [1], not a list of names"),
        ("target_modules", {"a": 1}, "target_modules is {'a': 1}, not a list of names"),
        ("task_type", 3, "task_type is 3, not text"),
        ("base_model_name_or_path", ["a"], "base_model_name_or_path is ['a'], not text"),
        ("rank_pattern", [], "rank_pattern is [], not an object"),
        ("rank_pattern", {"q_proj": "4"}, "gives 'q_proj' the value '4', not a whole number"),
        ("rank_pattern", {"q_proj": 0}, "gives 'q_proj' the value 0, not a whole number"),
        ("rank_pattern", {"(": 4}, "has the key '(', which is no regular expression"),
        ("rank_pattern", {"(a+)+$": 4}, "which repeats a repetition"),
        ("rank_pattern", {"a" * 1001: 4}, "is longer than 1000 characters"),
        ("alpha_pattern", {"q_proj": None}, "gives 'q_proj' the value None, not a finite number"),
        ("init_lora_weights", 3, "init_lora_weights is int"),
        ("init_lora_weights", "newest", "is not known to leave the base as it is"),
    ],
)
def test_wrong_values(adapter: Path, field: str, value: object, words: str) -> None:
    """A field of the wrong type or without sense is named with what was expected."""
    edit_config(adapter, **{field: value})

    assert words in reasons(adapter)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_not_understood(adapter: Path, name: str) -> None:
    """Each refused setting is refused by name, even where its tensors look ordinary."""
    edit_config(adapter, **{name: [1] if name != "use_qalora" else True})

    assert f"it sets {name}: {SETTINGS[name]}" in reasons(adapter)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_not_set(adapter: Path, name: str) -> None:
    """Null, the default of most of them, refuses nothing."""
    edit_config(adapter, **{name: None})

    assert read_adapter(adapter).lora.rank == 4


def test_all_settings_of_lora_are_known() -> None:
    """Every field of the installed LoraConfig is read, refused, or known to mean nothing here."""
    read = {
        *("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "lora_bias"),
        *("fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save"),
        *("target_modules", "task_type", "peft_type", "init_lora_weights", "revision"),
        *(
            "base_model_name_or_path",
            "peft_version",
            "trainable_token_indices",
            "layer_replication",
        ),
        *("target_parameters", "kasa_config", "velora_config", "monteclora_config", "use_bdlora"),
    }
    # They choose modules, which the tensors' names tell; configure training, initialisation
    # or running; or give details of a setting that is refused.
    harmless = {
        *("exclude_modules", "layers_to_transform", "layers_pattern", "auto_mapping"),
        *("inference_mode", "megatron_core", "loftq_config", "eva_config", "corda_config"),
        *("lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
    }
    known = read | harmless | set(SETTINGS)

    assert set(LoraConfig.__dataclass_fields__) <= known


@pytest.mark.parametrize(
    "settings",
    [
        {"alora_invocation_tokens": [5], "task_type": "CAUSAL_LM"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_variants_that_peft_saves(make: Maker, settings: dict[str, Any]) -> None:
    """What PEFT itself saves for them is refused by the setting's name."""
    assert f"it sets {next(iter(settings))}" in reasons(make(**settings))


@pytest.mark.parametrize("name", ["pissa_niter_4", "PiSSA_niter_4", *INITIALISATIONS])
def test_initialisations_that_change_the_base(adapter: Path, name: str) -> None:
    """Unconverted, such an adapter belongs to other weights than the base's."""
    edit_config(adapter, init_lora_weights=name)

    assert f"init_lora_weights is {name!r}, which" in reasons(adapter)


@pytest.mark.parametrize("name", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_that_do_not(adapter: Path, name: object) -> None:
    """The others are over when training begins."""
    edit_config(adapter, init_lora_weights=name)

    assert read_adapter(adapter).lora.rank == 4


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights")
def test_converted_pissa_passes(make: Maker, tmp_path: Path) -> None:
    """PEFT's conversion leaves an ordinary LoRA of twice the rank, which is read as one."""
    base = make().parent / "llama"
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    model: Any = get_peft_model(factory.load_base(base, torch.float32), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(str(tmp_path / "first"))
    model.peft_config["default"].init_lora_weights = "pissa"
    factory.fill_adapter(model, 3)

    model.save_pretrained(
        str(tmp_path / "done"), path_initial_model_for_weight_conversion=str(tmp_path / "first")
    )

    assert read_adapter(tmp_path / "done").lora.rank == 8


def test_missing_half(adapter: Path) -> None:
    """A without B, and B without A."""
    edit_tensors(adapter, lambda tensors: tensors.pop(f"{Q}.lora_B.weight"))
    assert "q_proj' has lora_A.weight but no lora_B.weight" in reasons(adapter)

    edit_tensors(adapter, lambda tensors: tensors.pop(f"{Q[:-6]}v_proj.lora_A.weight"))
    assert "v_proj' has lora_B.weight but no lora_A.weight" in reasons(adapter)


def test_magnitude_alone(adapter: Path) -> None:
    """A module that is left with its magnitude only."""

    def edit(tensors: Tensors) -> None:
        tensors["base_model.model.lm_head.lora_magnitude_vector"] = torch.ones(4)

    edit_tensors(adapter, edit)
    assert "but neither lora_A nor lora_B" in reasons(adapter)


def test_rank_lie(adapter: Path) -> None:
    """The configuration says another rank than the tensors have."""
    edit_config(adapter, r=16)

    assert "q_proj' has rank 4 in its tensors and 16 in the configuration" in reasons(adapter)


def test_rank_pattern_lie(adapter: Path) -> None:
    """A pattern that only some modules match is held to those alone."""
    edit_config(adapter, rank_pattern={"layers.1.self_attn.q_proj": 2})

    text = reasons(adapter)

    assert "layers.1.self_attn.q_proj' has rank 4 in its tensors and 2 in" in text
    assert "layers.0.self_attn.q_proj" not in text


def test_ranks_disagree(adapter: Path) -> None:
    """A and B of one module have different ranks."""

    def edit(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_B.weight"] = torch.ones(32, 5)

    edit_tensors(adapter, edit)
    assert "q_proj' has another rank in A than in B: A (4, 32), B (32, 5)" in reasons(adapter)


@pytest.mark.parametrize("shape", [(0,), (32,), (0, 32), (4, 0)])
def test_shapes_of_unfinished_saves(adapter: Path, shape: tuple[int, ...]) -> None:
    """Flat or empty matrices are what ZeRO-3 leaves behind."""

    def edit(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_A.weight"] = torch.ones(shape)

    edit_tensors(adapter, edit)
    assert "not two dimensions above 0: a run with ZeRO-3 or FSDP" in reasons(adapter)


def test_empty_file(adapter: Path) -> None:
    """The empty adapters of alpaca-lora's time hold no tensor at all."""
    edit_tensors(adapter, lambda tensors: tensors.clear())

    assert "holds no tensors" in reasons(adapter)


def test_no_lora_tensors(adapter: Path) -> None:
    """A head alone is not what a configuration with targets promises."""

    def edit(tensors: Tensors) -> None:
        tensors.clear()
        tensors["base_model.model.score.weight"] = torch.ones(3, 32)

    edit_tensors(adapter, edit)
    assert "no tensors of an adapter, though its configuration names target_modules" in reasons(
        adapter
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_that_are_not_finite(adapter: Path, value: float, dtype: torch.dtype) -> None:
    """One bad value is found, in its tensor."""

    def edit(tensors: Tensors) -> None:
        for key in tensors:
            tensors[key] = tensors[key].to(dtype)
        tensors[f"{Q}.lora_A.weight"][3, 31] = value

    edit_tensors(adapter, edit)
    assert reasons(adapter) == f"the tensor '{Q}.lora_A.weight' has 1 value that is not finite"


def test_bad_values_in_a_large_tensor(adapter: Path) -> None:
    """Values behind the first piece that is read are found too."""

    def edit(tensors: Tensors) -> None:
        large = torch.ones(700, 1000)
        large[0, 0] = large[699, 999] = float("nan")
        tensors["base_model.model.lm_head.weight"] = large

    edit_tensors(adapter, edit)
    assert "'base_model.model.lm_head.weight' has 2 values that are not finite" in reasons(adapter)


def test_largest_values_are_finite(adapter: Path) -> None:
    """The largest and the smallest numbers of a type pass."""

    def edit(tensors: Tensors) -> None:
        limits = torch.finfo(torch.bfloat16)
        for key in tensors:
            tensors[key] = tensors[key].to(torch.bfloat16)
        tensors[f"{Q}.lora_A.weight"][0, :4] = torch.tensor(
            [limits.max, limits.min, limits.smallest_normal, -0.0]
        )

    edit_tensors(adapter, edit)
    assert read_adapter(adapter).dtype == "BF16"


def test_whole_numbers(adapter: Path) -> None:
    """Quantised or counted tensors are no LoRA."""

    def edit(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_A.weight"] = torch.ones(4, 32, dtype=torch.int8)

    edit_tensors(adapter, edit)
    assert f"the tensor '{Q}.lora_A.weight' is I8, not a float type" in reasons(adapter)


def test_dora_needs_every_magnitude(make: Maker, tmp_path: Path) -> None:
    """One magnitude less, one of another shape, and magnitudes that nothing asked for."""
    folder = shutil.copytree(make(use_dora=True), tmp_path / "dora")
    edit_config(folder, use_dora=False)
    assert "has lora_magnitude_vector, but use_dora is not set" in reasons(folder)
    edit_config(folder, use_dora=True)

    def edit(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_magnitude_vector"] = torch.ones(31)

    edit_tensors(folder, edit)
    assert "has the shape (31), not (32)" in reasons(folder)
    edit_tensors(folder, lambda tensors: tensors.pop(f"{Q}.lora_magnitude_vector"))
    assert "q_proj' has no lora_magnitude_vector, but use_dora is set" in reasons(folder)


def test_plain_lora_that_says_dora(adapter: Path) -> None:
    """use_dora without a single magnitude."""
    edit_config(adapter, use_dora=True)

    assert "has no lora_magnitude_vector, but use_dora is set" in reasons(adapter)


def test_lora_bias_and_its_setting(make: Maker, tmp_path: Path) -> None:
    """The biases of B and lora_bias go together."""
    made = make("qwen2", lora_bias=True, target_modules=["q_proj"])
    folder = shutil.copytree(made, tmp_path / "biased")
    edit_config(folder, lora_bias=False)
    assert "has lora_B.bias, but lora_bias is not set" in reasons(folder)
    edit_config(folder, lora_bias=True, use_dora=True)
    assert "both use_dora and lora_bias" in reasons(folder)
    edit_config(folder, use_dora=False)
    edit_tensors(folder, lambda tensors: tensors.pop(f"{Q}.lora_B.bias"))
    assert "has no lora_B.bias, but lora_bias is set" in reasons(folder)


def test_convolution_shapes(make: Maker, tmp_path: Path) -> None:
    """B of a convolution has a kernel of 1 and the rank of A; grouped ones are named."""
    folder = shutil.copytree(make("resnet"), tmp_path / "conv")
    b = "base_model.model.resnet.embedder.embedder.convolution.lora_B.weight"
    for shape, words in (
        ((8, 4, 3, 3), "whose kernel is not of size 1"),
        ((8, 2, 1, 1), "is a grouped convolution"),
        ((8, 3, 1, 1), "has another rank in A than in B"),
        ((8, 4), "not one kind of layer"),
    ):

        def edit(tensors: Tensors, shape: tuple[int, ...] = shape) -> None:
            tensors[b] = torch.ones(shape)

        edit_tensors(folder, edit)
        assert words in reasons(folder)


def test_two_kinds_of_layer_in_one(adapter: Path) -> None:
    """A module is a linear layer or an embedding."""

    def edit(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_embedding_A"] = torch.ones(4, 9)
        tensors[f"{Q}.lora_embedding_B"] = torch.ones(5, 4, 1)

    edit_tensors(adapter, edit)
    text = reasons(adapter)
    assert "the tensors of a linear layer and of an embedding" in text
    assert "has the shape (5, 4, 1), not two dimensions" in text


def test_two_spellings_of_one_tensor(adapter: Path) -> None:
    """A file that holds a tensor under two spellings does not say which one counts."""

    def edit(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_A.default.weight"] = torch.ones(4, 32)

    edit_tensors(adapter, edit)
    assert "mean the same" in reasons(adapter)


def test_raw_dump_of_the_model(adapter: Path) -> None:
    """Base matrices of layers beside their LoRA come from a dump, not from PEFT."""

    def edit(tensors: Tensors) -> None:
        tensors[f"{Q}.base_layer.weight"] = torch.ones(32, 32)

    edit_tensors(adapter, edit)
    assert "is a copy of the base's, from a raw dump" in reasons(adapter)
