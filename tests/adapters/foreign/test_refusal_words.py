"""Each refusal of a foreign format says what is wrong with what, and what to do instead."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from adreg.registry.adapters.foreign.door import convert
from adreg.registry.adapters.foreign.form import BaseView, Said
from adreg.registry.errors import AdregError

ONE = np.ones((4, 4), np.float32)
Q = "model.layers.0.self_attn.q_proj"
Arrays = Mapping[str, NDArray[Any]]
BASE = BaseView(
    {"architectures": ["LlamaForCausalLM"]},
    {
        f"{Q}.weight": (4, 4),
        "a.b_c.weight": (4, 4),
        "a_b.c.weight": (4, 4),
        "conv.weight": (4,) * 4,
    },
)
AGAIN = "Fetch or save the adapter again."


def named(arrays: Arrays, name: str = "x.safetensors", metadata: Any = None) -> Any:
    """Return a maker of one file of tensors."""

    def make(folder: Path) -> Path:
        save_file(dict(arrays), folder / name, metadata=metadata)
        return folder / name

    return make


def mlx(arrays: Arrays, **config: object) -> Any:
    """Return a maker of a folder of mlx-lm."""

    def make(folder: Path) -> Path:
        written = {"fine_tune_type": "lora", "lora_parameters": {"scale": 2.0}, **config}
        (folder / "adapter_config.json").write_text(json.dumps(written))
        if arrays:
            save_file(dict(arrays), folder / "adapters.safetensors")
        return folder

    return make


def merged_linear(b: NDArray[Any], **config: object) -> Any:
    """Return a maker of a folder of PEFT 0.1 with a MergedLinear."""

    def make(folder: Path) -> Path:
        written = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "enable_lora": [True, False]}
        (folder / "adapter_config.json").write_text(json.dumps({**written, **config}))
        module = f"base_model.model.{Q}"
        arrays = {f"{module}.lora_A.weight": ONE, f"{module}.lora_B.weight": b}
        save_file(arrays, folder / "adapter_model.safetensors")
        return folder

    return make


def npz(*entries: tuple[str, bytes]) -> Any:
    """Return a maker of an archive with these entries."""

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "adapters.npz", "w") as archive:
            for name, data in entries:
                archive.writestr(name, data)
        return folder / "adapters.npz"

    return make


def npy(array: NDArray[Any]) -> bytes:
    """Return the bytes of an array's .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def raw(name: str, data: bytes) -> Any:
    """Return a maker of a file of bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def nemo(folder: Path) -> Path:
    """Make an archive of NeMo's."""
    with tarfile.open(folder / "lora.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("model_config.yaml"))
    return folder / "lora.tar"


def bone(folder: Path) -> Path:
    """Make a folder of the kind that PEFT took out."""
    (folder / "adapter_config.json").write_text('{"peft_type": "BONE"}')
    return folder


def linked(folder: Path) -> Path:
    """Make a folder of mlx-lm whose weights lie elsewhere."""
    mlx({"a.lora_a": ONE, "a.lora_b": ONE})(folder)
    (folder / "adapters.safetensors").rename(folder.parent / "elsewhere")
    (folder / "adapters.safetensors").symlink_to(folder.parent / "elsewhere")
    return folder


def pickled(folder: Path) -> Path:
    """Make a PEFT folder whose weights are a pickle of whole numbers."""
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    torch.save({"ids": torch.arange(3)}, folder / "adapter_model.bin")
    return folder


def diffused(part: str = "", value: NDArray[Any] | None = None, metadata: str = "") -> Any:
    """Return a maker of a LoRA of diffusers with one more tensor."""
    arrays = {f"unet.{Q}.lora_A.weight": ONE, f"unet.{Q}.lora_B.weight": ONE}
    if value is not None:
        arrays[part] = value
    told = {"lora_adapter_metadata": metadata} if metadata else None
    return named(arrays, metadata=told)


def kohya(stem: str, component: str = "te", **more: NDArray[Any]) -> Any:
    """Return a maker of a kohya LoRA of one module."""
    start = f"lora_{component}_{stem}"
    factors = {f"{start}.lora_down.weight": ONE, f"{start}.lora_up.weight": ONE}
    return named({**factors, **{f"{start}.{name}": value for name, value in more.items()}})


LORA = {f"{Q}.lora_A": ONE, f"{Q}.lora_B": ONE}
MLX = {f"{Q}.lora_a": ONE, f"{Q}.lora_b": ONE}
TWO = np.ones(2, np.float32)
HALF = np.ones((4, 2), np.float32)
OLD = "Load it with PEFT 0.2, fold it in there, and add the model as a base."
FUSE = "Train it again without those layers, or fuse it with mlx_lm.fuse."
LEAVE = "Leave --alpha out."
SAME = "Add the PEFT folder that it was made from."
MISTRAL = "layers.0.attention.wq.lora_A.weight"
PICK = "Pass --convert-pickle to read it with a reader that can build nothing but tensors"

Case = tuple[Callable[[Path], Path], Said, str, str]
CASES: dict[str, Case] = {
    "ggla": (raw("x.bin", b"algg" + bytes(64)), Said(), "lost its module names", SAME),
    "nemo": (
        nemo,
        Said(),
        "whose names are NeMo's own",
        "with NeMo's exporter of that model class",
    ),
    "mistral": (
        named({MISTRAL: ONE}),
        Said(),
        "it is a LoRA of mistral-finetune, which uses the names of Mistral's own checkpoints",
        "Merge it with mistral-finetune's merge_lora, and convert the model with transformers.",
    ),
    "bone": (bone, Said(), "which PEFT 0.19 replaced by MiSS", "scripts/convert-bone-to-miss.py"),
    "link": (
        linked,
        Said(),
        "'adapters.safetensors' is a link out of its folder",
        "Copy the files themselves into the folder.",
    ),
    "pickle": (pickled, Said(), "only there as a pickle, which could run code", PICK),
    "whole numbers": (
        pickled,
        Said(convert_pickle=True),
        "the tensor 'ids' is I64, not a float type",
        "Save its factors as float32 or a 16-bit float.",
    ),
    "no tensors": (
        named({}, name="adapters.safetensors"),
        Said(),
        "its weights file holds no tensors: the training run saved an empty adapter",
        "Train or fetch the adapter again.",
    ),
    "alpha of PEFT's own": (
        pickled,
        Said(alpha=2, convert_pickle=True),
        "--alpha cannot be used here: this format has no need of that",
        LEAVE,
    ),
    "half a pair": (named({f"{Q}.lora_A": ONE}), Said(alpha=2), f"{Q!r} has no lora_B", AGAIN),
    "loralib: alpha": (
        named(LORA),
        Said(),
        "it is a loralib state dict of rank 4, which does not hold its alpha",
        "Pass --alpha with the lora_alpha of the training script.",
    ),
    "loralib: convolution": (
        named({"conv.lora_A": ONE, "conv.lora_B": ONE}),
        Said(alpha=2, base=BASE),
        "'conv' is a convolution, whose loralib form PEFT does not have",
        "Save lora.lora_state_dict(model) of plain lora.Linear layers.",
    ),
    "merged: blocks": (
        merged_linear(ONE, enable_lora=[False]),
        Said(),
        "enable_lora is [False], not blocks to train",
        OLD,
    ),
    "merged: rank": (merged_linear(ONE, r="4"), Said(), "r is '4', not a number", OLD),
    "merged: groups": (
        merged_linear(np.ones((63, 2, 1), np.float32), enable_lora=[True, True], r=2),
        Said(),
        "has groups that do not divide its rows: A (4, 4), B (63, 2, 1)",
        OLD,
    ),
    "mlx: full": (
        mlx(MLX, fine_tune_type="full"),
        Said(),
        "it is a full fine-tune of mlx-lm (fine_tune_type 'full'), not an adapter",
        "Fuse it with mlx_lm.fuse; the result is a model, not an adapter.",
    ),
    "mlx: kind": (
        mlx(MLX, fine_tune_type="magic"),
        Said(),
        "its fine_tune_type is 'magic', which is not known",
        "Train it with mlx_lm.lora as a lora or dora.",
    ),
    "mlx: weights": (mlx({}), Said(), "it is an mlx-lm adapter without adapters", AGAIN),
    "mlx: more": (
        mlx({**MLX, "lm_head.weight": ONE}),
        Said(),
        "the tensor 'lm_head.weight' is no part of an mlx-lm LoRA",
        "Save the adapter again with mlx_lm.lora.",
    ),
    "mlx: ranks": (
        mlx({f"{Q}.lora_a": ONE, f"{Q}.lora_b": ONE[:2]}),
        Said(),
        f"{Q!r} has another rank in a than in b: a (4, 4), b (2, 4)",
        FUSE,
    ),
    "mlx: two scales": (mlx(MLX), Said(alpha=2), "its configuration says the scale, 2.0", LEAVE),
    "mlx: scale": (
        mlx(MLX, lora_parameters={"scale": "much"}),
        Said(),
        "its scale is 'much', not a number",
        "Mend scale among the lora_parameters of its adapter_config.json.",
    ),
    "mlx: no scale": (
        named(MLX),
        Said(),
        "it is an mlx-lm LoRA whose scale is stored nowhere",
        "Pass --alpha: mlx-lm's scale times the rank 4; its default scale of 20 is --alpha 80.",
    ),
    "npz: none": (
        raw("adapters.npz", b"x"),
        Said(),
        "it is no readable .npz: File is not a zip file",
        "Save it again as safetensors.",
    ),
    "npz: no array": (
        npz(("x.txt", b"")),
        Said(),
        "the entry 'x.txt' is no array",
        "as safetensors",
    ),
    "npz: integers": (
        npz(("x.npy", npy(np.arange(3)))),
        Said(),
        "the entry 'x.npy' holds <i8, or columns before rows",
        "Save it again as safetensors.",
    ),
    "npz: columns": (
        npz(("x.npy", npy(np.asfortranarray(HALF)))),
        Said(),
        "the entry 'x.npy' holds <f4, or columns before rows",
        "Save it again as safetensors.",
    ),
    "npz: cut": (
        npz(("x.npy", npy(ONE)[:-4])),
        Said(),
        "the entry 'x.npy' is cut short",
        "Save it again as safetensors.",
    ),
    "components": (
        diffused(f"text_encoder.{Q}.lora_A.weight", ONE),
        Said(component="vae"),
        "it is a diffusers LoRA of text_encoder, unet, and has no component 'vae'",
        "Name one of those with --component.",
    ),
    "diffusers: twice": (
        diffused(f"unet.{Q}.lora.down.weight", ONE),
        Said(),
        f"{Q!r} has two lora_A",
        "Use it with diffusers.",
    ),
    "diffusers: alpha": (
        diffused(f"unet.{Q}.alpha", TWO[:1]),
        Said(alpha=2),
        "it holds its alpha",
        LEAVE,
    ),
    "diffusers: bad alpha": (
        diffused(f"unet.{Q}.alpha", TWO),
        Said(),
        f"the tensor 'unet.{Q}.alpha' is not one finite number: (2)",
        AGAIN,
    ),
    "diffusers: two alphas": (
        diffused(f"unet.{Q}.alpha", TWO[:1], metadata='{"unet.lora_alpha": 8}'),
        Said(),
        "it holds an alpha of each module and another in its lora_adapter_metadata",
        "Save it again with diffusers.",
    ),
    "diffusers: metadata": (
        diffused(metadata="{"),
        Said(),
        "its lora_adapter_metadata is no JSON: Expecting",
        AGAIN,
    ),
    "kohya: base": (
        kohya("a_b_c"),
        Said(),
        "whose names can only be read beside those of its base",
        "Pass the model of its text_encoder with --base.",
    ),
    "kohya: more": (
        kohya("a_b_c", hada_w1_a=ONE),
        Said(base=BASE),
        "the tensor 'lora_te_a_b_c.hada_w1_a' is no part of a plain kohya LoRA",
        "Use it with the tool that it was made for.",
    ),
    "kohya: two": (
        kohya("a_b_c"),
        Said(base=BASE),
        "'a_b_c' may be 'a.b_c' or 'a_b.c'",
        "Pass the base that it was trained on.",
    ),
    "kohya: alpha": (
        kohya("conv", alpha=TWO[:1]),
        Said(base=BASE, alpha=2),
        "it holds its alpha",
        LEAVE,
    ),
    "kohya: bad alpha": (
        kohya("conv", alpha=TWO),
        Said(base=BASE),
        "the tensor 'lora_te_conv.alpha' is not one finite number: (2)",
        AGAIN,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_words(tmp_path: Path, case: str) -> None:
    """The path and the fault stand in one sentence, the way on in another."""
    make, said, words, hint = CASES[case]
    folder = tmp_path / "input"
    folder.mkdir()

    with pytest.raises(AdregError) as refused:
        convert(make(folder), said)

    assert words in refused.value.sentence
    assert str(folder) in refused.value.sentence
    assert hint in refused.value.hint


def test_a_name_twice_in_an_npz(tmp_path: Path) -> None:
    """Of two arrays of one name nobody knows which is meant."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = npz(("x.npy", npy(ONE)), ("x.npy", npy(ONE)))(tmp_path)

    with pytest.raises(AdregError, match="a name stands in it twice") as refused:
        convert(path, Said())

    assert "Save it again as safetensors." == refused.value.hint
