"""The routes that change repos: create, delete, settings, commit, branches, tags."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hubserver.cards import judge
from hubserver.objects import Entry
from hubserver.repos import Commit, Repo, is_large
from hubserver.state import State, readable, state_of, writable
from hubserver.trouble import Refusal
from hubserver.users import User
from hubserver.wire import part

_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")


async def create(request: Request) -> Response:
    """POST /api/repos/create: 409 if it is there, 400 if the Hub would not have the name."""
    state, body = state_of(request), await request.json()
    user = state.users.signed_in(request)
    namespace, name = body.get("organization") or user.name, body["name"]
    state.users.check_write(request, namespace, "create a model under")
    if not _NAME.fullmatch(name) or name.endswith(".git"):
        raise Refusal(
            400,
            f"Invalid repo name: {namespace}/{name} - repo name includes an illegal character "
            "or form",
        )
    kind = body.get("type") or "model"
    private = body.get("visibility") == "private" or bool(body.get("private"))
    prefix = "" if kind == "model" else f"{kind}s/"
    url = f"{state.endpoint}/{prefix}{namespace}/{name}"
    if state.repos.find(f"{namespace}/{name}", kind):
        message = f"You already created this {kind} repo: {namespace}/{name}"
        return JSONResponse({"error": message, "url": url}, 409, {"X-Error-Message": message})
    repo = state.repos.create(f"{namespace}/{name}", kind, private=private)
    return JSONResponse({"url": url, "name": repo.id, "id": repo.created, "private": private})


async def delete(request: Request) -> Response:
    """DELETE /api/repos/delete."""
    state, body = state_of(request), await request.json()
    user = state.users.signed_in(request)
    repo_id = f"{body.get('organization') or user.name}/{body['name']}"
    repo = state.users.readable(request, state.repos, repo_id, body.get("type") or "model")
    state.users.check_write(request, repo.namespace)
    state.repos.delete(repo)
    return Response("OK", media_type="text/plain")


async def settings(request: Request) -> Response:
    """PUT /api/models/R/settings: visibility, private, gated."""
    repo, _ = writable(request)
    body = await request.json()
    if "visibility" in body:
        repo.private = body["visibility"] == "private"
    repo.private = bool(body.get("private", repo.private))
    repo.gated = body.get("gated", repo.gated)
    repo.save()
    return JSONResponse({"private": repo.private, "gated": repo.gated})


async def validate_yaml(request: Request) -> Response:
    """POST /api/validate-yaml: 400 where the Hub would not take the card."""
    body = await request.json()
    if body.get("repoType", "model") != "model":
        return JSONResponse({"errors": [], "warnings": []})
    errors, warnings = judge(body["content"])
    said = {
        "errors": [{"message": text} for text in errors],
        "warnings": [{"message": text} for text in warnings],
    }
    return JSONResponse(said, 400 if errors else 200)


async def preupload(request: Request) -> Response:
    """POST /api/models/R/preupload/REV: how each file is to be sent, and what is there now."""
    repo, _ = _contributor(request)
    head = repo.resolve(part(request.path_params["revision"]))
    listed = head.files.get(".gitignore")
    path = None if listed is None else state_of(request).repos.objects.path(listed.sha256)
    ignored = [] if path is None else path.read_text("utf-8").split()
    answers = []
    for file in (await request.json())["files"]:
        _check_path(file["path"])
        sample = base64.b64decode(file.get("sample", ""))
        large = is_large(file["path"], file["size"], sample)
        known = head.files.get(file["path"])
        said = {
            "path": file["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": any(fnmatch(file["path"], one) for one in ignored),
        }
        if known:
            said["oid"] = known.etag
        answers.append(said)
    return JSONResponse({"files": answers, "commitOid": head.oid})


async def commit(request: Request) -> Response:
    """POST /api/models/R/commit/REV, ndjson: all of it in one commit, or nothing."""
    state = state_of(request)
    repo, user = _contributor(request)
    create_pr = request.query_params.get("create_pr") == "1"
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    if header is None or not header.get("summary"):
        raise Refusal(400, "header: a commit needs a summary")
    with state.repos.lock:
        branch = part(request.path_params["revision"]).removeprefix("refs/heads/")
        head = repo.resolve(branch)
        if not create_pr and branch not in repo.branches and not branch.startswith("refs/pr/"):
            raise Refusal(400, f"{branch} is no branch")
        if header.get("parentCommit") not in {None, head.oid}:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        made = state.repos.commit(
            repo,
            branch,
            _changed(state, head, lines),
            header["summary"],
            description=header.get("description", ""),
            author=user.name,
            parent=head if create_pr else None,
        )
    prefix = f"{state.endpoint}/{'' if repo.kind == 'model' else repo.kind + 's/'}{repo.id}"
    said = {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{prefix}/commit/{made.oid}",
        "hookOutput": "",
    }
    if create_pr:
        said["pullRequestUrl"] = f"{prefix}/discussions/{len(repo.pulls)}"
    return JSONResponse(said)


async def make_branch(request: Request) -> Response:
    """POST /api/models/R/branch/B: 409 if it is there."""
    repo, _ = writable(request)
    name = part(request.path_params["branch"])
    body = json.loads(await request.body() or b"{}")
    if name in repo.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{name}")
    repo.branches[name] = repo.resolve(body.get("startingPoint") or "main").oid
    repo.save()
    return Response("OK", 201)


async def drop_branch(request: Request) -> Response:
    """DELETE /api/models/R/branch/B: 403 for main."""
    repo, _ = writable(request)
    name = part(request.path_params["branch"])
    if name == "main":
        raise Refusal(403, "Cannot delete refs/heads/main")
    if repo.branches.pop(name, None) is None:
        raise Refusal(404, f"Reference does not exist: refs/heads/{name}", "RevisionNotFound")
    repo.save()
    return Response("OK")


async def make_tag(request: Request) -> Response:
    """POST /api/models/R/tag/REV with the tag's name: 409 if it is there."""
    repo, _ = writable(request)
    body = await request.json()
    if body["tag"] in repo.tags:
        raise Refusal(409, f"Tag reference exists already: refs/tags/{body['tag']}")
    repo.tags[body["tag"]] = repo.resolve(part(request.path_params["revision"])).oid
    repo.save()
    return Response("OK", 201)


async def drop_tag(request: Request) -> Response:
    """DELETE /api/models/R/tag/T."""
    repo, _ = writable(request)
    name = part(request.path_params["revision"])
    if repo.tags.pop(name, None) is None:
        raise Refusal(404, f"Tag reference does not exist: refs/tags/{name}", "RevisionNotFound")
    repo.save()
    return Response("OK")


def _contributor(request: Request) -> tuple[Repo, User]:
    """Return repo and user: who may write, or with create_pr=1 whoever may see it."""
    if request.query_params.get("create_pr") != "1":
        return writable(request)
    repo = readable(request)
    user = state_of(request).users.signed_in(request)
    if not user.write:
        raise Refusal(403, f"Forbidden: your token has no write role: cannot write to {repo.id}")
    return repo, user


def _changed(state: State, head: Commit, lines: list[dict[str, Any]]) -> Mapping[str, Entry]:
    """Return the files after the changes that a commit asks for."""
    files = dict(head.files)
    for line in lines:
        if line["key"] == "header":
            continue
        change = _CHANGES.get(line["key"])
        if change is None:
            raise Refusal(400, f"{line['key']}: unknown operation")
        path = line["value"]["path"].removesuffix("/" if line["key"] == "deletedFolder" else "")
        _check_path(path)
        change(state, files, path, line["value"])
    for path in files:
        above = path.split("/")[:-1]
        if any("/".join(above[: depth + 1]) in files for depth in range(len(above))):
            raise Refusal(400, f"{path}: a folder of that name is a file")
    return files


def _add(state: State, files: dict[str, Entry], path: str, value: dict[str, Any]) -> None:
    """Put a regular file, whose bytes came with the commit."""
    content = value["content"]
    encoded = value.get("encoding", "utf-8") == "base64"
    data = base64.b64decode(content) if encoded else content.encode()
    if path == "README.md":
        _check_card(data)
    files[path] = state.repos.objects.entry(state.repos.objects.put(data)[0], lfs=False)


def _add_large(state: State, files: dict[str, Entry], path: str, value: dict[str, Any]) -> None:
    """Put a large file, whose bytes came before."""
    _check_uploaded(state, path, value)
    files[path] = state.repos.objects.entry(value["oid"], lfs=True)


def _delete(_state: State, files: dict[str, Entry], path: str, _value: dict[str, Any]) -> None:
    """Drop a file."""
    if files.pop(path, None) is None:
        raise Refusal(400, f"{path} does not exist: cannot delete it", "EntryNotFound")


def _delete_all(_state: State, files: dict[str, Entry], path: str, _value: dict[str, Any]) -> None:
    """Drop a folder."""
    gone = [name for name in files if name.startswith(f"{path}/")]
    if not gone:
        raise Refusal(400, f"{path} does not exist: cannot delete it", "EntryNotFound")
    for name in gone:
        del files[name]


_CHANGES: Mapping[str, Callable[[State, dict[str, Entry], str, dict[str, Any]], None]] = {
    "file": _add,
    "lfsFile": _add_large,
    "deletedFile": _delete,
    "deletedFolder": _delete_all,
}


def _check_uploaded(state: State, path: str, value: dict[str, Any]) -> None:
    """Refuse a large file whose bytes did not arrive, by LFS or by Xet."""
    sha256 = value["oid"]
    if sha256 not in state.repos.objects and not (state.xet and state.xet.adopt(sha256)):
        raise Refusal(
            400,
            "Your push was rejected because an LFS pointer pointed to a file that does not exist: "
            f"{path} - {sha256}",
        )
    size = state.repos.objects.path(sha256).stat().st_size
    if value.get("size", size) != size:
        raise Refusal(400, f"{path}: size {value['size']} is not that of the object, {size}")


def _check_card(data: bytes) -> None:
    """Refuse a card that the Hub would not take."""
    errors, _ = judge(data.decode("utf-8", "replace"))
    if errors:
        raise Refusal(400, f"Invalid metadata in README.md. {' '.join(errors)}")


def _check_path(path: str) -> None:
    """Refuse a path that leaves the repo or means git itself."""
    names = path.split("/")
    if not all(names) or any(name in {".", "..", ".git"} for name in names) or "\0" in path:
        raise Refusal(400, f"Invalid path: {path!r}")
