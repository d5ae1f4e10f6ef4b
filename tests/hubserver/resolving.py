"""The routes that give the bytes of files: resolve, and the CDN behind it."""

from __future__ import annotations

import time
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from hubserver.sending import FileAnswer
from hubserver.state import readable, revision_of, state_of
from hubserver.trouble import Refusal
from hubserver.wire import part

VALID = 3600


async def resolve(request: Request) -> Response:
    """GET and HEAD /R/resolve/REV/PATH: a small file's bytes, a large file's address."""
    repo = readable(request)
    state = state_of(request)
    state.users.check_gate(request, repo)
    commit = revision_of(request, repo)
    path = part(request.path_params["path"])
    entry = commit.files.get(path)
    if entry is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
    name = path.rsplit("/", 1)[-1]
    headers = {
        "X-Repo-Commit": commit.oid,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}",
        "Access-Control-Expose-Headers": "X-Repo-Commit,X-Linked-Size,X-Linked-ETag,X-Xet-Hash",
    }
    if not entry.lfs:
        file = state.repos.objects.path(entry.sha256)
        return FileAnswer(request, file, entry.etag, headers)
    headers |= {
        "X-Linked-Size": str(entry.size),
        "X-Linked-Etag": f'"{entry.sha256}"',
        "ETag": f'"{entry.sha256}"',
        "Accept-Ranges": "bytes",
    }
    if state.xet:
        route = f"{state.endpoint}/api/{repo.kind}s/{repo.id}/xet-read-token/{commit.oid}"
        xet_hash = state.xet.hash_of(entry.sha256)
        headers |= {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": route}
        headers["Link"] = f'<{route}>; rel="xet-auth"'
    expires = int(time.time()) + VALID
    address = f"/cdn/{repo.kind}s/{repo.id}/{entry.sha256}"
    query = f"Expires={expires}&Signature={state.seal(f'{address}:{expires}')}"
    return RedirectResponse(f"{state.cdn}{address}?{query}", 302, headers)


async def cdn(request: Request) -> Response:
    """GET and HEAD /cdn/models/R/SHA256: the bytes of a large file, for who has the address.

    The ETag is the CDN's own, as behind the Hub, where it is no sha256 of the file.
    """
    state, query = state_of(request), request.query_params
    expires = query.get("Expires", "0")
    seal = state.seal(f"{request.scope['path']}:{expires}")
    if query.get("Signature") != seal or int(expires) < time.time():
        raise Refusal(403, "AccessDenied")
    sha256 = request.path_params["sha256"]
    if sha256 not in state.repos.objects:
        raise Refusal(404, "NoSuchKey")
    return FileAnswer(request, state.repos.objects.path(sha256), f"{sha256[:32]}-1")
