"""What all routes share, and how they find the repo and commit that a path names."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse

from hubserver.repos import Commit, Repo, Repos
from hubserver.users import User, Users
from hubserver.wire import part
from hubserver.xet import Xet

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass
class State:
    """One Hub: its repos, its users, its address."""

    repos: Repos
    users: Users
    endpoint: str
    cdn: str
    """Where large files are; another port, as clients treat a redirect to their own host alike."""
    xet: Xet | None = None
    multipart: int | None = None
    """Large files above this many bytes are sent in parts of so many bytes."""
    secret: bytes = b"signs the addresses of large files"
    uploads: dict[str, list[str]] = field(default_factory=dict)
    """The parts of unfinished uploads, by upload id."""

    def seal(self, text: str) -> str:
        """Return the signature that makes an address good without a token."""
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()[:32]


def state_of(request: Request) -> State:
    """Return the Hub that was asked."""
    state = request.app.state.hub
    assert isinstance(state, State)
    return state


def repo_id_of(request: Request) -> str:
    """Return owner/name from the path."""
    return f"{part(request.path_params['owner'])}/{part(request.path_params['name'])}"


def kind_of(request: Request) -> str:
    """Return the kind of repo from the path: /api/models and /owner/name are models."""
    return KINDS[request.path_params.get("kinds", "models")]


def readable(request: Request) -> Repo:
    """Return the repo that the path names, if the caller may see it."""
    state = state_of(request)
    return state.users.readable(request, state.repos, repo_id_of(request), kind_of(request))


def writable(request: Request) -> tuple[Repo, User]:
    """Return the repo that the path names, and who may write to it."""
    repo = readable(request)
    return repo, state_of(request).users.check_write(request, repo.namespace)


def revision_of(request: Request, repo: Repo) -> Commit:
    """Return the commit that the path names."""
    return repo.resolve(part(request.path_params.get("revision", "main")))


def page(request: Request, items: list[object], size: int) -> JSONResponse:
    """Answer with one page, and a Link to the next (RFC 8288) while there is one."""
    start = int(request.query_params.get("cursor", "0"))
    headers = {"X-Total-Count": str(len(items))}
    if start + size < len(items):
        url = request.url.include_query_params(cursor=start + size)
        query = url.query
        endpoint = state_of(request).endpoint
        headers["Link"] = f'<{endpoint}{request.scope["raw_path"].decode()}?{query}>; rel="next"'
    return JSONResponse(items[start : start + size], headers=headers)
