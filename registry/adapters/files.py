"""Which files of an adapter's folder are kept, which are left out, and which are refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"

KEPT: Mapping[str, str] = {
    CONFIG: "the configuration",
    WEIGHTS: "the weights",
    "README.md": "the card, with the licence",
    "LICENSE*": "the licence",
    "LICENCE*": "the licence",
    "NOTICE*": "what the licence asks to keep",
    "tokenizer*.json": "the tokenizer, when training added tokens",
    "tokenizer.model": "the tokenizer",
    "*.tiktoken": "the tokenizer",
    "spiece.model": "the tokenizer",
    "sentencepiece*.model": "the tokenizer",
    "vocab.json": "the tokenizer",
    "vocab.txt": "the tokenizer",
    "merges.txt": "the tokenizer",
    "special_tokens_map.json": "the tokenizer",
    "added_tokens.json": "the tokenizer",
    "chat_template.jinja": "the chat template that it was trained with",
    "chat_template.json": "the chat template that it was trained with",
    "additional_chat_templates/*.jinja": "further chat templates, as transformers 5 saves them",
    "preprocessor_config.json": "the processor",
    "processor_config.json": "the processor",
    "generation_config.json": "how it is meant to be sampled",
    # A classifier's id2label and num_labels stand nowhere else.
    "config.json": "the model's configuration, with the labels of a new head",
}
"""Patterns of the files that belong to an adapter, with why."""

LEFT_OUT: Mapping[str, str] = {
    "*.bin": "a pickle, which could run code",
    "*.pt": "a pickle, which could run code",
    "*.pth": "a pickle, which could run code",
    "*.pkl": "a pickle, which could run code",
    "*.pickle": "a pickle, which could run code",
    "*.ckpt": "a pickle, which could run code",
    "*.py": "code",
    "*.sh": "code",
    "*.so": "code",
    "*.ipynb": "code",
    "new_embeddings.safetensors": "vLLM's extra embedding rows, which PEFT does not read",
    ".*": "hidden",
}
"""Patterns of files that are left out, with why; all else is 'not part of an adapter'."""

_FOLDERS_KEPT = frozenset({"additional_chat_templates"})


@dataclass
class Sorted:
    """The files of a folder: those kept, those left out with the reason, and what is wrong."""

    kept: dict[str, Path] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def sort_files(folder: Path) -> Sorted:
    """Sort the entries of an adapter's folder by name. Raises OSError."""
    result = Sorted()
    for name, path in _entries(folder):
        if not name.isprintable() or "\\" in name:
            result.reasons.append(f"the file name {name!r} has characters that are not allowed")
        elif path.is_dir():
            result.left_out.append((name + "/", "a folder of its own"))
        elif not any(fnmatchcase(name, pattern) for pattern in KEPT):
            result.left_out.append((name, _why_not(name)))
        elif reason := link_fault(path, folder):
            result.reasons.append(f"{name!r} {reason}")
        elif not stat.S_ISREG(path.stat().st_mode):
            result.reasons.append(f"{name!r} is not a regular file")
        else:
            result.kept[name] = path
    return result


def link_fault(path: Path, folder: Path) -> str | None:
    """Return what is wrong with a path that leads out of its folder, None if it does not.

    The Hub's cache alone may: there ``snapshots/REVISION/FILE`` is a link to
    ``blobs/DIGEST`` of the same repository (huggingface_hub, file_download.py).
    """
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return "is a link to nothing"
    home = folder.resolve()
    if real.is_relative_to(home):
        return None
    blobs = blobs_of(home)
    if blobs is not None and real.parent == blobs:
        return None
    return f"is a link out of its folder, to {str(real)!r}"


def blobs_of(folder: Path) -> Path | None:
    """Return the blobs folder of the Hub's cache that a snapshot's folder, or one below, is in."""
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots" and parent.parent.parent.name.startswith("models--"):
            return parent.parent.parent / "blobs"
    return None


def find_adapters(root: Path) -> Iterator[Path]:
    """Give the folders at or below ``root`` that hold an adapter_config.json, sorted.

    Hidden folders and links to folders are not entered.
    """
    for where, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not Path(where, name).is_symlink()
        )
        if CONFIG in files:
            yield Path(where)


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if path.name in _FOLDERS_KEPT and path.is_dir() and not path.is_symlink():
            for inner in sorted(path.iterdir()):
                yield f"{path.name}/{inner.name}", inner
        else:
            yield path.name, path


def _why_not(name: str) -> str:
    for pattern, reason in LEFT_OUT.items():
        if fnmatchcase(name, pattern):
            return reason
    return "not part of an adapter"
