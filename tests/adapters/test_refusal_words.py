"""Each refusal of a PEFT folder says what is wrong with what, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import edit_config, edit_tensors
from unprivileged import unreadable

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.errors import AdregError

Q = "base_model.model.model.layers.0.self_attn.q_proj"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
SAVE = "Save the adapter again with save_pretrained, and add that folder."
USE = "Use it with PEFT, on its base."
FOLDER = "Name the folder that PEFT's save_pretrained wrote."


def settings(**fields: object) -> Callable[[Path], object]:
    """Return an edit of the configuration."""
    return lambda folder: edit_config(folder, **fields)


def tensor(name: str) -> Callable[[Path], object]:
    """Return an edit that adds a tensor."""
    more = {name: torch.ones(4, 32)}
    return lambda folder: edit_tensors(folder, lambda tensors: tensors.update(more))


def renamed(name: str, other: str) -> Callable[[Path], object]:
    """Return an edit that gives a file another name."""
    return lambda folder: (folder / name).rename(folder / other)


def only(name: str = "") -> Callable[[Path], object]:
    """Return an edit that leaves nothing but an empty file of this name."""

    def edit(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        if name:
            (folder / name).touch()

    return edit


def below(folder: Path) -> None:
    """Move the adapter into four folders below."""
    inner = [folder / f"run{number}" for number in range(4)]
    files = list(folder.iterdir())
    for one in inner:
        one.mkdir()
        for file in files:
            shutil.copy(file, one)
    for file in files:
        file.unlink()


def linked(folder: Path) -> None:
    """Put a link in the place of the configuration."""
    (folder / CONFIG).rename(folder.parent / "outside")
    (folder / CONFIG).symlink_to(folder.parent / "outside")


def mlx(folder: Path) -> None:
    """Write what mlx-lm does."""
    (folder / CONFIG).write_text(json.dumps({"fine_tune_type": "lora"}))


CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "nothing": (shutil.rmtree, "there is no such folder", FOLDER),
    "empty": (only(), "the folder is empty", FOLDER),
    "other files": (only("notes.txt"), f"it holds no {CONFIG}", FOLDER),
    "below": (
        below,
        f"it holds no {CONFIG}, but folders in it do",
        "run2, and more",
    ),
    "a model": (
        only("model.safetensors"),
        "it is a full model, not an adapter",
        "Pass it as the base, with --base.",
    ),
    "a pickled model": (
        only("pytorch_model-00001-of-00002.bin"),
        "it is a full model, not an adapter",
        "Pass it as the base, with --base.",
    ),
    "no configuration": (
        lambda folder: (folder / CONFIG).unlink(),
        f"it holds weights but no {CONFIG}",
        "Copy the file from where the adapter was trained: rank and alpha stand in it.",
    ),
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        f"it holds {CONFIG} but no {WEIGHTS}",
        "Fetch or save the adapter again.",
    ),
    "shards": (
        renamed(WEIGHTS, "adapter_model-00001-of-00002.safetensors"),
        f"it holds {CONFIG} but no {WEIGHTS}",
        "Its weights are in several files; PEFT reads and writes one.",
    ),
    "weights of mlx": (
        renamed(WEIGHTS, "adapters.safetensors"),
        f"it holds {CONFIG} but no {WEIGHTS}",
        "Its weights are mlx-lm's: `adreg add FOLDER` converts them; use that.",
    ),
    "mlx": (
        mlx,
        "it is an mlx-lm adapter",
        "Add it with `adreg add FOLDER`, which converts it, and use what was added.",
    ),
    "a pickle": (
        renamed(WEIGHTS, "adapter_model.bin"),
        "its weights are only there as a pickle, adapter_model.bin",
        "Add it with `adreg add FOLDER --convert-pickle`, which reads it as nothing but tensors",
    ),
    "a link": (
        linked,
        f"{CONFIG!r} is a link out of its folder",
        "Copy the files themselves into the folder.",
    ),
    "a kind of no text": (
        settings(peft_type=True),
        f"its {CONFIG} has the peft_type True, which must be text like 'LORA'",
        SAVE,
    ),
    "a kind that is refused": (
        settings(peft_type="FROD"),
        "its peft_type is 'FROD': its decomposition is not saved but made again",
        USE,
    ),
    "attention": (
        settings(peft_type="ADAPTION_PROMPT"),
        "its prompts go into the attention of some layers, not into their weights",
        USE,
    ),
    "input": (
        settings(peft_type="SHADOW"),
        "what it adds depends on the input, so no weights can hold it",
        USE,
    ),
    "indices": (
        settings(peft_type="UNILORA"),
        "it is a UniLoRA saved without its indices: save it with save_indices=True",
        USE,
    ),
    "ties": (
        settings(peft_type="TINYLORA", weight_tying=0.5),
        "it is a TinyLoRA that ties some modules only: only weight_tying=1 can be read",
        USE,
    ),
    "a wrong value": (settings(r="8"), "r is '8', not a whole number above 0", SAVE),
    "a long value": (
        settings(r="8" * 50),
        f"r is '{'8' * 36}..., not a whole number above 0",
        SAVE,
    ),
    "not finite": (
        lambda folder: edit_tensors(folder, lambda t: t[f"{Q}.lora_A.weight"].fill_(float("inf"))),
        f"the tensor '{Q}.lora_A.weight' has 128 values that are not finite",
        SAVE,
    ),
    "a pattern": (
        settings(rank_pattern={".*a.*b.*c.*d.*e.*f": 4}),
        "repeats without a bound more than",
        SAVE,
    ),
    "ranges": (
        settings(layer_replication=[[0]]),
        "layer_replication is [[0]], not a list of ranges [start, stop] of layers",
        SAVE,
    ),
    "rows": (
        settings(trainable_token_indices=[1, 1]),
        "is [1, 1], not a list of different row numbers, or one for each module",
        SAVE,
    ),
    "start": (
        settings(init_lora_weights=3),
        "init_lora_weights is int, not true, false or a name",
        SAVE,
    ),
    "corda": (
        settings(init_lora_weights="corda"),
        "which changes the base's weights when it is loaded; save it with path_initial_model",
        SAVE,
    ),
    "pissa": (
        settings(init_lora_weights="pissa_niter_4"),
        "which takes a random decomposition of W away, which cannot be made again",
        SAVE,
    ),
    "loftq": (
        settings(init_lora_weights="loftq"),
        "which is made for the quantised base that it was trained on, not for the 16-bit one",
        SAVE,
    ),
    "qa-lora": (
        settings(use_qalora=True),
        "it sets use_qalora: QA-LoRA pools its inputs, so it cannot be merged",
        SAVE,
    ),
    "arrow": (
        settings(arrow_config={}),
        "it sets arrow_config: Arrow routes each token to other adapters",
        SAVE,
    ),
    "megatron": (
        settings(megatron_config={}),
        "a file does not say how the parts of Megatron's layers join",
        SAVE,
    ),
    "merged linear": (
        settings(enable_lora=[True]),
        "`adreg add` converts the merged linear layers of PEFT 0.1, and they are used",
        SAVE,
    ),
    "empty part": (tensor(f"{Q}.weight."), "not understood: it has an empty part", SAVE),
    "no module": (tensor("base_model.model.weight"), "not understood: it names no module", SAVE),
    "loralib": (tensor(f"{Q}.lora_A"), "'lora_A' is loralib's spelling", SAVE),
    "parameter": (
        tensor(f"{Q}.lora_A.bias"),
        "'lora_A.bias' is a parameter that LoRA does not have",
        SAVE,
    ),
    "kasa": (tensor(f"{Q}.lora_diag"), "it is KaSA's, but kasa_config is not set", SAVE),
    "velora": (tensor(f"{Q}.lora_velora_embed"), "VeLoRA's, but velora_config is not set", SAVE),
    "monteclora": (
        tensor(f"{Q}.lora_monteclora_sampler.x"),
        "it is MonteCLoRA's, but monteclora_config is not set",
        SAVE,
    ),
    "adalora": (tensor(f"{Q}.lora_E"), "it is AdaLoRA's, but peft_type is another", SAVE),
    "mlx's spelling": (tensor(f"{Q}.lora_a"), "this is mlx-lm's spelling, not PEFT's", SAVE),
    "kohya's": (tensor(f"{Q}.lora_up.weight"), "this is kohya's spelling, not PEFT's", SAVE),
    "diffusers'": (
        tensor(f"{Q}.lora_linear_layer.up.weight"),
        "this is diffusers' old spelling, not PEFT's",
        SAVE,
    ),
    "original": (
        tensor("base_model.model.lm_head.original_module.weight"),
        "it is a copy of the base's module, from a raw dump of the model",
        SAVE,
    ),
}


def refused(folder: Path) -> AdregError:
    """Return the error of reading a folder."""
    with pytest.raises(AdregError) as caught:
        read_adapter(folder)
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_words(adapter: Path, case: str) -> None:
    """The folder and the fault stand in one sentence, the way on in another."""
    edit, words, hint = CASES[case]
    edit(adapter)

    error = refused(adapter)

    assert str(adapter) in error.sentence
    assert words in error.sentence
    assert hint in error.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("it.gguf", "Add it with `adreg add FILE --base BASE`, which converts it, and use that."),
        (WEIGHTS, "Name its folder: "),
        ("notes.txt", "Name the folder that holds adapter_config.json."),
    ],
)
def test_a_file(tmp_path: Path, name: str, hint: str) -> None:
    """A file in the place of a folder is told what it is, and what to name instead."""
    (tmp_path / name).touch()

    error = refused(tmp_path / name)

    assert f"{tmp_path / name}: it is a file, not a folder" == error.sentence
    assert hint in error.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"trainable_token_indices": {"lm_head": [1, 2]}},
            "the configuration does not say which rows",
        ),
        (
            {"trainable_token_indices": [1, 2, 3]},
            "has the shape (2, 32), and the configuration numbers 3 rows",
        ),
    ],
)
def test_rows_of_an_embedding(
    make: Callable[..., Path], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """Trained rows without their numbers, or with other ones, have no place."""
    folder = shutil.copytree(make(trainable_token_indices=[1, 2]), tmp_path / "rows")
    edit_config(folder, **change)

    error = refused(folder)

    assert words in error.sentence
    assert SAVE == error.hint


def test_many_tensors_of_one_fault_are_told_once(adapter: Path) -> None:
    """Of several tensors that one reason holds for, the first is named and the others counted."""
    more = {f"{Q}.lora_{part}": torch.ones(1) for part in "ab"}
    edit_tensors(adapter, lambda tensors: tensors.update(more))

    assert f"the tensors '{Q}.lora_a' and 1 more are not understood" in refused(adapter).sentence


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        (".", "Permission denied", FOLDER),
        (CONFIG, "Permission denied", "Fetch or save the file again."),
        (WEIGHTS, "Permission denied", "Fetch or save the file again."),
        ("merges.txt", "'merges.txt' cannot be read: Permission denied", "Make it readable"),
    ],
)
def test_files_that_may_not_be_read(adapter: Path, name: str, words: str, hint: str) -> None:
    """What the system says of a file stands in the refusal, with the file's name."""
    (adapter / "merges.txt").write_text("a b")

    with unreadable(adapter, name) as folder:
        error = refused(folder)

    assert str(folder) in error.sentence
    assert words in error.sentence
    assert hint in error.hint
