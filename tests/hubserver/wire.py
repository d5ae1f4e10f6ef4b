"""The connection under a request: kept in reach, so that a fault can break it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from hubserver.log import Request

logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # broken lines are our business


class Line:
    """One client's connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def drop(self) -> None:
        """Break the line at once, with nothing more said."""
        self._transport.abort()

    def close(self) -> None:
        """Break the line once what was said has gone out."""
        self._transport.close()


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, that shows the application its connection as scope state "line"."""

    def connection_made(self, transport: Any) -> None:
        """Begin a connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "line": Line(transport)}


class Recorder:
    """An application that writes down each request, and takes its path as it stood on the wire.

    Starlette matches the decoded path, in which refs%2Fpr%2F1 is no longer one part: the routes
    see the raw path, and `part` decodes what they found.
    """

    def __init__(self, app: ASGIApp, requests: list[Request]) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        raw = scope["raw_path"].decode("ascii")
        query = scope["query_string"].decode("ascii")
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        entry = Request(scope["method"], f"{raw}?{query}" if query else raw, headers)
        self._requests.append(entry)
        scope["path"] = raw
        scope["state"]["entry"] = entry

        async def receiving() -> Message:
            message = await receive()
            entry.bytes_received += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            elif scope["method"] != "HEAD":
                entry.bytes_sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        except ClientDisconnect:
            pass  # a client may be killed, and a line may break
        except Exception:
            traceback.print_exc()  # a fault of this server itself: pytest shows it with the test
            raise


def part(value: str) -> str:
    """Return a part of the path as it was meant."""
    return unquote(value)
