"""Files as answers: whole or a range, with conditions, in pieces from disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hubserver.objects import PIECE

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class FileAnswer(Response):
    """A file, as RFC 9110 wants it: Range, If-Range and If-None-Match are honoured."""

    def __init__(
        self, request: Request, path: Path, etag: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._path = path
        size = path.stat().st_size
        self._start, self._end = 0, size
        quoted = f'"{etag}"'
        status = 200
        extra = {"Accept-Ranges": "bytes", "ETag": quoted, **(headers or {})}
        wanted = _RANGE.fullmatch(request.headers.get("range", ""))
        if request.headers.get("if-none-match") == quoted:
            status, self._end = 304, 0
        elif (
            wanted and wanted[0] != "bytes=-" and request.headers.get("if-range", quoted) == quoted
        ):
            status = 206
            self._start, self._end = _bounds(wanted[1], wanted[2], size)
            extra["Content-Range"] = f"bytes {self._start}-{self._end - 1}/{size}"
            if self._start >= self._end:
                status, self._end = 416, self._start
                extra["Content-Range"] = f"bytes */{size}"
        if status != 304:
            extra["Content-Length"] = str(self._end - self._start)
        super().__init__(status_code=status, headers=extra, media_type="application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the head, then the bytes a mebibyte at a time."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        left = 0 if scope["method"] == "HEAD" else self._end - self._start
        if left:
            with self._path.open("rb", buffering=0) as file:
                file.seek(self._start)
                while left > 0:
                    piece = file.read(min(PIECE, left))
                    left -= len(piece)
                    await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
        else:
            await send({"type": "http.response.body", "body": b""})


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Return start and end (one past) of a single range; an empty one cannot be satisfied."""
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size
