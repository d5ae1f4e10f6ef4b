"""Which files of an adapter's folder are kept, which are left out, and which are refused."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from adreg.registry import jsonio
from adreg.registry.adapters.refusals import steering
from adreg.registry.errors import JsonBroken
from adreg.registry.names import collisions, file_fault

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

STEERED = (
    CONFIG,
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)
"""Files in which a key can choose code."""

_MAX_BESIDE = 256 << 20
"""Bytes of a file beside the weights: the largest tokenizers have about 35 MB."""

_STORE = re.compile(r"[0-9a-f]{64}")

_FOLDERS_KEPT = frozenset({"additional_chat_templates"})


@dataclass
class Sorted:
    """The files of a folder: those kept, those left out with the reason, and what is wrong.

    ``not_followed`` are keys of kept files that would choose code, which nothing here does.
    """

    kept: dict[str, Path] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    not_followed: list[tuple[str, str]] = field(default_factory=list)


def sort_files(folder: Path) -> Sorted:
    """Sort the entries of an adapter's folder by name. Raises OSError."""
    result = Sorted()
    names = []
    for name, path in _entries(folder):
        names.append(name)
        if fault := file_fault(path.name):
            result.reasons.append(f"the file name {name!r} {fault}")
        elif path.is_dir():
            result.left_out.append((name + "/", "a folder of its own"))
        elif not any(fnmatchcase(name, pattern) for pattern in KEPT):
            result.left_out.append((name, _why_not(name)))
        elif reason := link_fault(path, folder) or _kind_fault(name, path):
            result.reasons.append(f"{name!r} {reason}")
        else:
            result.kept[name] = path
    for one, other in collisions(names):
        if one in result.kept or other in result.kept:
            result.reasons.append(f"{one!r} and {other!r} are one file on macOS and Windows")
    for name in STEERED:
        if name in result.kept:
            _look_for_code(name, result)
    return result


def _look_for_code(name: str, result: Sorted) -> None:
    try:
        config = jsonio.read_object(result.kept[name])
    except JsonBroken as error:
        if name != CONFIG:  # of that one the reader tells itself
            result.reasons.append(f"{name!r}: {error.reason}")
        return
    result.not_followed += [(name, key) for key in steering(config)]


def _kind_fault(name: str, path: Path) -> str | None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if name != WEIGHTS and found.st_size > _MAX_BESIDE:
        return f"has {found.st_size:,} bytes, more than any file of its kind"
    return None


def link_fault(path: Path, folder: Path) -> str | None:
    """Return what is wrong with a path that leads out of its folder, None if it does not.

    A link may do so in the Hub's cache alone: there ``snapshots/REVISION/FILE`` is a link
    to ``blobs/DIGEST`` of the same repository, which can be one to ``blobs/XX/HASH`` of
    the whole cache (huggingface_hub 2.4, file_download.py and utils/_shared_blobs.py). A
    hard link leads elsewhere too, and no look tells where: a file that has another name
    is refused, but in that cache.
    """
    try:
        real = path.resolve(strict=True)
        names = real.stat().st_nlink
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return "is a link to nothing"
    home = folder.resolve()
    blobs = blobs_of(home)
    if blobs is not None and (real.parent == blobs or _is_shared(real, blobs)):
        return None
    if not real.is_relative_to(home):
        return f"is a link out of its folder, to {str(real)!r}"
    if names > 1 and blobs is None and not real.is_dir():
        return "is a hard link: it has another name, which may lie anywhere"
    return None


def _is_shared(real: Path, blobs: Path) -> bool:
    """Whether a file is in the store that the repositories of one Hub cache share."""
    store = blobs.parent.parent / "blobs"
    named = _STORE.fullmatch(real.name) is not None and real.parent.name == real.name[:2]
    return named and real.parent.parent == store


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
