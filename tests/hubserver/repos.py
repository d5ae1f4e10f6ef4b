"""Repos on disk: commits as JSON, and the branches, tags and pull requests that name them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from hubserver.objects import Entry, Objects
from hubserver.trouble import Refusal, no_revision

LARGE = 10 << 20
_LARGE_KINDS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|pkl|pickle|h5|onnx|gguf|npy|npz|parquet|tar|gz|zip|model)$"
)
_PULL = re.compile(r"refs/pr/(\d+)")
_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
GITATTRIBUTES = "".join(
    f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n"
    for kind in ("bin", "ckpt", "gguf", "model", "pt", "safetensors", "zip")
).encode()


def is_large(path: str, size: int, sample: bytes = b"") -> bool:
    """Return whether the Hub wants a file as LFS: by its name, its size, or as binary."""
    return bool(size) and (bool(_LARGE_KINDS.search(path)) or size > LARGE or b"\0" in sample[:512])


@dataclass(frozen=True)
class Commit:
    """One state of a repo, and how it came to be."""

    oid: str
    parent: str | None
    message: str
    description: str
    author: str
    date: str
    files: Mapping[str, Entry]


@dataclass
class Repo:
    """A repo; change it only through `Repos`."""

    folder: Path
    id: str
    kind: str
    private: bool
    gated: bool | str
    created: str
    granted: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """The user or organisation that owns it."""
        return self.id.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        """Return the commit that a branch, a tag, a full ref or a (short) commit id names."""
        pull = _PULL.fullmatch(revision)
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = self.pulls.get(pull[1]) if pull else self.branches.get(name) or self.tags.get(name)
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        if oid is None:
            raise no_revision(revision)
        return self.commits[oid]

    def history(self, head: Commit) -> Iterator[Commit]:
        """Walk from a commit to the first one."""
        commit: Commit | None = head
        while commit is not None:
            yield commit
            commit = self.commits[commit.parent] if commit.parent else None

    def save(self) -> None:
        """Write what is not a commit."""
        names = "id", "kind", "private", "gated", "created", "granted", "branches", "tags", "pulls"
        text = json.dumps({name: getattr(self, name) for name in names}, indent=1)
        (self.folder / "repo.json").write_text(text)


class Repos:
    """All repos of one Hub; safe to use from the server and the tests at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = Objects(root / "objects")
        self.lock = threading.RLock()
        self._clock = _START
        self._repos = {(repo.kind, repo.id): repo for repo in map(_load, root.glob("repos/*/*/*"))}

    def __iter__(self) -> Iterator[Repo]:
        """Walk all repos, the newest first."""
        return iter(sorted(self._repos.values(), key=lambda repo: repo.created, reverse=True))

    def find(self, repo_id: str, kind: str = "model") -> Repo | None:
        """Return a repo, or None."""
        return self._repos.get((kind, repo_id))

    def now(self) -> str:
        """Return a time that no two commits share, so that their order is plain."""
        self._clock = max(self._clock + timedelta(milliseconds=1), datetime.now(timezone.utc))
        return self._clock.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def create(
        self, repo_id: str, kind: str = "model", *, private: bool = False, gated: bool | str = False
    ) -> Repo:
        """Make a repo with the Hub's first commit in it; `Refusal` 409 if there is one."""
        with self.lock:
            if (kind, repo_id) in self._repos:
                raise Refusal(409, f"You already created this {kind} repo: {repo_id}")
            folder = self.root / "repos" / f"{kind}s" / repo_id
            (folder / "commits").mkdir(parents=True)
            repo = Repo(folder, repo_id, kind, private, gated, self.now())
            self._repos[kind, repo_id] = repo
            first = self.objects.entry(self.objects.put(GITATTRIBUTES)[0], lfs=False)
            self.commit(repo, "main", {".gitattributes": first}, "initial commit", author="system")
            return repo

    def delete(self, repo: Repo) -> None:
        """Forget a repo."""
        with self.lock:
            shutil.rmtree(repo.folder)
            del self._repos[repo.kind, repo.id]

    def commit(
        self,
        repo: Repo,
        branch: str,
        files: Mapping[str, Entry],
        message: str,
        *,
        description: str = "",
        author: str = "system",
        parent: Commit | None = None,
    ) -> Commit:
        """Put a whole new state on a branch; with `parent`, into a new pull request instead."""
        with self.lock:
            head = parent.oid if parent else repo.branches.get(branch)
            if pull := _PULL.fullmatch(branch):
                head = repo.pulls[pull[1]]
            body = {
                "parent": head,
                "message": message,
                "description": description,
                "author": author,
                "date": self.now(),
                "files": {path: asdict(entry) for path, entry in sorted(files.items())},
            }
            text = json.dumps(body, indent=1)
            oid = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            (repo.folder / "commits" / f"{oid}.json").write_text(text)
            commit = _commit(oid, body)
            repo.commits[oid] = commit
            if parent:
                repo.pulls[str(len(repo.pulls) + 1)] = oid
            elif pull:
                repo.pulls[pull[1]] = oid
            else:
                repo.branches[branch] = oid
            repo.save()
            return commit


def _commit(oid: str, body: Mapping[str, object]) -> Commit:
    """Return a commit from its JSON."""
    fields = dict(body)
    files = fields.pop("files")
    assert isinstance(files, dict)
    entries = {path: Entry(**entry) for path, entry in files.items()}
    return Commit(oid, files=entries, **fields)  # type: ignore[arg-type]


def _load(folder: Path) -> Repo:
    """Read a repo from its folder."""
    repo = Repo(folder, **json.loads((folder / "repo.json").read_text()))
    for path in (folder / "commits").glob("*.json"):
        repo.commits[path.stem] = _commit(path.stem, json.loads(path.read_text()))
    return repo
