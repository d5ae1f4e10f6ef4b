"""Each refusal of a base says what is wrong with what, and what to do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import factory
import pytest
import torch
from factory import edit_config, edit_tensors
from unprivileged import unreadable

from adreg.registry.bases.base import read_base
from adreg.registry.bases.locate import locate
from adreg.registry.errors import AdregError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
Q = "model.layers.0.self_attn.q_proj.weight"
SIXTEEN = "Use the 16-bit model that it was made from"
WHOLE = "Name the folder of a whole transformers model, or fetch it again."
AGAIN = "Fetch the model again: the download is not complete."
LAYOUT = f"it holds neither {SINGLE} nor {INDEX}"


def renamed(name: str) -> Callable[[Path], object]:
    """Return an edit that gives the weights another name."""
    return lambda folder: (folder / SINGLE).rename(folder / name)


def config(**fields: object) -> Callable[[Path], object]:
    """Return an edit of the configuration."""
    return lambda folder: edit_config(folder, **fields)


def more(**tensors: torch.Tensor) -> Callable[[Path], object]:
    """Return an edit that adds tensors to the first projection."""
    named = {Q.replace("weight", name): value for name, value in tensors.items()}
    return lambda folder: edit_tensors(folder, lambda there: there.update(named), SINGLE)


def empty(folder: Path) -> None:
    """Leave nothing in the folder."""
    shutil.rmtree(folder)
    folder.mkdir()


def only(name: str) -> Callable[[Path], object]:
    """Return an edit that leaves an empty file of this name."""

    def edit(folder: Path) -> None:
        empty(folder)
        (folder / name).touch()

    return edit


def linked(folder: Path) -> None:
    """Put a link to somewhere else in the place of the tokenizer."""
    (folder / "tokenizer.json").rename(folder.parent / "outside")
    (folder / "tokenizer.json").symlink_to(folder.parent / "outside")


def missing(folder: Path) -> None:
    """Leave the index of shards that are not there."""
    (folder / SINGLE).unlink()
    index = {"weight_map": {Q: "model-00001-of-00002.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))


def hollow(folder: Path) -> None:
    """Leave no elements in any tensor."""
    edit_tensors(folder, lambda there: [there.update({n: torch.ones(0)}) for n in there], SINGLE)


CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "nothing": (shutil.rmtree, "there is no such folder", WHOLE),
    "empty": (empty, "the folder is empty", "Name the folder of a transformers model."),
    "other files": (only("notes.txt"), LAYOUT, "Name the folder of a transformers model."),
    "other layout": (
        renamed("consolidated.safetensors"),
        LAYOUT,
        "Use the checkpoint in the layout of transformers.",
    ),
    "gguf": (
        renamed("model.gguf"),
        "its weights are GGUF",
        "Use the safetensors model that it was made from.",
    ),
    "shards of a pickle": (
        renamed("pytorch_model-00001-of-00002.bin"),
        "it holds shards of pytorch_model.bin but no pytorch_model.bin.index.json",
        AGAIN,
    ),
    "missing": (missing, "its file model-00001-of-00002.safetensors is missing", AGAIN),
    "adapter": (
        only("adapter_config.json"),
        "it is an adapter, not a base",
        "Name the model that it was trained on.",
    ),
    "pipeline": (
        only("model_index.json"),
        "it is a diffusers pipeline",
        "Name one of its parts, such as its transformer or text_encoder folder.",
    ),
    "both": (
        lambda folder: (folder / INDEX).write_text("{}"),
        f"it holds both {SINGLE} and {INDEX}",
        "Remove the one that is not meant.",
    ),
    "no configuration": (
        lambda folder: (folder / "config.json").unlink(),
        "it has weights but no config.json",
        "Fetch the whole model: the merged one needs its configuration.",
    ),
    "no elements": (hollow, "it has no weights: its headers name no elements", WHOLE),
    "architectures": (
        config(architectures="Llama"),
        "architectures in its config.json is not a list of names",
        WHOLE,
    ),
    "model_type": (config(model_type=3), "model_type in its config.json is not text", WHOLE),
    "link": (
        linked,
        "'tokenizer.json' is a link out of its folder",
        "Copy the file itself into the folder.",
    ),
    "file name": (
        lambda folder: (folder / "x\x1b[2J").touch(),
        r"the file name 'x\x1b[2J' has characters that are not allowed",
        WHOLE,
    ),
    "two names": (
        lambda folder: [(folder / name).write_text("") for name in ("X.json", "x.json")],
        "'X.json' and 'x.json' are one file on macOS and Windows",
        WHOLE,
    ),
    "pipe": (lambda folder: os.mkfifo(folder / "x"), "'x' is not a regular file", WHOLE),
    "quantised": (
        config(quantization_config={"quant_method": "aqlm"}),
        "its weights are quantised (AQLM)",
        f"{SIXTEEN}; adapters trained on it fit that one.",
    ),
    "quantised, by its name": (
        config(quantization_config={"quant_method": "aqlm"}, _name_or_path="owner/model-AQLM"),
        "its weights are quantised (AQLM)",
        f"{SIXTEEN} (by its name owner/model); adapters trained on it fit that one.",
    ),
    "quantised, and decoded": (
        more(weight=torch.ones(32, 32, dtype=torch.int8), SCB=torch.ones(32)),
        "its weights are quantised (",
        f"{SIXTEEN}, or pass --dequantize to decode it into 16 bits.",
    ),
}
DEQUANTISED: dict[str, tuple[Callable[[Path], object], str]] = {
    "method": (config(quantization_config={"quant_method": "aqlm"}), "adreg does not decode AQLM"),
    "rotated": (
        config(quantization_config={"quant_method": "fp8", "transform_config": {"a": 1}}),
        "its weights are rotated (transform_config)",
    ),
    "sparse": (
        config(
            quantization_config={"quant_method": "fp8", "sparsity_config": {"format": "24-bitmask"}}
        ),
        "its weights are sparse (sparsity_config)",
    ),
    "layout": (
        more(qweight=torch.ones(4, 4, dtype=torch.int32)),
        f"its tensor {Q.replace('weight', 'qweight')!r} (I32) is quantised in a way that adreg",
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that no test changes."""
    return factory.make_base(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    return shutil.copytree(made, tmp_path / "base")


@pytest.mark.parametrize("case", CASES)
def test_words(base: Path, case: str) -> None:
    """The folder and the fault stand in one sentence, the way on in another."""
    edit, words, hint = CASES[case]
    edit(base)

    with pytest.raises(AdregError) as refused:
        read_base(base)

    assert f"{base}: {words}" in refused.value.sentence
    assert hint == refused.value.hint


@pytest.mark.parametrize("case", DEQUANTISED)
def test_dequantised(base: Path, case: str) -> None:
    """What cannot be decoded is named, and the 16-bit model is the way on."""
    edit, words = DEQUANTISED[case]
    edit(base)

    with pytest.raises(AdregError) as refused:
        read_base(base, dequantize=True)

    assert f"{base}: {words}" in refused.value.sentence
    assert f"{SIXTEEN}." == refused.value.hint


def test_a_weight_twice(base: Path) -> None:
    """A weight in two layouts at once is named."""
    states = {
        "weight_packed": torch.ones(32, 4, dtype=torch.int32),
        "weight_scale": torch.ones(32, 1, dtype=torch.bfloat16),
        "weight_shape": torch.tensor([32, 32]),
    }
    more(**states)(base)
    said = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    config(quantization_config=said)(base)

    with pytest.raises(AdregError) as refused:
        read_base(base, dequantize=True)

    assert f"{base}: it holds {Q!r} twice" == refused.value.sentence
    assert f"{SIXTEEN}." == refused.value.hint


def test_a_file(base: Path) -> None:
    """A file in the place of a folder."""
    with pytest.raises(AdregError) as refused:
        read_base(base / SINGLE)

    assert f"{base / SINGLE}: it is a file, not a folder" == refused.value.sentence
    assert "Name the checkpoint's folder." == refused.value.hint


def test_a_folder_that_may_not_be_read(base: Path) -> None:
    """What the system says stands in the sentence."""
    with unreadable(base) as folder, pytest.raises(AdregError) as refused:
        read_base(folder)

    assert f"{folder}: Permission denied" == refused.value.sentence
    assert WHOLE == refused.value.hint


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("./nothing", "folder './nothing'", "Name a base's folder, or OWNER/REPO."),
        ("a/b/c", "base 'a/b/c'", "Name a folder, or OWNER/REPO[@REVISION]."),
        (
            "owner/repo",
            "folder or model in the Hugging Face cache 'owner/repo'",
            "Download it with `hf download owner/repo`.",
        ),
        (
            "some/model@v2",
            "revision in the Hugging Face cache 'some/model@v2'",
            "Another revision of it is: some/model. `hf download some/model --revision v2`",
        ),
    ],
)
def test_names_of_bases(tmp_path: Path, text: str, words: str, hint: str) -> None:
    """A name that means no base is told, with what it could be."""
    commit = "a" * 40
    snapshot = tmp_path / "models--some--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--some--model/refs").mkdir()
    (tmp_path / "models--some--model/refs/main").write_text(commit)

    with pytest.raises(AdregError) as refused:
        locate(text, cache_dir=tmp_path)

    assert f"there is no {words}" == refused.value.sentence
    assert hint == refused.value.hint
