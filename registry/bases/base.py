"""Read a base: a full checkpoint, from its headers and configuration alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.registry import digest, jsonio
from adreg.registry.adapters.card import read_licence
from adreg.registry.adapters.files import link_fault
from adreg.registry.bases import hf_cache, quantised
from adreg.registry.bases.memory import Memory, memory_pieces
from adreg.registry.bases.tied import is_tied
from adreg.registry.errors import BaseRefused, InputRefused, TensorFileBroken
from adreg.registry.names import collisions, file_fault
from adreg.registry.tensors.checkpoint import (
    CHECKPOINTS,
    INDEX,
    PICKLED,
    PICKLED_INDEX,
    SINGLE,
    Layout,
    read_layout,
)

if TYPE_CHECKING:
    from adreg.registry.tensors.arrays import Array, TensorReader
    from adreg.registry.tensors.quantised.decoder import Decoder

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
    "merge_report.json": "a report of how it was merged itself",
    "adreg.lock.json": "what it was built from itself",
    "SHA256SUMS": "checksums of its own files",
    "*.py": "code, which is named apart",
    ".*": "hidden",
}
"""Patterns of a base's files that a merged checkpoint does not take over, with why.

Optimizers, schedulers, random states and training_args are ``*.bin``, ``*.pt`` and ``*.pth``.
"""

TEMPLATES = "additional_chat_templates"
"""The one folder that belongs to a checkpoint (transformers 5.23, CHAT_TEMPLATE_DIR)."""

_SIXTEEN = "Use the 16-bit model that it was made from"


@dataclass(frozen=True, slots=True)
class Base:
    """A checkpoint that adapters are folded into.

    ``dtype`` is the safetensors code of most elements; ``architecture`` the first of the
    configuration's ``architectures``. ``side_files`` are the names of the files, relative
    to ``folder``, that belong in a merged checkpoint too; ``code_files`` are Python files,
    which are named and never run. ``decoders`` read the tensors of ``layout`` that are not
    stored as it says, by name. ``revision`` is a commit of ``hub_repo``; both are None
    outside the Hugging Face cache. ``replication`` are the ranges of layers that were
    repeated to see it as a deeper one (see ``replicated``).
    """

    folder: Path
    layout: Layout = field(repr=False)
    memory: Memory = field(repr=False)
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
    decoders: Mapping[str, Decoder] = field(default_factory=dict, repr=False)
    replication: tuple[tuple[int, int], ...] = ()

    def with_code(self) -> Base:
        """Return it with its Python files among those that are taken over."""
        taken = tuple(sorted((*self.side_files, *self.code_files)))
        return replace(self, side_files=taken, code_files=())

    def read(self, reader: TensorReader, name: str, start: int, stop: int) -> Array:
        """Read elements [start, stop) of a float tensor, flat, decoded where it is quantised.

        In the dtype that it is stored in, or float32 where it is decoded.
        """
        if decoder := self.decoders.get(name):
            return decoder.read(reader, start, stop)
        file, info = self.layout.places[name]
        return reader.read(file.path, info, start, stop)


def read_base(
    folder: Path, *, dequantize: bool = False, sizes: Mapping[str, int] | None = None
) -> Base:
    """Read a base's configuration and headers, not its weights.

    ``sizes`` are those of the whole files, by name, of which only the headers are there.

    A quantised one is refused, or with ``dequantize`` described as the checkpoint of 16
    bits that its weights decode to: ``decoders`` then read those.

    Weights may be safetensors or, where there are none, files of torch.save. Raises
    BaseRefused for what is no usable base, with how to get one; JsonBroken and
    TensorFileBroken for files that lie; PickleRefused for a pickle that asks for more
    than tensors.
    """
    names = _names(folder)
    _check_names(folder, names)
    _check_links(folder, (CONFIG, *names & set(CHECKPOINTS)))
    config = jsonio.read_object(folder / CONFIG)
    layout = _read_layout(folder, sizes)
    _check_links(folder, (file.path.name for file in layout.files))
    known = hf_cache.identify(folder)
    decoders: Mapping[str, Decoder] = {}
    if how := quantised.scheme(config, layout):
        if not dequantize:
            raise _quantised(folder, how, config, layout, known[0] if known else None)
        layout, decoders, config = _dequantised(folder, layout, config)
    if not layout.nbytes:
        raise BaseRefused(folder, "it has no weights: its headers name no elements")
    architecture, model_type = _architecture(folder, config), _text(folder, config, "model_type")
    counts: dict[str, int] = {}
    for tensor in layout:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    side_files, code_files = _side_files(folder, names - quantised.FILES.keys() if how else names)
    return Base(
        folder=folder,
        layout=layout,
        memory=memory_pieces(layout, model_type, config, architecture),
        config=config,
        architecture=architecture,
        model_type=model_type,
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
        decoders=decoders,
    )


def _dequantised(
    folder: Path, layout: Layout, config: Mapping[str, Any]
) -> tuple[Layout, Mapping[str, Decoder], dict[str, Any]]:
    # Only this needs numpy, and listings must start fast.
    from adreg.registry.bases.dequantised import dequantised  # noqa: PLC0415

    return dequantised(layout, quantised.with_file(config, folder))


def _quantised(
    folder: Path, how: str, config: Mapping[str, Any], layout: Layout, hub_repo: str | None
) -> BaseRefused:
    """Return the refusal of a quantised base, which names the ways out."""
    name = quantised.original(how, config.get("_name_or_path"), hub_repo)
    way = f"{_SIXTEEN} (by its name {name})" if name else _SIXTEEN
    try:
        _dequantised(folder, layout, config)
    except InputRefused:
        advice = f"{way}; adapters trained on it fit that one."
    else:
        advice = f"{way}, or pass --dequantize to decode it into 16 bits."
    return BaseRefused(folder, f"its weights are quantised ({how})", advice)


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
    weights = weights or names & {PICKLED, PICKLED_INDEX}
    if not weights:
        raise BaseRefused(folder, *_no_weights(names))
    if len(weights) == 2:
        # transformers takes the single file then, and other tools the shards.
        both = " and ".join(sorted(weights))
        raise BaseRefused(folder, f"it holds both {both}", "Remove the one that is not meant.")
    if CONFIG not in names:
        raise BaseRefused(
            folder,
            f"it has weights but no {CONFIG}",
            "Fetch the whole model: the merged one needs its configuration.",
        )


def _no_weights(names: set[str]) -> tuple[str, str]:
    if any(name.startswith("pytorch_model") for name in names):
        return (
            f"it holds shards of {PICKLED} but no {PICKLED_INDEX}",
            "Fetch the model again: the download is not complete.",
        )
    if any(name.endswith(".gguf") for name in names):
        return "its weights are GGUF", "Use the safetensors model that it was made from."
    if any(name.endswith(".safetensors") for name in names):
        return (
            f"it holds neither {SINGLE} nor {INDEX}",
            "Use the checkpoint in the layout of transformers.",
        )
    if not names:
        return "the folder is empty", "Name the folder of a transformers model."
    return f"it holds neither {SINGLE} nor {INDEX}", "Name the folder of a transformers model."


def _check_links(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        # One that is not there is told of by what reads it.
        if os.path.lexists(folder / name) and (fault := link_fault(folder / name, folder)):
            advice = "Copy the file itself into the folder."
            raise BaseRefused(folder, f"{name!r} {fault}", advice)


def _read_layout(folder: Path, sizes: Mapping[str, int] | None) -> Layout:
    try:
        return read_layout(folder, sizes)
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
        if fault := file_fault(path.name):
            raise BaseRefused(folder, f"the file name {name!r} {fault}")
        if path.is_dir() and not path.is_symlink():
            continue
        _check_links(folder, (name,))
        if path.is_file():
            (code if is_code else side).append(name)
        elif not path.is_dir():
            raise BaseRefused(folder, f"{name!r} is not a regular file")
    for one, other in collisions([*side, *code]):
        raise BaseRefused(folder, f"{one!r} and {other!r} are one file on macOS and Windows")
    return tuple(sorted(side)), tuple(sorted(code))
