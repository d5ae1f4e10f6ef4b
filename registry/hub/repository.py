"""Looking at a repository of models: its branches, commits, tags and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from adreg.registry.errors import HubDamaged, UnknownRevision
from adreg.registry.hub.answers import Entry
from adreg.registry.hub.client import HubClient, repo_path
from adreg.registry.hub.upload import RemoteFile

_MOST_COMMITS = 1000
"""Commits that are looked through for who changed something."""


@dataclass(frozen=True, slots=True)
class Head:
    """A branch as it was seen: its commit and its files.

    ``branch_missing`` says that ``revision`` is yet to be made of this commit.
    """

    repo: str
    revision: str
    commit: str
    files: Mapping[str, RemoteFile]
    private: bool = False
    branch_missing: bool = False

    @property
    def name(self) -> str:
        """What an error calls it."""
        return f"{self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True)
class RemoteCommit:
    """A commit of a repository; ``at`` is as the Hub writes it (ISO-8601)."""

    oid: str
    authors: tuple[str, ...]
    at: str
    title: str


def look(client: HubClient, repo: str, revision: str) -> Head:
    """Return a branch, tag or commit as it is now: one request, mostly.

    Raises UnknownRepo, UnknownRevision or another HubError.
    """
    info = client.info(repo, revision)
    entries = client.tree(repo, info.commit) if info.files is None else info.files
    files = {one.path: _file(one) for one in entries}
    return Head(repo, revision, info.commit, files, info.private)


def _file(one: Entry) -> RemoteFile:
    return RemoteFile(one.path, one.size, one.git_sha1, one.sha256)


def commits(client: HubClient, repo: str, revision: str, until: str) -> tuple[RemoteCommit, ...]:
    """Return the commits of a revision, newest first, down to ``until``, which is left out."""
    found: list[RemoteCommit] = []
    path = f"api/models/{repo_path(repo)}/commits/{quote(revision, safe='')}"
    for page in client.pages(path, repo, {}):
        for one in _objects(page, repo):
            commit = _commit(one)
            if commit.oid == until or len(found) == _MOST_COMMITS:
                return tuple(found)
            found.append(commit)
    return tuple(found)


def pull_requests(client: HubClient, repo: str) -> dict[str, str]:
    """Return the commits of pull requests by their branch, ``refs/pr/N``."""
    found = _refs(client, repo, {"include_prs": "1"}).get("pullRequests") or []
    return {str(one.get("ref")): str(one.get("targetCommit")) for one in _objects(found, repo)}


def commit_of_tag(client: HubClient, repo: str, tag: str) -> str | None:
    """Return the commit that a tag names, None where there is no such tag.

    The target of an annotated tag may be an object of its own, so the revision is asked.
    """
    names = {str(one.get("name")) for one in _objects(_refs(client, repo).get("tags") or [], repo)}
    if tag not in names:
        return None
    try:
        return client.info(repo, f"refs/tags/{tag}").commit
    except UnknownRevision:
        return client.info(repo, tag).commit


def _refs(client: HubClient, repo: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
    path = f"api/models/{repo_path(repo)}/refs"
    (page,) = client.pages(path, repo, params or {})
    if not isinstance(page, dict):
        raise _nonsense(repo)
    return page


def _objects(value: object, target: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise _nonsense(target)
    return value


def _commit(one: Mapping[str, Any]) -> RemoteCommit:
    authors = one.get("authors")
    names = authors if isinstance(authors, list) else []
    return RemoteCommit(
        str(one.get("id", "")),
        tuple(str(who.get("user", "")) for who in names if isinstance(who, dict)),
        str(one.get("date", "")),
        str(one.get("title", "")),
    )


def _nonsense(target: str) -> HubDamaged:
    advice = "Check HF_ENDPOINT: a proxy or another site may answer in its place."
    return HubDamaged(target, "the answer of the Hub cannot be used", advice)
