"""Find a base that the user named: a folder, or a model in the Hugging Face cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adreg.registry.bases import hf_cache
from adreg.registry.errors import NotFound

_REPO = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?)(?:@(?P<revision>[\w./-]{1,256}))?",
    re.ASCII,
)
_HUB = "hf://"


@dataclass(frozen=True, slots=True)
class Located:
    """A base's folder and, when it is a snapshot of the Hugging Face cache, what it is of."""

    folder: Path
    hub_repo: str | None
    revision: str | None
    """The commit."""


def locate(text: str, *, cache_dir: Path | None = None) -> Located:
    """Return the folder that ``text`` names; raise NotFound with the nearest cached names.

    ``text`` is a folder, or ``OWNER/REPO[@REVISION]`` of the cache, which ``hf://`` before
    it makes plain. A folder that exists wins, as it does in transformers.
    """
    if text and not text.startswith(_HUB):
        there, path = _look(text)
        if there and path.is_dir():
            return _local(path)
        if there or text.startswith((".", "/", "~")) or "\\" in text:
            raise NotFound("folder", text, advice="Name a base's folder, or OWNER/REPO.")
    match = _REPO.fullmatch(text.removeprefix(_HUB))
    if match is None or ".." in text:
        raise NotFound("base", text, advice="Name a folder, or OWNER/REPO[@REVISION].")
    cache = hf_cache.default_cache() if cache_dir is None else cache_dir
    return _cached(cache, text, match["repo"], match["revision"])


def _look(text: str) -> tuple[bool, Path]:
    try:
        path = Path(text).expanduser()
        return path.exists(), path
    except (OSError, RuntimeError, ValueError):  # too long, a user without home, a zero byte
        return False, Path(text)


def _local(path: Path) -> Located:
    known = hf_cache.identify(path)
    if known is not None:
        return Located(path, *known)
    real = path.resolve()
    # The repository's folder in the cache, one above its snapshots.
    if (snapshot := hf_cache.find_snapshot(real.parent, hf_cache.repo_of(real))) is not None:
        return Located(snapshot, hf_cache.repo_of(real), snapshot.name)
    return Located(path, None, None)


def _cached(cache: Path, text: str, repo: str, revision: str | None) -> Located:
    snapshot = hf_cache.find_snapshot(cache, repo, revision)
    if snapshot is not None:
        return Located(snapshot, repo, snapshot.name)
    if revision is not None and hf_cache.find_snapshot(cache, repo) is not None:
        advice = f"Another revision of it is: {repo}. `hf download {repo} --revision {revision}`"
        raise NotFound("revision in the Hugging Face cache", text, advice=advice)
    raise NotFound(
        "folder or model in the Hugging Face cache",
        text,
        close=tuple(name for name in hf_cache.close_repos(cache, repo) if name != repo),
        advice=f"Download it with `hf download {repo}`.",
    )
