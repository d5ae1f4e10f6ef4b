"""What was asked of the server, in the order in which it came."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Request:
    """One request and its answer; the numbers grow while the answer is on its way."""

    method: str
    path: str
    """With the query, as it stood on the wire."""
    headers: dict[str, str]
    """The request's, in lower case."""
    status: int = 0
    """0 until an answer began."""
    bytes_sent: int = 0
    """Of the answer's body."""
    bytes_received: int = 0
    """Of the request's body."""
    faults: list[str] = field(default_factory=list)
    """The kinds of the faults that struck it."""

    def __str__(self) -> str:
        """Return what a fault's `match` is held against: METHOD path."""
        return f"{self.method} {self.path}"
