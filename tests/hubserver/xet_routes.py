"""The tokens with which a client speaks to the Xet store."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hubserver.state import readable, revision_of, state_of, writable
from hubserver.trouble import Refusal


async def token(request: Request) -> Response:
    """GET /api/models/R/xet-{read,write}-token/REV: in the body, and again in headers."""
    state = state_of(request)
    if state.xet is None:
        raise Refusal(404, "Xet is off")
    if request.path_params["access"] == "write":
        repo, _ = writable(request)
        address = state.xet.address()
    else:
        repo = readable(request)
        state.users.check_gate(request, repo)
        # A client keeps its token for the whole revision: all of it must be in that store.
        files = revision_of(request, repo).files.values()
        address = state.xet.address(entry.sha256 for entry in files if entry.lfs)
    expires = int(time.time()) + 3600
    body = {"accessToken": "xet", "exp": expires, "casUrl": address}
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": "xet",
        "X-Xet-Token-Expiration": str(expires),
    }
    return JSONResponse(body, headers=headers)
