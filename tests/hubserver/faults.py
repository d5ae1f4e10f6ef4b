"""Bad weather on request: what a fault is, and how it changes one exchange."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubserver.log import Request
from hubserver.wire import Line

Kind = Literal[
    "cut",
    "corrupt",
    "short",
    "etag",
    "status",
    "after_commit_500",
    "after_commit_drop",
    "race",
    "slow",
    "drop",
]


@dataclass
class Fault:
    """What happens to the next `times` requests that match, after `skip` that are let through.

    - `cut`: the line breaks after `at` bytes of the answer's body, of which the head had promised
      more; on a PUT, after `at` bytes of the request's body.
    - `corrupt`: byte `at` of the answer's body is wrong, its length right.
    - `short`: the answer is well formed, and ends after `at` bytes.
    - `etag`: ETag and X-Linked-Etag are those of other bytes.
    - `status`: the request is not handled; `status` and `headers` are the answer.
    - `after_commit_500`, `after_commit_drop`: the request is handled, and the answer to it is
      500, or a line that breaks.
    - `race`: someone else commits to the branch just before the request is handled.
    - `slow`: `seconds` pass before the request is handled; then `at` bytes go out a second, or all
      at once if `at` is 0.
    - `drop`: the line breaks, and the request is not handled.
    """

    match: str
    """A regular expression, searched for in "METHOD path?query"."""
    kind: Kind
    at: int = 0
    times: int = 1
    skip: int = 0
    status: int = 429
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def strikes(self, request: Request) -> bool:
        """Return whether the fault hits this request, and count it."""
        if self.times <= 0 or not re.search(self.match, str(request)):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Weather:
    """An application whose exchanges suffer the faults that are set."""

    def __init__(self, app: ASGIApp, faults: list[Fault], race: Any) -> None:
        self._app = app
        self._faults = faults
        self._race = race

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        entry: Request = scope["state"]["entry"]
        line: Line = scope["state"]["line"]
        for fault in [fault for fault in list(self._faults) if fault.strikes(entry)]:
            entry.faults.append(fault.kind)
            if fault.kind == "drop":
                line.drop()
                return
            if fault.kind == "status":
                await _drain(receive)
                await _answer(send, fault.status, fault.headers)
                return
            if fault.kind == "race":
                self._race(entry.path)
            elif fault.kind == "slow":
                await asyncio.sleep(fault.seconds)
                send = _paced(send, fault.at) if fault.at else send
            elif fault.kind == "cut" and entry.method == "PUT":
                receive = _receive_cut(receive, line, fault.at)
            elif fault.kind.startswith("after_commit"):
                await self._app(scope, receive, _nowhere)
                if fault.kind == "after_commit_drop":
                    line.drop()
                else:
                    await _answer(send, 500, {})
                return
            elif fault.kind == "etag":
                send = _wrong_etag(send)
            else:
                send = _body_changed(send, line, fault)
        await self._app(scope, receive, send)


async def _nowhere(message: Message) -> None:
    """Swallow an answer."""


async def _drain(receive: Receive) -> None:
    """Read a request to its end, so that its sender hears the answer."""
    while (message := await receive()).get("more_body"):
        if message["type"] == "http.disconnect":
            return


async def _answer(send: Send, status: int, headers: dict[str, str]) -> None:
    """Send a short answer."""
    body = b'{"error":"asked for by a test"}'
    raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _paced(send: Send, rate: int) -> Send:
    """Send at most `rate` bytes a second."""

    async def paced(message: Message) -> None:
        body = message.get("body", b"")
        step = max(rate // 20, 1)
        for start in range(0, len(body), step):
            more = start + step < len(body) or bool(message.get("more_body"))
            await send({**message, "body": body[start : start + step], "more_body": more})
            await asyncio.sleep(step / rate)
        if not body:
            await send(message)

    return paced


def _receive_cut(receive: Receive, line: Line, at: int) -> Receive:
    """Break the line once more than `at` bytes came in."""
    came = 0

    async def cut() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > at:
            line.drop()
            return {"type": "http.disconnect"}
        return message

    return cut


def _wrong_etag(send: Send) -> Send:
    """Name other bytes in ETag and X-Linked-Etag, in the same form."""

    async def wrong(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                (key, re.sub(rb"[0-9a-f]", b"0", value) if key in _ETAGS else value)
                for key, value in message["headers"]
            ]
        await send(message)

    return wrong


_ETAGS = {b"etag", b"x-linked-etag"}


def _body_changed(send: Send, line: Line, fault: Fault) -> Send:
    """Cut, corrupt or shorten the body at byte `fault.at`."""
    at = fault.at
    sent = 0

    async def changed(message: Message) -> None:
        nonlocal sent
        if message["type"] == "http.response.start":
            if fault.kind == "short":
                message["headers"] = [
                    (key, b"%d" % min(at, int(value)) if key == b"content-length" else value)
                    for key, value in message["headers"]
                ]
            await send(message)
            return
        body = message.get("body", b"")
        here = at - sent
        sent += len(body)
        if fault.kind == "corrupt":
            if 0 <= here < len(body):
                body = body[:here] + bytes([body[here] ^ 0x01]) + body[here + 1 :]
        elif here < 0:
            return  # what comes after the end
        elif here <= len(body) and (fault.kind == "cut" or here < len(body)):
            more = fault.kind == "cut"
            await send({**message, "body": body[:here], "more_body": more})
            if fault.kind == "cut":
                line.close()
            return
        await send({**message, "body": body})

    return changed
