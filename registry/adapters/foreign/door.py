"""Which format is it? By what a path holds, not by what it is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adreg.registry import jsonio
from adreg.registry.adapters.files import CONFIG, PICKLE, WEIGHTS, link_fault
from adreg.registry.adapters.foreign import (
    diffusers,
    gguf_lora,
    kohya,
    loralib,
    merged_linear,
    mlx,
    pickled,
    refused,
)
from adreg.registry.adapters.foreign.form import Converted, Said, check_unused
from adreg.registry.adapters.foreign.sources import PICKLES, SUFFIXES, open_tensors
from adreg.registry.errors import AdapterRefused, NotAnAdapter
from adreg.registry.tensors.header import TensorFile

_MAX_CONFIG = 16 << 20

_NO_ADAPTERS = ("pytorch_model", "model", "training_args", "optimizer", "scheduler", "rng_state")
"""How files begin that lie beside an adapter, or are full models; the ordinary door names them."""


def convert(path: Path, said: Said) -> Converted | None:
    """Read a foreign adapter into PEFT's form; None for what ``read_adapter`` has to judge.

    That is a PEFT folder with safetensors, and everything that is no adapter at all.
    Raises NotAnAdapter and AdapterRefused for formats that are known and not read, and for
    faults; PickleRefused, MissingPackage, JsonBroken, TensorFileBroken.
    """
    if path.is_dir():
        return _folder(path, said)
    return _file(path, said) if path.is_file() else None


def _folder(folder: Path, said: Said) -> Converted | None:
    try:
        names = {entry.name for entry in folder.iterdir() if entry.is_file()}
    except OSError as error:
        raise NotAnAdapter(folder, error.strerror or str(error)) from error
    if CONFIG in names:
        return _configured(folder, names, said)
    weights = [name for name in mlx.NAMES if name in names]
    weights = weights[:1] or sorted(filter(_may_be_adapter, names))
    if len(weights) != 1:
        return None
    _check_link(folder, weights[0])
    converted = _file(folder / weights[0], said)
    return None if converted is None else _of_folder(converted, folder, weights[0])


def _configured(folder: Path, names: set[str], said: Said) -> Converted | None:
    _check_link(folder, CONFIG)
    config = jsonio.read_object(folder / CONFIG, max_bytes=_MAX_CONFIG)
    refused.check_config(folder, config)
    if mlx.is_config(config):
        found = next((name for name in mlx.NAMES if name in names), None)
        if found is None:
            reason = f"it is an mlx-lm adapter without {mlx.NAMES[0]}"
            raise NotAnAdapter(folder, reason, "Fetch or save the adapter again.")
        _check_link(folder, found)
        check_unused(folder, said, "--component")
        file = open_tensors(folder / found, convert_pickle=said.convert_pickle)
        return _of_folder(mlx.convert(folder, file, config, said), folder, CONFIG, found)
    is_merged = merged_linear.is_config(config)
    if (WEIGHTS in names and not is_merged) or not names & {WEIGHTS, PICKLE}:
        return None
    found = WEIGHTS if WEIGHTS in names else PICKLE
    _check_link(folder, found)
    check_unused(folder, said, "--alpha", "--component")
    file = open_tensors(folder / found, convert_pickle=said.convert_pickle)
    if is_merged:
        return _with_remarks(merged_linear.convert(folder, file, config), file)
    return _with_remarks(pickled.convert(folder, file), file)


def _file(path: Path, said: Said) -> Converted | None:
    if path.name in {CONFIG, WEIGHTS, PICKLE} and (path.parent / CONFIG).exists():
        return None
    refused.check_file(path)
    with path.open("rb") as opened:
        if opened.read(4) == gguf_lora.MAGIC:
            check_unused(path, said, "--component")
            return gguf_lora.convert(path, said)
    if path.suffix not in SUFFIXES:
        return None
    file = open_tensors(path, convert_pickle=said.convert_pickle)
    converted = _by_names(path, file, said)
    return None if converted is None else _with_remarks(converted, file)


def _by_names(path: Path, file: TensorFile, said: Said) -> Converted | None:
    names = [info.name for info in file.tensors]
    refused.check_names(path, names)
    if any(kohya.is_name(name) for name in names):
        return kohya.convert(path, file, said)
    if any(name.endswith((".lora_a", ".lora_b")) for name in names):
        check_unused(path, said, "--component")
        return mlx.convert(path, file, {}, said)
    if any(map(loralib.FACTOR.fullmatch, names)):
        check_unused(path, said, "--component")
        return loralib.convert(path, file, said)
    if diffusers.METADATA in file.metadata or any(map(diffusers.is_name, names)):
        return diffusers.convert(path, file, said)
    return None


def _of_folder(converted: Converted, folder: Path, *used: str) -> Converted:
    """Say that the other files of a folder belong to the adapter too."""
    return replace(converted, folder=folder, used=frozenset(used))


def _with_remarks(converted: Converted, file: TensorFile) -> Converted:
    """Tell what a pickle held beside tensors (tensors/pickles.py)."""
    beside = file.metadata.get("left_out") if file.path.suffix in PICKLES else None
    if not beside:
        return converted
    remark = f"left out of {file.path.name}, as they are no tensors: {beside}"
    return replace(converted, remarks=(*converted.remarks, remark))


def _may_be_adapter(name: str) -> bool:
    if name == PICKLE or name.startswith((".", *_NO_ADAPTERS)):
        return False
    return name.endswith((*SUFFIXES, ".gguf", ".nemo"))


def _check_link(folder: Path, name: str) -> None:
    if fault := link_fault(folder / name, folder):
        reason = f"{name!r} {fault}"
        raise AdapterRefused(folder, (reason,), "Copy the files themselves into the folder.")
