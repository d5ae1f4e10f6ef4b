"""Each way in which an adapter does not fit a base is told with both names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from factory import edit_config, edit_tensors
from safetensors.torch import save_file

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import read_base
from adreg.registry.bases.fit import fit
from adreg.registry.bases.fit_full import fit_full
from adreg.registry.bases.replicated import deepened
from adreg.registry.errors import Incompatible, MergeRefused

SINGLE = "model.safetensors"
LAYER = "model.layers.0"
Q = f"{LAYER}.self_attn.q_proj"
KEY = f"base_model.model.{Q}"
EMBED = "model.embed_tokens"
Tensors = dict[str, torch.Tensor]
Edit = Callable[[Tensors], object]


def whole(name: str) -> Edit:
    """Return an edit that makes a tensor one of whole numbers."""
    return lambda tensors: tensors.update({name: tensors[name].to(torch.int32)})


def other(name: str, *shape: int) -> Edit:
    """Return an edit that gives a tensor another shape."""
    return lambda tensors: tensors.update({name: torch.ones(shape)})


def nothing(tensors: Tensors) -> None:
    """Change nothing."""
    del tensors


Q_ONLY: dict[str, Any] = {"target_modules": ["q_proj"]}
HEAD: dict[str, Any] = {**Q_ONLY, "modules_to_save": ["lm_head"]}
ROWS: dict[str, Any] = {**Q_ONLY, "trainable_token_indices": [3, 5]}
BIAS: dict[str, Any] = {**Q_ONLY, "lora_bias": True}

CASES: dict[str, tuple[str, dict[str, Any], Edit, str]] = {
    "no tensor": (
        "llama",
        Q_ONLY,
        lambda tensors: tensors.pop(f"{Q}.weight"),
        f"the base has no tensor '{Q}.weight' for '{KEY}.lora_A.weight'",
    ),
    "dtype": ("llama", Q_ONLY, whole(f"{Q}.weight"), "is I32, which nothing is added to"),
    "delta": (
        "llama",
        Q_ONLY,
        other(f"{Q}.weight", 32, 40),
        f"makes a delta of (32, 32), the base's '{Q}.weight' has (32, 40)",
    ),
    "head: dtype": (
        "llama",
        HEAD,
        whole("lm_head.weight"),
        "cannot replace the base's 'lm_head.weight': it is I32",
    ),
    "head: shape": (
        "llama",
        HEAD,
        other("lm_head.weight", 96, 40),
        "has the shape (96, 32), the base's 'lm_head.weight' has (96, 40)",
    ),
    "rows: dtype": (
        "llama",
        ROWS,
        whole(f"{EMBED}.weight"),
        f"cannot replace rows of '{EMBED}.weight': it is I32",
    ),
    "rows: width": (
        "llama",
        ROWS,
        other(f"{EMBED}.weight", 96, 40),
        f"has rows of 32, the base's '{EMBED}.weight' has (96, 40)",
    ),
    "rows: number": (
        "llama",
        ROWS,
        other(f"{EMBED}.weight", 4, 32),
        f"is for the row of token 5, the base's '{EMBED}.weight' has 4 rows; only an adapter that",
    ),
    "rows: none": (
        "llama",
        ROWS,
        lambda tensors: tensors.pop(f"{EMBED}.weight"),
        f"the base has no tensor '{EMBED}.weight' for",
    ),
    "bias": (
        "qwen2",
        BIAS,
        lambda tensors: tensors.pop(f"{Q}.bias"),
        f"the base has no fitting '{Q}.bias' for '{KEY}.lora_B.bias'",
    ),
}


def fitted(tmp_path: Path, kind: str, config: dict[str, Any], edit: Edit) -> tuple[str, ...]:
    """Return what does not fit when an adapter meets its own base, spoilt."""
    base = factory.make_base(tmp_path / "base", kind)
    adapter = factory.make_adapter(base, tmp_path / "adapter", **config)
    edit_tensors(base, edit, SINGLE)
    return fit(read_adapter(adapter), read_base(base)).faults


@pytest.mark.parametrize("case", CASES)
def test_lora(tmp_path: Path, case: str) -> None:
    """The adapter's tensor and the base's stand in one sentence, and there is a hint."""
    kind, config, edit, words = CASES[case]

    faults = fitted(tmp_path, kind, config, edit)
    error = Incompatible("it@1", "tiny", faults)

    assert any(words in fault for fault in faults), faults
    assert error.sentence.startswith("it@1 does not fit tiny: ")
    assert faults[0] in error.sentence
    assert "Pass the base that it was trained on with --base; `adreg show` names it." == error.hint


def others(base: Path, folder: Path, tensors: Tensors, **config: object) -> Path:
    """Write an adapter of another kind than LoRA."""
    del base
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.{name}": value for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


LOHA: Tensors = {
    f"{Q}.hada_w1_a": torch.ones(32, 4),
    f"{Q}.hada_w1_b": torch.ones(4, 32),
    f"{Q}.hada_w2_a": torch.ones(32, 4),
    f"{Q}.hada_w2_b": torch.ones(4, 32),
}

OTHERS: dict[str, tuple[Tensors, dict[str, object], Edit, str]] = {
    "dtype": (
        LOHA,
        {"peft_type": "LOHA", "r": 4},
        whole(f"{Q}.weight"),
        f"the base's '{Q}.weight' is I32, which nothing is added to",
    ),
    "shape": (
        LOHA,
        {"peft_type": "LOHA", "r": 4},
        other(f"{Q}.weight", 32, 40),
        f"is of a group for (32, 32), the base's '{Q}.weight' has (32, 40)",
    ),
    "disagree": (
        {**LOHA, f"{Q}.hada_w2_b": torch.ones(4, 16)},
        {"peft_type": "LOHA", "r": 4},
        nothing,
        f"is of a group whose shapes disagree, the base's '{Q}.weight' has (32, 32)",
    ),
    "no tensor": (
        LOHA,
        {"peft_type": "LOHA", "r": 4},
        lambda tensors: tensors.pop(f"{Q}.weight"),
        f"the base has no tensor '{Q}.weight' for",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_kinds(tmp_path: Path, case: str) -> None:
    """The same holds for kinds that are no LoRA."""
    tensors, config, edit, words = OTHERS[case]
    base = factory.make_base(tmp_path / "base")
    adapter = others(base, tmp_path / "adapter", tensors, **config)
    edit_tensors(base, edit, SINGLE)

    faults = fit(read_adapter(adapter), read_base(base)).faults

    assert any(words in fault for fault in faults), faults


def test_shared_tensors_without_a_list_of_modules(tmp_path: Path) -> None:
    """Where all tensors are shared, the configuration must list the modules."""
    base = factory.make_base(tmp_path / "base")
    adapter = others(
        base,
        tmp_path / "adapter",
        {},
        peft_type="VERA",
        r=4,
        target_modules="q_proj",
    )
    shared = {"base_model.vera_A": torch.ones(4, 32), "base_model.vera_B": torch.ones(32, 4)}
    save_file(shared, adapter / "adapter_model.safetensors")

    faults = fit(read_adapter(adapter), read_base(base)).faults

    assert ("its modules cannot be told: target_modules is no list of names",) == faults


FULL: dict[str, tuple[Edit, str]] = {
    "more": (
        lambda tensors: tensors.update(x=torch.ones(2)),
        "the base has no tensor 'x', which the checkpoint has",
    ),
    "fewer": (
        lambda tensors: tensors.pop("lm_head.weight"),
        "the checkpoint has no tensor 'lm_head.weight', which the base has",
    ),
    "shape": (
        other(f"{Q}.weight", 32, 40),
        f"'{Q}.weight' is (32, 40) in the checkpoint and (32, 32) in the base",
    ),
    "dtype": (whole(f"{Q}.weight"), f"'{Q}.weight' is I32 in the checkpoint, BF16 here"),
}


@pytest.mark.parametrize("case", FULL)
def test_full_checkpoints(tmp_path: Path, case: str) -> None:
    """A fine-tune with other tensors than the base's is told by name."""
    edit, words = FULL[case]
    base = factory.make_base(tmp_path / "base")
    full = shutil.copytree(base, tmp_path / "full")
    edit_tensors(full, edit, SINGLE)

    assert words in fit_full(read_base(full), read_base(base)).faults


def test_one_of_two_is_tied(tmp_path: Path) -> None:
    """A tied model and one with a head of its own are told apart."""
    base = read_base(factory.make_base(tmp_path / "base"))

    faults = fit_full(replace(base, tied=True), base).faults

    assert ("one of the two ties its head to its embedding, the other does not",) == faults


DEEPER: dict[str, tuple[dict[str, object], str]] = {
    "counted": (
        {"model_type": "qwen2", "use_sliding_window": True},
        "the base's layers are of kinds that its configuration counts off",
    ),
    "mixed": (
        {"model_type": "gemma3_text"},
        "the base's layers are of several kinds, and layer_types is not given",
    ),
    "depth": (
        {"num_hidden_layers": 3},
        "the base's configuration does not say that it has 2 layers",
    ),
}


@pytest.mark.parametrize("case", DEEPER)
def test_layers_that_cannot_be_repeated(tmp_path: Path, case: str) -> None:
    """A base whose configuration cannot say what each copy is refuses to be deeper."""
    change, words = DEEPER[case]
    base = factory.make_base(tmp_path / "base")
    adapter = factory.make_adapter(base, tmp_path / "adapter", layer_replication=[[0, 2], [0, 1]])
    edit_config(base, **change)

    with pytest.raises(MergeRefused) as refused:
        deepened(read_base(base), [read_adapter(adapter)])

    assert f"not merged: layer_replication: {words}" == refused.value.sentence
    assert "Use it with PEFT, on its base." == refused.value.hint


def test_ranges(tmp_path: Path) -> None:
    """Ranges beyond the base's layers, and inputs of two depths, are refused."""
    base = factory.make_base(tmp_path / "base")
    one = factory.make_adapter(base, tmp_path / "one", layer_replication=[[0, 2], [0, 1]])
    two = factory.make_adapter(base, tmp_path / "two")

    with pytest.raises(MergeRefused, match="the inputs differ in layer_replication") as refused:
        deepened(read_base(base), [read_adapter(one), read_adapter(two)])
    assert "Merge them apart." == refused.value.hint

    edit_config(one, layer_replication=[[1, 1]])
    with pytest.raises(MergeRefused, match="is no range of the base's 2 layers") as refused:
        deepened(read_base(base), [read_adapter(one)])
    assert "Use it with PEFT, on its base." == refused.value.hint
