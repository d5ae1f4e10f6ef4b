"""A base on a Hub in tests: putting it there, and what was asked of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hubserver import Hub
from hubserver.log import Request

REPO = "alice/base"


class Weights:
    """The weight files of a base, as they lie on the Hub and as they are asked for."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        paths = sorted(folder.glob("model*.safetensors"))
        self.hub = hub
        self.sizes = {path.name: path.stat().st_size for path in paths}
        self.names = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in paths}

    def address(self, name: str) -> str:
        """Return what is in the address of a file's bytes, and in its name on disk."""
        return next(sha256 for sha256, one in self.names.items() if one == name)

    def asked(self) -> list[Request]:
        """Return the requests for bytes of weight files."""
        return [one for one in self.hub.requests if "/cdn/" in one.path]

    def fetched(self) -> list[str]:
        """Return the files that were asked for to their end; of a header the end is named."""
        found = [one for one in self.asked() if one.headers.get("range", "-").endswith("-")]
        return [self.names[one.path.partition("?")[0].rpartition("/")[2]] for one in found]

    def bytes_of_headers(self) -> int:
        """Return the bytes that were sent for headers."""
        found = [one for one in self.asked() if not one.headers.get("range", "-").endswith("-")]
        return sum(one.bytes_sent for one in found)


def put(hub: Hub, folder: Path, repo: str = REPO) -> str:
    """Put a folder on the Hub as a repository; return the commit."""
    hub.create_repo(repo)
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    commit = hub.commit(repo, files)
    hub.requests.clear()
    return commit
