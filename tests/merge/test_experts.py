"""LoRA on fused experts (target_parameters), against arithmetic by hand on the tensors on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adreg.registry import Registry
from adreg.registry.errors import Incompatible
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

EXPERTS, RANK, HIDDEN = 3, 2, 16
MODULE = "model.layers.1.mlp.experts"
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

Tensors = dict[str, torch.Tensor]


def make_base(folder: Path, kind: str, inner: int, shard_size: str = "1GB") -> Path:
    """Save a tiny mixture: qwen3_moe and mixtral have each expert apart on disk, gpt_oss all."""
    size = {
        "vocab_size": 48,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_experts_per_tok": 2,
    }
    make: Any
    if kind == "qwen3_moe":
        make, more = (
            transformers.Qwen3MoeForCausalLM,
            {
                "num_experts": EXPERTS,
                "moe_intermediate_size": inner,
            },
        )
    elif kind == "mixtral":
        make, more = (
            transformers.MixtralForCausalLM,
            {
                "num_local_experts": EXPERTS,
                "intermediate_size": inner,
            },
        )
    else:
        make, more = (
            transformers.GptOssForCausalLM,
            {
                "num_local_experts": EXPERTS,
                "intermediate_size": inner,
            },
        )
    with torch.random.fork_rng():
        torch.manual_seed(8)
        make(make.config_class(**size, **more)).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def tensors_of(folder: Path) -> Tensors:
    """Return all tensors of a checkpoint."""
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def pair(out: int, into: int, seed: int, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (E r, in) and B (out, r E) as PEFT stores them."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn((EXPERTS * rank, into), generator=generator)
    return a, torch.randn((out, rank * EXPERTS), generator=generator)


def save(folder: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], **config: Any) -> Path:
    """Write an adapter by hand; ``pairs`` are by what stands between the module and lora_."""
    folder.mkdir()
    settings = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 4,
        "target_modules": [],
        "target_parameters": BOTH,
        "peft_version": "0.21.2",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {}
    for between, (a, b) in pairs.items():
        tensors[f"base_model.model.{MODULE}{between}.lora_A.weight"] = a
        tensors[f"base_model.model.{MODULE}{between}.lora_B.weight"] = b
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def delta(a: torch.Tensor, b: torch.Tensor, expert: int, rank: int = RANK) -> torch.Tensor:
    """Return B_e A_e (out, in): rows of A lie expert by expert, of B's columns each E-th."""
    mine = a.double()[expert * rank : (expert + 1) * rank]
    return b.double()[:, expert::EXPERTS] @ mine


def add(exact: Tensors, kind: str, parameter: str, expert: int, change: torch.Tensor) -> None:
    """Add a change (rows, columns) of an expert's matrix in memory to where it is on disk."""
    if kind == "gpt_oss":
        exact[f"{MODULE}.{parameter}"][expert] += change
        return
    names = {
        "qwen3_moe": (f"{MODULE}.{expert}.", ("gate_proj", "up_proj", "down_proj")),
        "mixtral": (f"model.layers.1.block_sparse_moe.experts.{expert}.", ("w1", "w3", "w2")),
    }
    start, (gate, up, down) = names[kind]
    if parameter == "down_proj":
        exact[f"{start}{down}.weight"] += change
        return
    half = change.shape[0] // 2
    exact[f"{start}{gate}.weight"] += change[:half]
    exact[f"{start}{up}.weight"] += change[half:]


def merge(home: Path, base: Path, given: dict[Path, float], output: Path) -> Tensors:
    """Merge adapters with their weights and return the tensors on disk."""
    adapters = tuple(RecipeAdapter(str(path), weight) for path, weight in given.items())
    Registry(home).merge(Recipe(adapters, base=str(base)), output=output)
    return tensors_of(output)


def check(ours: Tensors, exact: Tensors, before: Tensors, changed: int) -> None:
    """Compare all tensors with what was computed by hand, and count those that changed."""
    assert sorted(ours) == sorted(exact)
    for name, tensor in ours.items():
        assert torch.allclose(tensor.double(), exact[name], rtol=1e-6, atol=2e-6), name
    assert sum(not torch.equal(ours[name], before[name]) for name in before) == changed


# kind, inner size, tensors on disk that both parameters are in
KINDS = {
    "apart": ("qwen3_moe", 12, 9),
    "apart, square": ("qwen3_moe", 8, 9),
    "mixtral": ("mixtral", 20, 9),
    "fused, in to out": ("gpt_oss", 12, 2),
    "fused, square": ("gpt_oss", 8, 2),
}


def shapes(kind: str, inner: int) -> dict[str, tuple[int, int]]:
    """Return (out, in) of both parameters."""
    del kind
    return {"gate_up_proj": (2 * inner, HIDDEN), "down_proj": (HIDDEN, inner)}


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
@pytest.mark.parametrize("case", KINDS)
def test_both_parameters(tmp_path: Path, home: Path, case: str, config: dict[str, Any]) -> None:
    """The inner wrapper is gate_up's, the outer one down's; each expert gets its own B A."""
    kind, inner, changed = KINDS[case]
    base = make_base(tmp_path / "base", kind, inner)
    size = shapes(kind, inner)
    pairs = {".base_layer": pair(*size["gate_up_proj"], 1), "": pair(*size["down_proj"], 2)}
    adapter = save(tmp_path / "adapter", pairs, **config)
    before = tensors_of(base)
    exact = {name: tensor.double() for name, tensor in before.items()}
    scale = 4 / math.sqrt(RANK) if config else 4 / RANK
    for between, parameter in ((".base_layer", "gate_up_proj"), ("", "down_proj")):
        for expert in range(EXPERTS):
            change = scale * delta(*pairs[between], expert)
            add(exact, kind, parameter, expert, change.T if kind == "gpt_oss" else change)

    ours = merge(home, base, {adapter: 1.0}, tmp_path / "out")

    check(ours, exact, before, changed)


@pytest.mark.parametrize("parameter", ["gate_up_proj", "down_proj"])
@pytest.mark.parametrize("case", KINDS)
def test_one_parameter(tmp_path: Path, home: Path, case: str, parameter: str) -> None:
    """With one parameter there is one wrapper, and the configuration says whose it is."""
    kind, inner, _ = KINDS[case]
    base = make_base(tmp_path / "base", kind, inner)
    factors = pair(*shapes(kind, inner)[parameter], 1)
    adapter = save(
        tmp_path / "adapter", {"": factors}, target_parameters=[f"mlp.experts.{parameter}"]
    )
    before = tensors_of(base)
    exact = {name: tensor.double() for name, tensor in before.items()}
    for expert in range(EXPERTS):
        change = 2 * delta(*factors, expert)
        add(exact, kind, parameter, expert, change.T if kind == "gpt_oss" else change)

    ours = merge(home, base, {adapter: 1.0}, tmp_path / "out")

    changed = 1 if kind == "gpt_oss" else EXPERTS * (2 if parameter == "gate_up_proj" else 1)
    check(ours, exact, before, changed)


@pytest.mark.parametrize("version", ["0.18.1", "0.17.0"])
@pytest.mark.parametrize("inner", [12, 8], ids=["oblong", "square"])
def test_the_layout_of_older_peft(tmp_path: Path, home: Path, inner: int, version: str) -> None:
    """PEFT before 0.19 took (E, in, out) for granted: its B A is the transpose, square or not."""
    base = make_base(tmp_path / "base", "qwen3_moe", inner)
    size = shapes("qwen3_moe", inner)
    pairs = {
        ".base_layer": pair(*size["gate_up_proj"][::-1], 1),
        "": pair(*size["down_proj"][::-1], 2),
    }
    adapter = save(tmp_path / "adapter", pairs, peft_version=version)
    before = tensors_of(base)
    exact = {name: tensor.double() for name, tensor in before.items()}
    for between, parameter in ((".base_layer", "gate_up_proj"), ("", "down_proj")):
        for expert in range(EXPERTS):
            add(exact, "qwen3_moe", parameter, expert, 2 * delta(*pairs[between], expert).T)

    ours = merge(home, base, {adapter: 1.0}, tmp_path / "out")

    check(ours, exact, before, 9)


def test_patterns_name_parameters(tmp_path: Path, home: Path) -> None:
    """rank_pattern and alpha_pattern are of a parameter, by its own name."""
    base = make_base(tmp_path / "base", "qwen3_moe", 12)
    size = shapes("qwen3_moe", 12)
    pairs = {".base_layer": pair(*size["gate_up_proj"], 1), "": pair(*size["down_proj"], 2, rank=5)}
    adapter = save(
        tmp_path / "adapter",
        pairs,
        rank_pattern={"experts.down_proj": 5},
        alpha_pattern={"down_proj": 7},
    )
    before = tensors_of(base)
    exact = {name: tensor.double() for name, tensor in before.items()}
    for expert in range(EXPERTS):
        add(exact, "qwen3_moe", "gate_up_proj", expert, 2 * delta(*pairs[".base_layer"], expert))
        add(exact, "qwen3_moe", "down_proj", expert, 7 / 5 * delta(*pairs[""], expert, rank=5))

    ours = merge(home, base, {adapter: 1.0}, tmp_path / "out")

    check(ours, exact, before, 9)


def test_several_adapters_with_weights_over_shards(tmp_path: Path, home: Path) -> None:
    """Deltas are weighted and summed where shards split the experts of one parameter."""
    base = make_base(tmp_path / "base", "qwen3_moe", 12, shard_size="4KB")
    index = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    assert len({file for name, file in index.items() if name.startswith(MODULE)}) > 1
    size = shapes("qwen3_moe", 12)
    before = tensors_of(base)
    exact = {name: tensor.double() for name, tensor in before.items()}
    given: dict[Path, float] = {}
    for number, weight in enumerate((0.5, -1.25)):
        pairs = {
            ".base_layer": pair(*size["gate_up_proj"], 10 + number),
            "": pair(*size["down_proj"], 20 + number),
        }
        given[save(tmp_path / f"a{number}", pairs)] = weight
        for between, parameter in ((".base_layer", "gate_up_proj"), ("", "down_proj")):
            for expert in range(EXPERTS):
                change = 2 * weight * delta(*pairs[between], expert)
                add(exact, "qwen3_moe", parameter, expert, change)

    ours = merge(home, base, given, tmp_path / "out")

    check(ours, exact, before, 9)


def test_a_plain_weight_as_a_parameter(tmp_path: Path, home: Path) -> None:
    """target_parameters can name a matrix of two dimensions; it is one expert's."""
    base = make_base(tmp_path / "base", "qwen3_moe", 12)
    name = "model.layers.1.self_attn.q_proj"
    generator = torch.Generator().manual_seed(6)
    a, b = (
        torch.randn((RANK, 16), generator=generator),
        torch.randn((16, RANK), generator=generator),
    )
    adapter = save(tmp_path / "adapter", {}, target_parameters=["self_attn.q_proj.weight"])
    start = f"base_model.model.{name}"
    save_file(
        {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b},
        adapter / "adapter_model.safetensors",
    )
    before = tensors_of(base)
    exact = {key: tensor.double() for key, tensor in before.items()}
    exact[f"{name}.weight"] += 2 * b.double() @ a.double()

    ours = merge(home, base, {adapter: 1.0}, tmp_path / "out")

    check(ours, exact, before, 1)


FAULTS: dict[str, tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], dict[str, Any], str]] = {
    "other experts": (
        {"": (torch.ones(8, 16), torch.ones(24, 8))},
        {"target_parameters": BOTH[:1]},
        "is of no parameter of 'model.layers.1.mlp.experts'",
    ),
    "other sizes": (
        {"": (torch.ones(6, 15), torch.ones(24, 6))},
        {"target_parameters": BOTH[:1]},
        "is of no parameter of 'model.layers.1.mlp.experts'",
    ),
    "another rank": (
        {"": (torch.ones(12, 16), torch.ones(24, 12))},
        {"target_parameters": BOTH[:1]},
        "has rank 4 for each of 3 experts of .* the configuration says 2",
    ),
    "other names": (
        {"": (torch.ones(6, 16), torch.ones(24, 6))},
        {"target_parameters": ["mlp.experts.w13"]},
        "target_parameters are mlp.experts.w13, the base has none",
    ),
    "a wrapper too many": (
        {
            "": (torch.ones(6, 16), torch.ones(24, 6)),
            ".base_layer": (torch.ones(6, 16), torch.ones(24, 6)),
        },
        {"target_parameters": BOTH[:1]},
        "is of no parameter of 'model.layers.1.mlp.experts'",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_factors_that_fit_no_parameter(tmp_path: Path, home: Path, case: str) -> None:
    """What fits none of the targeted parameters is refused, and both sides are named."""
    pairs, config, words = FAULTS[case]
    base = make_base(tmp_path / "base", "qwen3_moe", 12)
    adapter = save(tmp_path / "adapter", pairs, **config)

    with pytest.raises(Incompatible, match=words):
        merge(home, base, {adapter: 1.0}, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_half_of_the_factors(tmp_path: Path, home: Path) -> None:
    """A without B is a fault of the adapter."""
    base = make_base(tmp_path / "base", "qwen3_moe", 12)
    adapter = save(tmp_path / "adapter", {"": pair(24, 16, 1)}, target_parameters=BOTH[:1])
    factory.edit_tensors(
        adapter, lambda tensors: tensors.pop(next(k for k in tensors if "lora_B" in k))
    )

    with pytest.raises(Exception, match=r"has lora_A\.weight but no lora_B\.weight"):
        merge(home, base, {adapter: 1.0}, tmp_path / "out")
