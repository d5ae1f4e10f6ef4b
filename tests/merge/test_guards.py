"""What looks right and would be merged wrong: each is merged as PEFT does, or refused by name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import factory
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.adapters.config import pattern_fault
from adreg.registry.errors import AdapterRefused, AdregError, Incompatible, MergeRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter, read_recipe

Tensors = dict[str, torch.Tensor]


def merge(home: Path, base: Path, adapter: Path, out: Path, **settings: Any) -> Tensors:
    """Merge one adapter and return the tensors on disk."""
    recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(base), **settings)
    Registry(home).merge(recipe, output=out, name="merged")
    return load_file(out / "model.safetensors")


@pytest.fixture
def composite(tmp_path: Path) -> Path:
    """A ViT of linear layers that feeds a GPT-2, whose layers are Conv1D."""
    vit = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
    )
    gpt2 = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=16, add_cross_attention=True
    )
    torch.manual_seed(0)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt2)
    model = transformers.VisionEncoderDecoderModel(config=config)
    model.save_pretrained(tmp_path / "composite")
    return tmp_path / "composite"


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj", "c_attn"], ["attn.c_proj"], ["q_attn", "c_fc"]], ids=str
)
def test_a_model_of_two_kinds_of_layer(
    tmp_path: Path, home: Path, composite: Path, targets: list[str]
) -> None:
    """Square or not, each module's delta is transposed only where its own model is of Conv1D."""
    model = transformers.VisionEncoderDecoderModel.from_pretrained(composite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets))
        factory.fill_adapter(wrapped, 3)
        wrapped.save_pretrained(str(tmp_path / "adapter"))
        wrapped.double()
        exact: Any = wrapped.merge_and_unload()
    exact.save_pretrained(tmp_path / "exact")

    ours = merge(home, composite, tmp_path / "adapter", tmp_path / "out", precision="float64")

    for name, tensor in load_file(tmp_path / "exact" / "model.safetensors").items():
        assert torch.allclose(ours[name].double(), tensor, rtol=1e-5, atol=2e-6), name


def test_names_that_fit_two_towers(tmp_path: Path, home: Path) -> None:
    """Names without the beginning that tells one tower from another are not guessed."""
    tower = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 48, "max_position_embeddings": 32},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    adapter = factory.make_adapter(factory.make_base(tmp_path / "llama"), tmp_path / "adapter")
    stem = "base_model.model.encoder.layers.0.self_attn.q_proj.lora_"

    def rename(tensors: Tensors) -> None:
        tensors.clear()
        tensors.update({f"{stem}A.weight": torch.ones(4, 16), f"{stem}B.weight": torch.ones(16, 4)})

    factory.edit_tensors(adapter, rename)
    with pytest.raises(
        Incompatible, match=r"can be '(text|vision)_model.* or '(text|vision)_model"
    ):
        merge(home, tmp_path / "clip", adapter, tmp_path / "out")


def test_a_transposed_adapter(tmp_path: Path, home: Path) -> None:
    """A delta that fits a linear layer only the other way round is one for another base."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter", target_modules=["down_proj"])

    def swap(tensors: Tensors) -> None:
        for name in [name for name in tensors if "lora_A" in name]:
            other = name.replace("lora_A", "lora_B")
            tensors[name], tensors[other] = (
                tensors[other].T.contiguous(),
                tensors[name].T.contiguous(),
            )

    factory.edit_tensors(adapter, swap)
    with pytest.raises(Incompatible, match=r"makes a delta of \(48, 32\)"):
        merge(home, base, adapter, tmp_path / "out")


def test_a_head_with_trained_rows_under_its_delta(tmp_path: Path, home: Path) -> None:
    """On a tied base the head is the trained rows plus its delta, as in PEFT's layers."""
    base = factory.make_base(tmp_path / "base", "llama-tied", dtype=torch.float32)
    adapter = factory.make_adapter(
        base,
        tmp_path / "adapter",
        target_modules=["q_proj", "lm_head"],
        trainable_token_indices=[3, 5, 9],
    )
    ours = merge(home, base, adapter, tmp_path / "out", precision="float64")

    tensors = load_file(adapter / "adapter_model.safetensors")
    rows = load_file(base / "model.safetensors")["model.embed_tokens.weight"].double()
    (trained,) = (t for name, t in tensors.items() if "trainable_tokens" in name)
    rows[[3, 5, 9]] = trained.double()
    a, b = (tensors[f"base_model.model.lm_head.lora_{x}.weight"].double() for x in "AB")
    assert torch.allclose(ours["model.embed_tokens.weight"].double(), rows, atol=1e-7)
    assert torch.allclose(ours["lm_head.weight"].double(), rows + 2 * b @ a, rtol=1e-6, atol=1e-6)


def test_the_adapters_template_counts(tmp_path: Path, home: Path) -> None:
    """A template inside the adapter's tokenizer_config.json is not hidden by the base's file."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    tokenizer = factory.make_tokenizer()
    tokenizer.save_pretrained(adapter)
    (adapter / "chat_template.jinja").unlink()
    config = json.loads((adapter / "tokenizer_config.json").read_text())
    text = json.dumps({**config, "chat_template": "of the adapter"})
    (adapter / "tokenizer_config.json").write_text(text)
    assert (base / "chat_template.jinja").is_file()

    merge(home, base, adapter, tmp_path / "out")

    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "of the adapter" == loaded.chat_template


def test_a_head_of_no_known_class(tmp_path: Path, home: Path) -> None:
    """A head that the base's class has not is refused when no task_type says whose it is."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    score = {"base_model.model.score.weight": torch.ones(3, 32)}
    factory.edit_tensors(adapter, lambda tensors: tensors.update(score))

    with pytest.raises(MergeRefused, match=r"LlamaForCausalLM has no 'score.weight'"):
        merge(home, base, adapter, tmp_path / "out")


def test_a_layer_that_the_base_has_not(tmp_path: Path, home: Path) -> None:
    """A whole tensor inside the base's own layers must be there, whatever modules_to_save says."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    factory.edit_config(adapter, modules_to_save=["embed_tokenz"])
    more = {"base_model.model.model.embed_tokenz.weight": torch.ones(96, 32)}
    factory.edit_tensors(adapter, lambda tensors: tensors.update(more))

    with pytest.raises(Incompatible, match=r"no tensor 'model\.embed_tokenz\.weight'"):
        merge(home, base, adapter, tmp_path / "out")


@pytest.mark.parametrize("alpha", [-4, 0])
def test_adalora_without_a_positive_alpha(tmp_path: Path, home: Path, alpha: int) -> None:
    """PEFT takes the rank in place of an alpha that is not above 0, and so do we."""
    base = factory.make_base(tmp_path / "base", dtype=torch.float32)
    exact, ours = _adalora(tmp_path, home, base, {"lora_alpha": alpha})
    for name, tensor in ours.items():
        assert torch.allclose(tensor.double(), exact[name], rtol=1e-5, atol=2e-6), name


def test_adalora_that_left_a_module_nothing(tmp_path: Path, home: Path) -> None:
    """A module whose rank was pruned to 0 keeps its weight; the others are merged."""
    base = factory.make_base(tmp_path / "base", dtype=torch.float32)
    exact, ours = _adalora(tmp_path, home, base, {}, nothing="layers.0.self_attn.q_proj")
    before = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(before[name], ours[name])
    for other, tensor in ours.items():
        assert torch.allclose(tensor.double(), exact[other], rtol=1e-5, atol=2e-6), other


def _adalora(
    tmp_path: Path, home: Path, base: Path, settings: dict[str, Any], nothing: str = ""
) -> tuple[Tensors, Tensors]:
    adapter = tmp_path / "adapter"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.AdaLoraConfig(
            target_modules=["q_proj", "down_proj"], init_r=4, total_step=10, **settings
        )
        wrapped: Any = peft.get_peft_model(factory.load_base(base), config)
        factory.fill_adapter(wrapped, 3)
        if nothing:
            ranks = {
                f"{name}.lora_E": [nothing not in name] * 4
                for name, module in wrapped.base_model.model.named_modules()
                if hasattr(module, "lora_E")
            }
            wrapped.peft_config["default"].rank_pattern = ranks
        wrapped.save_pretrained(str(adapter))
        model: Any = factory.load_adapter(base, adapter, dtype=torch.float32)
        model.double()
        exact = dict(model.merge_and_unload().state_dict())
    return exact, merge(home, base, adapter, tmp_path / "out", precision="float64")


def test_whole_numbers_in_place_of_weights(tmp_path: Path, home: Path) -> None:
    """A vector of whole numbers is no IA3 vector."""
    base = factory.make_base(tmp_path / "base")
    adapter = tmp_path / "adapter"
    config = peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    peft.get_peft_model(factory.load_base(base), config).save_pretrained(str(adapter))
    factory.edit_tensors(adapter, lambda t: t.update({k: v.long() for k, v in t.items()}))

    with pytest.raises(AdapterRefused, match="is I64, not a float type"):
        merge(home, base, adapter, tmp_path / "out")


@pytest.mark.parametrize(
    "pattern", [".*.*.*.*.*.*.*.*x", "(.|..)+!", "(a+)+", "(a|aa){2,}x", "a{1,}b{2,}c*d+e*"]
)
def test_patterns_that_could_take_for_ever(pattern: str) -> None:
    """A pattern with many repetitions, or repeated choices, is refused before it is tried."""
    assert "for ever" in (pattern_fault(pattern) or "")


@pytest.mark.parametrize("pattern", ["q_proj", r"^model\.layers\.(?:[0-9]|1[0-9])\..*", ".*a.*b.*"])
def test_patterns_of_real_adapters(pattern: str) -> None:
    """Patterns as PEFT and its users write them are taken."""
    assert pattern_fault(pattern) is None


BIG = "9" * 400
RECIPES = {
    f"adapters: [{{ref: a, weight: {BIG}}}]\n": "is not a finite number",
    f"adapters: [a]\nmax_shard_size: {BIG}GB\n": "is not a size",
    f"adapters: [a]\nmethod: ties\nparameters: {{density: {BIG}}}\n": "line",
    "adapters: &x [*x]\n": "it uses an alias",
}


@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_recipes_that_are_no_recipes(tmp_path: Path, text: str) -> None:
    """Huge numbers and endless structures are mistakes like any other."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(AdregError, match=RECIPES[text]):
        read_recipe(path)


def test_a_dry_run_finds_what_peft_refuses(tmp_path: Path, home: Path) -> None:
    """A kind that PEFT cannot merge into this module is refused before anything is made."""
    base = factory.make_base(tmp_path / "base")
    adapter = tmp_path / "adapter"
    config = peft.HRAConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(factory.load_base(base), config).save_pretrained(str(adapter))
    edited = {"base_model.model.model.layers.0.self_attn.q_proj.hra_odd": torch.ones(32, 2)}
    factory.edit_tensors(adapter, lambda tensors: tensors.update(edited))

    recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(base))
    with pytest.raises(MergeRefused, match="PEFT's HRA has no place for"):
        Registry(home).merge(recipe, output=tmp_path / "out", dry_run=True)


def test_the_same_adapter_under_two_names(tmp_path: Path, home: Path) -> None:
    """One content named twice is refused, by its name in the catalog and by its folder too."""
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter")
    registry = Registry(home)
    registry.add(adapter, name="one")
    recipe = Recipe((RecipeAdapter("one"), RecipeAdapter(str(adapter))), base=str(base))

    with pytest.raises(MergeRefused, match="named twice"):
        registry.merge(recipe, output=tmp_path / "out")
