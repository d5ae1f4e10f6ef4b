"""Read a base: a full checkpoint, from its headers and configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from adreg.registry import digest, jsonio
from adreg.registry.adapters.card import read_licence
from adreg.registry.adapters.files import link_fault
from adreg.registry.bases import hf_cache, quantised
from adreg.registry.bases.tied import is_tied
from adreg.registry.errors import BaseRefused, TensorFileBroken
from adreg.registry.tensors.checkpoint import INDEX, SINGLE, Layout, read_layout

CONFIG = "config.json"

LEFT_BEHIND: Mapping[str, str] = {
    CONFIG: "written anew",
    "*.safetensors": "weights",
    "*.safetensors.index.json": "weights",
    "*.bin": "weights, or a pickle",
    "*.bin.index.json": "weights",
    "*.pt": "weights, or a pickle",
    "*.pth": "weights, or a pickle",
    "*.pkl": "a pickle",
    "*.ckpt": "weights in another format",
    "*.gguf": "weights in another format",
    "*.ggml": "weights in another format",
    "*.onnx": "weights in another format",
    "*.onnx_data": "weights in another format",
    "*.msgpack": "weights in another format",
    "*.h5": "weights in another format",
    "*.ot": "weights in another format",
    "*.npz": "weights in another format",
    "*.tflite": "weights in another format",
    "*.mlmodel": "weights in another format",
    "*.nemo": "weights in another format",
    "*.tar": "an archive",
    "*.tar.gz": "an archive",
    "*.zip": "an archive",
    "README.md": "the base's card, which does not describe what is made of it",
    "*.png": "a picture of the card",
    "*.jpg": "a picture of the card",
    "*.jpeg": "a picture of the card",
    "*.gif": "a picture of the card",
    "*.svg": "a picture of the card",
    "trainer_state.json": "left over from training",
    "trainer_log.jsonl": "left over from training",
    "all_results.json": "left over from training",
    "train_results.json": "left over from training",
    "eval_results.json": "left over from training",
    "events.out.tfevents.*": "left over from training",
    # transformers would load it on top of the merged weights (integrations/peft.py).
    "adapter_config.json": "an adapter",
    "*.py": "code, which is named apart",
    ".*": "hidden",
}
"""Patterns of a base's files that a merged checkpoint does not take over, with why.

Optimizers, schedulers, random states and training_args are ``*.bin``, ``*.pt`` and ``*.pth``.
"""

TEMPLATES = "additional_chat_templates"
"""The one folder that belongs to a checkpoint (transformers 5.23, CHAT_TEMPLATE_DIR)."""

_SIXTEEN = "Use the 16-bit model that it was made from; adapters trained on it fit that one."
_CONVERT = (
    "Load it with transformers, from a source that you trust, and save it again with"
    " save_pretrained(folder)."
)


@dataclass(frozen=True, slots=True)
class Base:
    """A checkpoint that adapters are folded into.

    ``dtype`` is the safetensors code of most elements; ``architecture`` the first of the
    configuration's ``architectures``. ``side_files`` are the names of the files, relative
    to ``folder``, that belong in a merged checkpoint too; ``code_files`` are Python files,
    which are named and never run. ``revision`` is a commit of ``hub_repo``; both are None
    outside the Hugging Face cache.
    """

    folder: Path
    layout: Layout = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    architecture: str | None
    model_type: str | None
    dtype: str
    parameters: int
    nbytes: int
    layout_digest: str
    config_digest: str
    tied: bool
    licence: str | None
    hub_repo: str | None
    revision: str | None
    side_files: tuple[str, ...]
    code_files: tuple[str, ...]


def read_base(folder: Path) -> Base:
    """Read a base's configuration and headers, not its weights.

    Raises BaseRefused for what is no usable base, with how to get one; JsonBroken and
    TensorFileBroken for files that lie.
    """
    names = _names(folder)
    _check_names(folder, names)
    config = jsonio.read_object(folder / CONFIG)
    layout = _read_layout(folder)
    if how := quantised.scheme(config, layout):
        raise BaseRefused(folder, f"its weights are quantised ({how})", _SIXTEEN)
    if not layout.nbytes:
        raise BaseRefused(folder, "it has no weights: its headers name no elements")
    architecture = _architecture(folder, config)
    counts: dict[str, int] = {}
    for tensor in layout:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    known = hf_cache.identify(folder)
    side_files, code_files = _side_files(folder, names)
    return Base(
        folder=folder,
        layout=layout,
        config=config,
        architecture=architecture,
        model_type=_text(folder, config, "model_type"),
        dtype=max(counts, key=lambda code: (counts[code], code)),
        parameters=layout.parameters,
        nbytes=layout.nbytes,
        layout_digest=layout.digest(),
        config_digest=digest.of_file(folder / CONFIG),
        tied=is_tied(config, layout),
        licence=read_licence(folder),
        hub_repo=known[0] if known else None,
        revision=known[1] if known else None,
        side_files=side_files,
        code_files=code_files,
    )


def _names(folder: Path) -> set[str]:
    try:
        if not folder.exists():
            raise BaseRefused(folder, "there is no such folder")
        if not folder.is_dir():
            raise BaseRefused(folder, "it is a file, not a folder", "Name the checkpoint's folder.")
        return {path.name for path in folder.iterdir()}
    except OSError as error:
        raise BaseRefused(folder, error.strerror or str(error)) from error


def _check_names(folder: Path, names: set[str]) -> None:
    """Refuse by file names alone, each with its own advice."""
    weights = names & {SINGLE, INDEX}
    if "adapter_config.json" in names and not weights:
        raise BaseRefused(
            folder, "it is an adapter, not a base", "Name the model that it was trained on."
        )
    if "model_index.json" in names:
        advice = "Name one of its parts, such as its transformer or text_encoder folder."
        raise BaseRefused(folder, "it is a diffusers pipeline", advice)
    if not weights:
        raise BaseRefused(folder, *_no_weights(names))
    if len(weights) == 2:
        # transformers takes the single file then, and other tools the shards.
        raise BaseRefused(
            folder, f"it holds both {SINGLE} and {INDEX}", "Remove the one that is not meant."
        )
    if CONFIG not in names:
        raise BaseRefused(
            folder,
            f"it has weights but no {CONFIG}",
            "Fetch the whole model: the merged one needs its configuration.",
        )


def _no_weights(names: set[str]) -> tuple[str, str]:
    if any(name.startswith("pytorch_model") for name in names):
        return "its weights are only there as a pickle (pytorch_model.bin)", _CONVERT
    if any(name.endswith(".gguf") for name in names):
        return "its weights are GGUF", "Use the safetensors model that it was made from."
    if any(name.endswith(".safetensors") for name in names):
        return (
            f"it holds neither {SINGLE} nor {INDEX}",
            "Use the checkpoint in the layout of transformers.",
        )
    if not names:
        return "the folder is empty", ""
    return f"it holds neither {SINGLE} nor {INDEX}", "Name the folder of a transformers model."


def _read_layout(folder: Path) -> Layout:
    try:
        return read_layout(folder)
    except TensorFileBroken as error:
        if error.path.exists():
            raise
        raise BaseRefused(
            folder,
            f"its file {error.path.name} is missing",
            "Fetch the model again: the download is not complete.",
        ) from error


def _architecture(folder: Path, config: Mapping[str, Any]) -> str | None:
    value = config.get("architectures")
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not isinstance(value[0], str):
        raise BaseRefused(folder, f"architectures in its {CONFIG} is not a list of names")
    return value[0]


def _text(folder: Path, config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise BaseRefused(folder, f"{key} in its {CONFIG} is not text")
    return value


def _side_files(folder: Path, names: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    templates = folder / TEMPLATES
    paths = [folder / name for name in names]
    if templates.is_dir() and not templates.is_symlink():
        paths += templates.glob("*.jinja")
    side: list[str] = []
    code: list[str] = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        is_code = name.endswith(".py")
        if not is_code and any(fnmatchcase(name, pattern) for pattern in LEFT_BEHIND):
            continue
        if not name.isprintable() or "\\" in name:
            raise BaseRefused(folder, f"the file name {name!r} has characters that are not allowed")
        if not path.is_file() and not path.is_symlink():
            continue
        if fault := link_fault(path, folder):
            advice = "Copy the file itself into the folder."
            raise BaseRefused(folder, f"{name!r} {fault}", advice)
        if path.is_file():
            (code if is_code else side).append(name)
    return tuple(sorted(side)), tuple(sorted(code))
