"""The Hub's answers as records; nothing in them is believed before it is checked.

The fields are those of ``GET /api/models/REPO/revision/REV?blobs=true`` and
``.../tree/REV`` as huggingface_hub 2.4 reads them (hf_api.py: ModelInfo, RepoFile).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adreg.registry.errors import HubDamaged

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a commit: its path, its bytes, its git blob id, and SHA-256 if it is LFS's."""

    path: str
    size: int
    git_sha1: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """A repository at one commit. ``files`` is None when the answer had no hashes of them."""

    repo: str
    commit: str
    private: bool = False
    gated: bool = False
    author: str | None = None
    modified: str | None = None
    tags: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Entry, ...] | None = None


def read_info(value: object, repo: str, target: str) -> RepoInfo:
    """Return the answer about a repository; raise HubDamaged."""
    if not isinstance(value, dict) or not _is(_COMMIT, value.get("sha")):
        raise _not_the_hub(target, "it names no commit")
    siblings = value.get("siblings")
    files: tuple[Entry, ...] | None = None
    if isinstance(siblings, list) and all(isinstance(s, dict) and "blobId" in s for s in siblings):
        files = tuple(_entry(s, s.get("rfilename"), s.get("blobId"), target) for s in siblings)
    card = value.get("cardData")
    tags = value.get("tags")
    return RepoInfo(
        repo=repo,
        commit=value["sha"],
        private=value.get("private") is True,
        gated=bool(value.get("gated")),
        author=_text(value.get("author")),
        modified=_text(value.get("lastModified")),
        tags=tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else (),
        card=card if isinstance(card, dict) else {},
        files=files,
    )


def read_tree(value: object, target: str) -> tuple[Entry, ...]:
    """Return the files of one page of a tree; raise HubDamaged."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise _not_the_hub(target, "its tree is no list")
    files = [one for one in value if one.get("type") == "file"]
    return tuple(_entry(one, one.get("path"), one.get("oid"), target) for one in files)


def _entry(value: Mapping[str, Any], path: object, oid: object, target: str) -> Entry:
    lfs = value.get("lfs")
    sha256, size = None, value.get("size")
    if isinstance(lfs, dict):
        # ``oid`` in a tree, ``sha256`` among siblings.
        sha256, size = lfs.get("sha256") or lfs.get("oid"), lfs.get("size", size)
        if not _is(_SHA256, sha256):
            raise _not_the_hub(target, f"{path!r} has no SHA-256")
    if not isinstance(path, str) or not isinstance(size, int) or size < 0:
        raise _not_the_hub(target, f"{path!r} has no name or no size")
    if not isinstance(oid, str) or not _is(_COMMIT, oid):
        raise _not_the_hub(target, f"{path!r} has no git blob id")
    return Entry(path, size, oid, sha256)


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.isprintable() else None


def _not_the_hub(target: str, what: str) -> HubDamaged:
    advice = "Check HF_ENDPOINT: a proxy or another site may answer in its place."
    return HubDamaged(target, f"the answer of the Hub cannot be used: {what}", advice)
