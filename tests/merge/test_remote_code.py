"""A base with code of its own, in shards of torch.save: merged by names, and no code is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adreg.registry import Registry
from adreg.registry.errors import Incompatible
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

HIDDEN, INNER, TOKENS, FUSED = 16, 20, 40, 32
LAYERS = "transformer.encoder.layers"


def make_base(folder: Path, marker: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Write a ChatGLM3 by hand: its names, float16, two pickled shards, code that leaves a mark."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(12)

    def values(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.1).half()

    tensors = {"transformer.embedding.word_embeddings.weight": values(TOKENS, HIDDEN)}
    tensors["transformer.rotary_pos_emb.inv_freq"] = values(4)
    for number in range(2):
        start = f"{LAYERS}.{number}"
        tensors |= {
            f"{start}.input_layernorm.weight": values(HIDDEN),
            f"{start}.self_attention.query_key_value.weight": values(FUSED, HIDDEN),
            f"{start}.self_attention.query_key_value.bias": values(FUSED),
            f"{start}.self_attention.dense.weight": values(HIDDEN, HIDDEN),
            f"{start}.post_attention_layernorm.weight": values(HIDDEN),
            f"{start}.mlp.dense_h_to_4h.weight": values(2 * INNER, HIDDEN),
            f"{start}.mlp.dense_4h_to_h.weight": values(HIDDEN, INNER),
        }
    tensors["transformer.encoder.final_layernorm.weight"] = values(HIDDEN)
    tensors["transformer.output_layer.weight"] = values(TOKENS, HIDDEN)
    names = list(tensors)
    shards = {
        "pytorch_model-00001-of-00002.bin": names[:8],
        "pytorch_model-00002-of-00002.bin": names[8:],
    }
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
        },
        "num_layers": 2,
        "hidden_size": HIDDEN,
        "padded_vocab_size": TOKENS,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    trap = f"open({str(marker)!r}, 'w').close()\nraise SystemExit('this code was run')\n"
    for name in ("modeling_chatglm.py", "configuration_chatglm.py", "tokenization_chatglm.py"):
        (folder / name).write_text(trap)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}')
    return folder, tensors


def make_adapter(folder: Path, modules: dict[str, tuple[int, int]], **config: Any) -> Path:
    """Write an adapter of modules with (out, in) by hand."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(13)
    tensors = {}
    for module, (out, into) in modules.items():
        start = f"base_model.model.{module}"
        tensors[f"{start}.lora_A.weight"] = torch.randn((4, into), generator=generator)
        tensors[f"{start}.lora_B.weight"] = torch.randn((out, 4), generator=generator)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **config}
    settings["target_modules"] = sorted({module.rpartition(".")[2] for module in modules})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


MODULES = {
    f"{LAYERS}.{number}.{name}": size
    for number in range(2)
    for name, size in {
        "self_attention.query_key_value": (FUSED, HIDDEN),
        "self_attention.dense": (HIDDEN, HIDDEN),
        "mlp.dense_4h_to_h": (HIDDEN, INNER),
    }.items()
}


def test_names_are_enough_and_no_code_is_run(tmp_path: Path, home: Path) -> None:
    """Each targeted matrix is W + 2 B A in float16, all else the same bits, and no mark is left."""
    marker = tmp_path / "marker"
    base, before = make_base(tmp_path / "base", marker)
    adapter = make_adapter(tmp_path / "adapter", MODULES)
    registry = Registry(home)
    registry.add(adapter, name="one", base=str(base))

    registry.merge(
        Recipe((RecipeAdapter("one"),), base=str(base)), output=tmp_path / "out", name="merged"
    )

    factors = load_file(adapter / "adapter_model.safetensors")
    ours = {
        name: tensor
        for file in (tmp_path / "out").glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    assert ours.keys() == before.keys()
    for name, tensor in ours.items():
        module = name.removesuffix(".weight")
        if module not in MODULES:
            assert torch.equal(tensor, before[name]), name
            continue
        b, a = (factors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "BA")
        exact = before[name].double() + 2 * b @ a
        assert tensor.dtype == torch.float16
        unit = torch.finfo(torch.float16).eps * exact.abs().clamp_min(2.0**-14)
        assert ((tensor.double() - exact).abs() <= 0.5001 * unit + 1e-6).all(), name
    assert not marker.exists()


def test_the_code_is_named_and_not_copied(tmp_path: Path, home: Path) -> None:
    """The merge says which code the model needs; the folder has its configuration and no code."""
    base, _ = make_base(tmp_path / "base", tmp_path / "marker")
    adapter = make_adapter(tmp_path / "adapter", MODULES)

    merged = Registry(home).merge(
        Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=tmp_path / "out"
    )

    said = " ".join(merged.remarks)
    assert "modeling_chatglm.py" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not any(name.endswith((".py", ".bin", ".bin.index.json")) for name in names)
    assert {"config.json", "tokenizer_config.json"} <= names
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((base / "config.json").read_text())


def test_an_adapter_of_another_model_names_what_is_missing(tmp_path: Path, home: Path) -> None:
    """Without a class to ask, names on disk still decide: q_proj is not there."""
    base, _ = make_base(tmp_path / "base", tmp_path / "marker")
    adapter = make_adapter(
        tmp_path / "adapter", {"model.layers.0.self_attn.q_proj": (HIDDEN, HIDDEN)}
    )

    with pytest.raises(Incompatible, match=r"no tensor 'model\.layers\.0\.self_attn\.q_proj"):
        Registry(home).merge(
            Recipe((RecipeAdapter(str(adapter)),), base=str(base)), output=tmp_path / "out"
        )

    assert not (tmp_path / "out").exists()
