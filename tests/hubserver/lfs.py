"""Large files by git-lfs: batch, whole or in parts, verify (git-lfs docs/api/batch.md)."""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hubserver.objects import pieces
from hubserver.repos import Repo
from hubserver.resolving import VALID
from hubserver.state import State, readable, state_of, writable
from hubserver.trouble import Refusal

MEDIA = "application/vnd.git-lfs+json"
_OID = re.compile("[0-9a-f]{64}")


async def batch(request: Request) -> Response:
    """POST /R.git/info/lfs/objects/batch: no actions for what is there already."""
    state, body = state_of(request), json.loads(await request.body())
    upload = body["operation"] == "upload"
    repo = writable(request)[0] if upload else readable(request)
    if not upload:
        state.users.check_gate(request, repo)
    parts = "multipart" in body.get("transfers", ["basic"])
    objects = []
    for wanted in body["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        said: dict[str, Any] = {"oid": oid, "size": size}
        if not _OID.fullmatch(oid):
            said["error"] = {"code": 422, "message": "the oid is no sha256"}
        elif upload:
            if oid not in state.repos.objects:
                said["actions"] = _upload(state, repo, oid, size, parts=parts)
        elif oid in state.repos.objects:
            expires = int(time.time()) + VALID
            address = f"/cdn/models/{repo.id}/{oid}"
            query = f"Expires={expires}&Signature={state.seal(f'{address}:{expires}')}"
            href = f"{state.cdn}{address}?{query}"
            said["actions"] = {"download": {"href": href, "expires_in": VALID}}
        else:
            said["error"] = {"code": 404, "message": "Object does not exist"}
        objects.append(said)
    split = any("chunk_size" in _header(said) for said in objects)
    answer = {"transfer": "multipart" if split else "basic", "objects": objects}
    return JSONResponse(answer, media_type=MEDIA)


async def put(request: Request) -> Response:
    """PUT /lfs/SHA256: the whole file; kept if it has that digest."""
    state, oid = state_of(request), _sealed(request)
    with state.repos.objects.writer() as writer:
        async for piece in request.stream():
            writer.write(piece)
        if writer.sha256 != oid:
            raise Refusal(400, f"the bytes have the digest {writer.sha256}")
        writer.commit()
    return Response(headers={"ETag": f'"{oid[:32]}"'})


async def put_part(request: Request) -> Response:
    """PUT /lfs/SHA256/UPLOAD/N: one part of a file."""
    state = state_of(request)
    _sealed(request)
    upload, number = request.path_params["upload"], request.path_params["number"]
    if upload not in state.uploads:
        raise Refusal(404, "NoSuchUpload")
    with state.repos.objects.writer() as writer:
        async for piece in request.stream():
            writer.write(piece)
        sha256, _ = writer.commit()
    state.uploads[upload][int(number) - 1] = sha256
    return Response(headers={"ETag": f'"{sha256[:32]}"'})


async def complete(request: Request) -> Response:
    """POST /lfs/SHA256/UPLOAD: join the parts; kept if the whole has that digest."""
    state, oid = state_of(request), _sealed(request)
    parts = state.uploads.get(request.path_params["upload"])
    if parts is None:
        raise Refusal(404, "NoSuchUpload")
    told = [part["etag"].strip('"') for part in (await request.json())["parts"]]
    if told != [sha256[:32] for sha256 in parts]:
        raise Refusal(400, "InvalidPart")
    with state.repos.objects.writer() as writer:
        for sha256 in parts:
            for piece in pieces(state.repos.objects.path(sha256)):
                writer.write(piece)
        if writer.sha256 != oid:
            raise Refusal(400, f"the bytes have the digest {writer.sha256}")
        writer.commit()
    for sha256 in parts:
        if sha256 != oid:
            state.repos.objects.path(sha256).unlink(missing_ok=True)
    del state.uploads[request.path_params["upload"]]
    return JSONResponse({"success": True})


async def verify(request: Request) -> Response:
    """POST /R.git/info/lfs/verify: 404 if the object did not arrive whole."""
    writable(request)
    state, body = state_of(request), json.loads(await request.body())
    path = state.repos.objects.path(body["oid"])
    if not path.is_file() or path.stat().st_size != body["size"]:
        raise Refusal(404, "Object does not exist")
    return JSONResponse({"success": True})


def _upload(state: State, repo: Repo, oid: str, size: int, *, parts: bool) -> dict[str, Any]:
    """Say where the bytes go, whole or in parts, and where to ask whether they came."""
    expires = int(time.time()) + VALID
    query = f"Expires={expires}&Signature={state.seal(f'/lfs/{oid}:{expires}')}"
    verify = {"href": f"{state.endpoint}/{repo.id}.git/info/lfs/verify", "header": {}}
    where: dict[str, Any] = {"href": f"{state.cdn}/lfs/{oid}?{query}", "expires_in": VALID}
    if parts and state.multipart and size > state.multipart:
        upload = secrets.token_hex(8)
        count = math.ceil(size / state.multipart)
        state.uploads[upload] = [""] * count
        href = f"{state.endpoint}/lfs/{oid}/{upload}"
        where = {"href": f"{href}?{query}", "header": {"chunk_size": str(state.multipart)}}
        for number in range(1, count + 1):
            where["header"][f"{number:05}"] = f"{href}/{number}?{query}"
    return {"upload": where, "verify": verify}


def _header(said: dict[str, Any]) -> dict[str, str]:
    """Return the header of an upload action, empty if there is none."""
    header: dict[str, str] = said.get("actions", {}).get("upload", {}).get("header", {})
    return header


def _sealed(request: Request) -> str:
    """Return the digest in an address that we gave out; `Refusal` 403 for another's."""
    query, oid = request.query_params, request.path_params["oid"]
    expires = query.get("Expires", "0")
    seal = state_of(request).seal(f"/lfs/{oid}:{expires}")
    if query.get("Signature") != seal or int(expires) < time.time():
        raise Refusal(403, "AccessDenied")
    return str(oid)
