"""Formats that are known and not read, each refused by name with what to do instead."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adreg.registry.errors import AdapterRefused, NotAnAdapter

_GGLA = b"algg"
"""``ggla`` back to front: llama.cpp's convert-lora-to-ggml.py, removed in 2024 (#8332)."""

_MISTRAL = re.compile(r"layers\.\d+\.(attention\.w[qkvo]|feed_forward\.w[123])\.lora_[AB]\.weight")

_NEMO = {"model_weights.ckpt", "model_config.yaml"}


def check_file(path: Path) -> None:
    """Raise NotAnAdapter for a file whose format is known and not read."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise NotAnAdapter(path, error.strerror or str(error)) from error
    if head.startswith(_GGLA):
        raise NotAnAdapter(
            path,
            "it is a ggla LoRA of llama.cpp from before 2024, which lost its module names",
            "Add the PEFT folder that it was made from.",
        )
    if path.suffix == ".nemo" or (head[257:262] == b"ustar" and _is_nemo(path)):
        raise NotAnAdapter(
            path,
            "it is a NeMo adapter, whose names are NeMo's own",
            "Export it to PEFT's form with NeMo's exporter of that model class.",
        )


def check_names(path: Path, names: Iterable[str]) -> None:
    """Raise NotAnAdapter for tensors of a format that is known and not read."""
    if any(_MISTRAL.fullmatch(name) for name in names):
        raise NotAnAdapter(
            path,
            "it is a LoRA of mistral-finetune, which uses the names of Mistral's own checkpoints",
            "Merge it with mistral-finetune's merge_lora, and convert the model with transformers.",
        )


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise AdapterRefused for a kind of adapter that PEFT itself does not read any more."""
    if config.get("peft_type") == "BONE":
        raise AdapterRefused(
            folder,
            ("its peft_type is 'BONE', which PEFT 0.19 replaced by MiSS",),
            "Convert it with PEFT's scripts/convert-bone-to-miss.py, and add what comes out.",
        )


def _is_nemo(path: Path) -> bool:
    try:
        with tarfile.open(path) as archive:
            first = {Path(member.name).name for _, member in zip(range(8), archive, strict=False)}
    except (tarfile.TarError, OSError):
        return False
    return bool(first & _NEMO)
