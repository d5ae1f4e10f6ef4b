"""The table of routes, and how a refusal becomes an answer."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hubserver import lfs, reading, resolving, writing, xet_routes
from hubserver.state import State
from hubserver.trouble import Refusal

API = "/api/{kinds}/{owner}/{name}"

ROUTES = [
    Route("/api/whoami-v2", reading.whoami),
    Route("/api/agent-harnesses", reading.harnesses),
    Route("/api/repos/create", writing.create, methods=["POST"]),
    Route("/api/repos/delete", writing.delete, methods=["DELETE"]),
    Route("/api/validate-yaml", writing.validate_yaml, methods=["POST"]),
    Route("/api/{kinds}", reading.models),
    Route(API, reading.info),
    Route(API + "/revision/{revision}", reading.info),
    Route(API + "/tree/{revision}", reading.tree),
    Route(API + "/tree/{revision}/{path:path}", reading.tree),
    Route(API + "/paths-info/{revision}", reading.paths_info, methods=["POST"]),
    Route(API + "/refs", reading.refs),
    Route(API + "/commits/{revision}", reading.commits),
    Route(API + "/auth-check", reading.auth_check),
    Route(API + "/preupload/{revision}", writing.preupload, methods=["POST"]),
    Route(API + "/commit/{revision}", writing.commit, methods=["POST"]),
    Route(API + "/branch/{branch}", writing.make_branch, methods=["POST"]),
    Route(API + "/branch/{branch}", writing.drop_branch, methods=["DELETE"]),
    Route(API + "/tag/{revision}", writing.make_tag, methods=["POST"]),
    Route(API + "/tag/{revision}", writing.drop_tag, methods=["DELETE"]),
    Route(API + "/settings", writing.settings, methods=["PUT"]),
    Route(API + "/xet-{access}-token/{revision}", xet_routes.token),
    Route("/cdn/{kinds}/{owner}/{name}/{sha256}", resolving.cdn),
    Route("/lfs/{oid}", lfs.put, methods=["PUT"]),
    Route("/lfs/{oid}/{upload}", lfs.complete, methods=["POST"]),
    Route("/lfs/{oid}/{upload}/{number}", lfs.put_part, methods=["PUT"]),
    Route("/{owner}/{name}.git/info/lfs/objects/batch", lfs.batch, methods=["POST"]),
    Route("/{owner}/{name}.git/info/lfs/verify", lfs.verify, methods=["POST"]),
    Route("/{owner}/{name}/resolve/{revision}/{path:path}", resolving.resolve),
    Route("/{kinds}/{owner}/{name}/resolve/{revision}/{path:path}", resolving.resolve),
]


def application(state: State) -> Starlette:
    """Return the Hub's routes as an application."""
    app = Starlette(routes=ROUTES, exception_handlers={Refusal: _refused})
    app.state.hub = state
    return app


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Answer with a refusal, in the headers and the body that clients read."""
    assert isinstance(error, Refusal)
    return JSONResponse({"error": str(error)}, error.status, error.headers)
