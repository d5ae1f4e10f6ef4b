"""Read an adapter that PEFT's save_pretrained wrote, and trust nothing in it.

No pickle is opened and no code of others runs: the configuration is strict JSON, the
weights are strict safetensors, and every fault is found before the adapter is taken in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adreg.registry import digest, jsonio
from adreg.registry.adapters.card import read_licence
from adreg.registry.adapters.config import parse_config
from adreg.registry.adapters.files import (
    CONFIG,
    PICKLE,
    WEIGHTS,
    Sorted,
    find_adapters,
    sort_files,
)
from adreg.registry.adapters.groups import check_tensors, read_tensors
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.adapters.tuners import refused_type, tuner_of
from adreg.registry.adapters.values import check_values as find_bad_values
from adreg.registry.digest import FileDigest
from adreg.registry.errors import AdapterRefused, NotAnAdapter, PickleRefused
from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.header import read_header

__all__ = ["Unread", "find_adapters", "look_at", "read_adapter"]

_CONVERT = (
    "Add it with `adreg add FOLDER --convert-pickle`, which reads it as nothing but tensors,"
    " and use what was added."
)
_MAX_CONFIG = 16 << 20
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Unread:
    """An adapter whose form is checked and whose files are still to be read through.

    ``spec`` has everything but the digests of its ``files``; ``kept`` are those files.
    """

    spec: AdapterSpec
    kept: Mapping[str, Path]


def look_at(folder: Path, progress: Progress = SILENT) -> Unread:
    """Check the form of the adapter in a folder: names, configuration, headers.

    Raises what ``read_adapter`` does, all faults in one AdapterRefused; only for one that
    is refused are its weights read.
    """
    return _look(folder, progress, check_values=True)


def read_adapter(
    folder: Path, *, check_values: bool = True, progress: Progress = SILENT
) -> AdapterSpec:
    """Read and check the adapter in a folder; all its faults come in one AdapterRefused.

    ``check_values`` reads the weights through and refuses values that are not finite;
    without it their headers alone are read. The kept files are hashed either way.
    Raises NotAnAdapter, PickleRefused, JsonBroken, TensorFileBroken, AdapterRefused.
    """
    unread = _look(folder, progress, check_values=check_values)
    spec, reasons = unread.spec, []
    total = sum(path.stat().st_size for path in unread.kept.values())
    total += sum(tensor.info.nbytes for tensor in spec.tensors) if check_values else 0
    progress.start(f"Reading {folder.name}", total)
    try:
        if check_values:
            reasons = find_bad_values(spec.weights.path, spec.tensors, progress.advance)
        if reasons:
            raise AdapterRefused(folder, tuple(reasons))
        kept = tuple(_digest(folder, *item, progress) for item in sorted(unread.kept.items()))
    finally:
        progress.finish()
    return replace(spec, files=kept)


def _look(folder: Path, progress: Progress, *, check_values: bool) -> Unread:
    files = _sort(folder)
    config = _read_config(folder, files)
    peft_type = _check_type(folder, config)
    weights = read_header(files.kept[WEIGHTS])
    fields = parse_config(config)
    tensors, unknown = read_tensors(weights.tensors, tuner_of(config))
    reasons = [*files.reasons, *fields.reasons, *unknown]
    if not unknown:
        reasons += check_tensors(tensors, fields)
    if reasons or fields.lora is None:
        if check_values:  # a user hears of all faults at once
            progress.start(f"Reading {folder.name}", sum(one.info.nbytes for one in tensors))
            try:
                reasons += find_bad_values(weights.path, tensors, progress.advance)
            finally:
                progress.finish()
        raise AdapterRefused(folder, tuple(reasons))
    spec = AdapterSpec(
        folder=folder,
        config=config,
        config_text=files.kept[CONFIG].read_bytes().decode(),  # read_text would change \r\n
        peft_type=peft_type,
        task_type=fields.task_type,
        lora=fields.lora,
        base_hint=fields.base_hint,
        base_revision=fields.base_revision,
        peft_version=fields.peft_version,
        modules_to_save=fields.modules_to_save,
        rows=fields.rows,
        tensors=tensors,
        weights=weights,
        licence=read_licence(folder),
        files=(),
        left_out=tuple(files.left_out),
        not_followed=tuple(files.not_followed),
    )
    return Unread(spec, files.kept)


def _sort(folder: Path) -> Sorted:
    """Sort the folder's files and make sure that both the configuration and weights are there."""
    try:
        if not folder.exists():
            raise NotAnAdapter(folder, "there is no such folder")
        if not folder.is_dir():
            raise NotAnAdapter(folder, "it is a file, not a folder", _file_advice(folder))
        files = sort_files(folder)
    except OSError as error:
        raise NotAnAdapter(folder, error.strerror or str(error)) from error
    if CONFIG in files.kept and WEIGHTS in files.kept:
        return files
    if any(repr(name) in reason for name in (CONFIG, WEIGHTS) for reason in files.reasons):
        raise AdapterRefused(
            folder, tuple(files.reasons), "Copy the files themselves into the folder."
        )
    names = {name for name, _ in files.left_out} | files.kept.keys()
    if CONFIG not in names:
        raise NotAnAdapter(folder, *_no_config(folder, names))
    if PICKLE in names:
        raise PickleRefused(folder, f"its weights are only there as a pickle, {PICKLE}", _CONVERT)
    raise NotAnAdapter(folder, *_no_weights(names))


def _file_advice(path: Path) -> str:
    if path.suffix == ".gguf":
        return "Add it with `adreg add FILE --base BASE`, which converts it, and use that."
    if path.name in {CONFIG, WEIGHTS}:
        return f"Name its folder: {path.parent}"
    return "Name the folder that holds adapter_config.json."


def _no_config(folder: Path, names: set[str]) -> tuple[str, str]:
    if not names:
        return "the folder is empty", "Name the folder that PEFT's save_pretrained wrote."
    below = [path for _, path in zip(range(_SHOWN + 1), find_adapters(folder), strict=False)]
    if below:
        shown = ", ".join(str(path) for path in below[:_SHOWN])
        more = ", and more" if len(below) > _SHOWN else ""
        return (
            f"it holds no {CONFIG}, but folders in it do",
            f"Name one of them, or pass --recursive for all: {shown}{more}",
        )
    if any(name.startswith("model") and name.endswith(".safetensors") for name in names):
        return "it is a full model, not an adapter", "Pass it as the base, with --base."
    if any(name.startswith("pytorch_model") for name in names):
        return "it is a full model, not an adapter", "Pass it as the base, with --base."
    if WEIGHTS in names or PICKLE in names:
        return (
            f"it holds weights but no {CONFIG}",
            "Copy the file from where the adapter was trained: rank and alpha stand in it.",
        )
    return f"it holds no {CONFIG}", "Name the folder that PEFT's save_pretrained wrote."


def _no_weights(names: set[str]) -> tuple[str, str]:
    reason = f"it holds {CONFIG} but no {WEIGHTS}"
    if "adapters.safetensors" in names or "adapters.npz" in names:
        return reason, "Its weights are mlx-lm's: `adreg add FOLDER` converts them; use that."
    if any(name.startswith("adapter_model-") for name in names):
        return reason, "Its weights are in several files; PEFT reads and writes one."
    return reason, "Fetch or save the adapter again."


def _read_config(folder: Path, files: Sorted) -> dict[str, Any]:
    config = jsonio.read_object(files.kept[CONFIG], max_bytes=_MAX_CONFIG)
    if "fine_tune_type" in config and "peft_type" not in config:
        raise NotAnAdapter(
            folder,
            "it is an mlx-lm adapter",
            "Add it with `adreg add FOLDER`, which converts it, and use what was added.",
        )
    return config


def _check_type(folder: Path, config: dict[str, Any]) -> str:
    peft_type = config.get("peft_type")
    if not isinstance(peft_type, str):
        said = "has no peft_type" if peft_type is None else f"has the peft_type {peft_type!r}"
        raise AdapterRefused(folder, (f"its {CONFIG} {said}, which must be text like 'LORA'",))
    if reason := refused_type(config):
        raise AdapterRefused(folder, (reason,), "Use it with PEFT, on its base.")
    return peft_type


def _digest(folder: Path, name: str, path: Path, progress: Progress) -> FileDigest:
    try:
        return FileDigest(name, digest.of_file(path, progress.advance), path.stat().st_size)
    except OSError as error:
        reason = f"{name!r} cannot be read: {error.strerror}"
        raise AdapterRefused(folder, (reason,), "Make it readable and try again.") from error
