"""The Hugging Face cache, read only: where a repository's snapshot lies. No network, ever.

Its layout (huggingface_hub 2.4, file_download.py and docs, "Manage your cache"):
``models--OWNER--REPO/refs/REVISION`` holds a commit, ``snapshots/COMMIT/FILE`` are links
to ``blobs/DIGEST``.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

_PREFIX = "models--"
_SEPARATOR = "--"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_MAX_CLOSE = 3


def default_cache() -> Path:
    """Return the cache's folder, by HF_HUB_CACHE, HF_HOME or huggingface_hub's default."""
    # Start-up time, and base of a user who has no Hub: imported when a cache is looked into.
    from huggingface_hub import constants  # noqa: PLC0415

    return Path(constants.HF_HUB_CACHE)


def find_snapshot(cache: Path, repo: str, revision: str | None = None) -> Path | None:
    """Return the folder of a repository's snapshot, None when it is not in the cache.

    ``revision`` is a branch, a tag or a commit, at least its first seven digits. Without
    one it is ``main``, or the only snapshot there is.
    """
    home = cache / (_PREFIX + repo.replace("/", _SEPARATOR))
    snapshots = home / "snapshots"
    if ".." in repo or not snapshots.is_dir():
        return None
    commit = _commit_of(home, revision or "main")
    if commit is None:
        there = sorted(path.name for path in snapshots.iterdir() if _COMMIT.fullmatch(path.name))
        if revision is not None:
            short = revision if _SHORT_COMMIT.fullmatch(revision) else None
            there = [name for name in there if short and name.startswith(short)]
        commit = there[0] if len(there) == 1 else None
    if commit is None or not (snapshots / commit).is_dir():
        return None
    return snapshots / commit


def _commit_of(home: Path, revision: str) -> str | None:
    """Return the commit that a branch or tag of the cache points to."""
    reference = home / "refs" / revision
    if ".." in Path(revision).parts or Path(revision).is_absolute() or not reference.is_file():
        return None
    commit = reference.read_bytes()[:64].decode("ascii", errors="replace").strip()
    return commit if _COMMIT.fullmatch(commit) else None


def identify(folder: Path) -> tuple[str, str] | None:
    """Return the repository and the commit of a snapshot's folder; None for any other folder."""
    real = folder.resolve()
    home = real.parent.parent
    if real.parent.name != "snapshots" or not home.name.startswith(_PREFIX):
        return None
    return repo_of(home), real.name


def repo_of(home: Path) -> str:
    """Return ``OWNER/REPO`` for the folder ``models--OWNER--REPO``."""
    return home.name.removeprefix(_PREFIX).replace(_SEPARATOR, "/")


def close_repos(cache: Path, repo: str) -> tuple[str, ...]:
    """Return the cached models whose names are nearest to ``repo``."""
    if not cache.is_dir():
        return ()
    there = {repo_of(path).lower(): repo_of(path) for path in sorted(cache.glob(_PREFIX + "*"))}
    wanted = repo.lower()
    found = difflib.get_close_matches(wanted, there, _MAX_CLOSE)
    leaf = wanted.rpartition("/")[2]
    found += [name for name in there if name.rpartition("/")[2] == leaf and name not in found]
    return tuple(there[name] for name in found[:_MAX_CLOSE])
