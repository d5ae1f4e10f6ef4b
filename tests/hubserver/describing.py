"""What the read API says of repos, files and commits, as JSON."""

from __future__ import annotations

import json
from typing import Any

from hubserver.cards import card_data, tags_of
from hubserver.objects import Entry
from hubserver.repos import Commit, Repo
from hubserver.state import State


def model(state: State, repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """Describe a repo at a commit."""
    names = list(commit.files)
    config = _json_file(state, commit, "config.json")
    peft = _json_file(state, commit, "adapter_config.json")
    data = card_of(state, commit)
    said: dict[str, Any] = {
        "_id": commit.oid[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit.oid,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags_of(data, names, has_peft=bool(peft)),
        "siblings": [sibling(state, path, commit.files[path], blobs=blobs) for path in names],
        "spaces": [],
        "usedStorage": sum(entry.size for entry in commit.files.values() if entry.lfs),
    }
    for name in "library_name", "pipeline_tag":
        if data.get(name):
            said[name] = data[name]
    if data:
        said["cardData"] = data
    if config or peft:
        said["config"] = {
            **{key: config[key] for key in ("architectures", "model_type") if key in config}
        }
        if peft:
            keys = "base_model_name_or_path", "task_type"
            said["config"]["peft"] = {key: peft.get(key) for key in keys}
    return said


def sibling(state: State, path: str, entry: Entry, *, blobs: bool) -> dict[str, Any]:
    """Describe a file as the info of a repo does."""
    said: dict[str, Any] = {"rfilename": path}
    if blobs:
        said |= {"size": entry.size, "blobId": entry.oid}
        if entry.lfs:
            said["lfs"] = _lfs(entry)["lfs"]
            said["lfs"]["sha256"] = said["lfs"].pop("oid")
    del state
    return said


def tree_file(state: State, path: str, entry: Entry) -> dict[str, Any]:
    """Describe a file as the tree does."""
    said = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path, **_lfs(entry)}
    if state.xet and entry.lfs:
        said["xetHash"] = state.xet.hash_of(entry.sha256)
    return said


def last_change(repo: Repo, head: Commit, path: str) -> dict[str, str]:
    """Return the newest commit in which a file, or a file of a folder, is not as before."""

    def part_of(commit: Commit) -> dict[str, Entry]:
        return {
            name: entry
            for name, entry in commit.files.items()
            if name == path or name.startswith(f"{path}/")
        }

    found = head
    for commit in repo.history(head):
        found = commit
        parent = repo.commits[commit.parent] if commit.parent else None
        if parent is None or part_of(parent) != part_of(commit):
            break
    return {"id": found.oid, "title": title(found), "date": found.date}


def commit_said(commit: Commit) -> dict[str, Any]:
    """Describe a commit as the history does."""
    return {
        "id": commit.oid,
        "title": title(commit),
        "message": commit.description,
        "authors": [{"user": commit.author}],
        "date": commit.date,
    }


def title(commit: Commit) -> str:
    """Return the first line of a commit's message."""
    return commit.message.split("\n", 1)[0]


def card_of(state: State, commit: Commit) -> dict[str, Any]:
    """Return the metadata of the README; none if it cannot be read."""
    entry = commit.files.get("README.md")
    if entry is None:
        return {}
    try:
        return card_data(state.repos.objects.path(entry.sha256).read_text("utf-8", "replace"))
    except ValueError:
        return {}


def _lfs(entry: Entry) -> dict[str, Any]:
    """Return what is said of large files only."""
    if not entry.lfs:
        return {}
    return {
        "lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": 120 + len(str(entry.size))}
    }


def _json_file(state: State, commit: Commit, path: str) -> dict[str, Any]:
    """Return a JSON object of the repo; none if it cannot be read."""
    entry = commit.files.get(path)
    if entry is None or entry.size > 1 << 20:
        return {}
    try:
        said = json.loads(state.repos.objects.path(entry.sha256).read_bytes())
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
