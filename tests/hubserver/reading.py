"""The routes that look: info, tree, paths, refs, history, lists."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hubserver import describing
from hubserver.repos import Commit, Repo
from hubserver.state import KINDS, page, readable, revision_of, state_of
from hubserver.trouble import Refusal
from hubserver.wire import part

PAGE = 1000
EXPANDED_PAGE = 50  # the Hub's pages are shorter where each file's last commit is told


async def whoami(request: Request) -> Response:
    """GET /api/whoami-v2."""
    user = state_of(request).users.signed_in(request)
    role = "write" if user.write else "read"
    token = {"displayName": "test", "role": role, "createdAt": "2026-01-01T00:00:00.000Z"}
    return JSONResponse(
        {
            "type": "user",
            "id": user.name,
            "name": user.name,
            "fullname": user.name,
            "email": f"{user.name}@example.org",
            "emailVerified": True,
            "canPay": False,
            "isPro": False,
            "periodEnd": None,
            "avatarUrl": "",
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


async def harnesses(request: Request) -> Response:  # noqa: ARG001
    """GET /api/agent-harnesses."""
    return JSONResponse({"harnesses": {}, "standardEnvVars": []})


async def info(request: Request) -> Response:
    """GET /api/models/R and /api/models/R/revision/REV."""
    repo = readable(request)
    query = request.query_params
    said = describing.model(
        state_of(request),
        repo,
        revision_of(request, repo),
        blobs=query.get("blobs", "").lower() in {"1", "true"},
    )
    return JSONResponse(_expanded(said, query.getlist("expand") + query.getlist("expand[]")))


async def models(request: Request) -> Response:
    """GET /api/models: author, search, filter (all of them), gated, limit, paging."""
    state, query = state_of(request), request.query_params
    user = state.users.caller(request)
    kind = KINDS[request.path_params["kinds"]]
    wanted = [tag for value in query.getlist("filter") for tag in value.split(",")]
    expand = query.getlist("expand") + query.getlist("expand[]")
    full = query.get("full", "").lower() == "true"
    found: list[object] = []
    for repo in state.repos:
        if repo.kind != kind or (repo.private and not state.users.owns(user, repo.namespace)):
            continue
        said = describing.model(state, repo, repo.resolve("main"))
        if (
            query.get("author", repo.namespace) == repo.namespace
            and query.get("search", "").lower() in repo.id.lower()
            and all(tag in said["tags"] for tag in wanted)
            and query.get("gated", "").lower() in {"", str(bool(repo.gated)).lower()}
        ):
            if not full and not expand:
                for name in "siblings", "author", "sha", "gated", "disabled", "spaces":
                    del said[name]
            if query.get("cardData", "").lower() != "true" and not expand:
                said.pop("cardData", None)
            found.append(_expanded(said, expand))
    return page(request, found, min(int(query.get("limit", PAGE)), PAGE))


async def tree(request: Request) -> Response:
    """GET /api/models/R/tree/REV and below a folder: recursive, expand, limit, paging."""
    repo, query = readable(request), request.query_params
    commit = revision_of(request, repo)
    folder = part(request.path_params.get("path", "")).strip("/")
    expand = query.get("expand", "").lower() in {"1", "true"}
    recursive = query.get("recursive", "").lower() in {"1", "true"}
    start = f"{folder}/" if folder else ""
    if folder and not any(path.startswith(start) for path in commit.files):
        message = f"{folder} does not exist on {commit.oid!r}"
        raise Refusal(404, message, "EntryNotFound", X_Repo_Commit=commit.oid)
    state = state_of(request)
    listed: dict[str, dict[str, Any]] = {}
    for path, entry in commit.files.items():
        if not path.startswith(start):
            continue
        names = path[len(start) :].split("/")
        depths = range(1, len(names)) if recursive else range(1, min(2, len(names)))
        for depth in depths:
            above = start + "/".join(names[:depth])
            listed[above] = {"type": "directory", "oid": _folder_oid(commit, above), "size": 0}
            listed[above]["path"] = above
        if recursive or len(names) == 1:
            listed[path] = describing.tree_file(state, path, entry)
    items = [listed[path] for path in sorted(listed)]
    size = min(int(query.get("limit", EXPANDED_PAGE if expand else PAGE)), PAGE)
    if expand:
        start_at = int(query.get("cursor", "0"))
        _add_last_change(repo, commit, items[start_at : start_at + size])
    return page(request, list(items), size)


async def paths_info(request: Request) -> Response:
    """POST /api/models/R/paths-info/REV, a form or JSON."""
    repo = readable(request)
    commit = revision_of(request, repo)
    if request.headers.get("content-type", "").startswith("application/json"):
        body = await request.json()
        paths, expand = body["paths"], bool(body.get("expand"))
    else:
        form = parse_qs((await request.body()).decode())
        paths = form.get("paths", [])
        expand = form.get("expand", [""])[0].lower() in {"1", "true"}
    items = []
    for path in paths:
        if path in commit.files:
            items.append(describing.tree_file(state_of(request), path, commit.files[path]))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            oid = _folder_oid(commit, path)
            items.append({"type": "directory", "oid": oid, "size": 0, "path": path})
    if expand:
        _add_last_change(repo, commit, items)
    return JSONResponse(items)


async def refs(request: Request) -> Response:
    """GET /api/models/R/refs."""
    repo = readable(request)

    def said(start: str, named: dict[str, str]) -> list[dict[str, str]]:
        return [
            {
                "name": name if start != "refs/pr/" else start + name,
                "ref": start + name,
                "targetCommit": oid,
            }
            for name, oid in named.items()
        ]

    body = {
        "branches": said("refs/heads/", repo.branches),
        "tags": said("refs/tags/", repo.tags),
        "converts": [],
    }
    if request.query_params.get("include_prs") == "1":
        body["pullRequests"] = said("refs/pr/", repo.pulls)
    return JSONResponse(body)


async def commits(request: Request) -> Response:
    """GET /api/models/R/commits/REV, the newest first."""
    repo = readable(request)
    found = [describing.commit_said(commit) for commit in repo.history(revision_of(request, repo))]
    return page(request, list(found), min(int(request.query_params.get("limit", "50")), PAGE))


async def auth_check(request: Request) -> Response:
    """GET /api/models/R/auth-check."""
    state_of(request).users.check_gate(request, readable(request))
    return JSONResponse({})


def _expanded(said: dict[str, Any], expand: list[str]) -> dict[str, Any]:
    """Keep what was asked for, if anything was."""
    if not expand:
        return said
    return {name: said[name] for name in said if name in {"_id", "id", *expand}}


def _folder_oid(commit: Commit, folder: str) -> str:
    """Return an id that changes with what is in the folder."""
    inside = [
        f"{path} {entry.oid}"
        for path, entry in commit.files.items()
        if path.startswith(f"{folder}/")
    ]
    return hashlib.sha1("\n".join(inside).encode(), usedforsecurity=False).hexdigest()


def _add_last_change(repo: Repo, commit: Commit, items: list[dict[str, Any]]) -> None:
    """Say of each file and folder in which commit it changed last."""
    for item in items:
        item["lastCommit"] = describing.last_change(repo, commit, item["path"])
