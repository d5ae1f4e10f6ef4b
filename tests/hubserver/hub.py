"""A Hub that runs: started, filled and questioned by tests."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

import uvicorn

from hubserver.app import application
from hubserver.faults import Fault, Weather
from hubserver.log import Request
from hubserver.objects import Entry
from hubserver.repos import Commit, Repo, Repos, is_large
from hubserver.state import State
from hubserver.users import User, Users
from hubserver.wire import Protocol, Recorder
from hubserver.xet import Xet

_COMMIT = re.compile(r"/api/(\w+)s/([^/]+/[^/]+)/commit/([^/?]+)")


class Hub:
    """A Hub on loopback, with its storage in a folder; it serves until `stop`.

    With `xet`, large files also go by Xet's local store; with `multipart`, large files above so
    many bytes are taken in parts of so many bytes. A folder that an earlier Hub filled is served
    again.
    """

    def __init__(self, root: Path, *, xet: bool = False, multipart: int | None = None) -> None:
        self.requests: list[Request] = []
        """What was asked, in order; `clear()` it as you like."""
        self.faults: list[Fault] = []
        """What goes wrong; see `Fault`."""
        self.root = root
        self._repos = Repos(root)
        self._users = Users()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = _address(self._socket)
        self._cdn_socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.cdn = _address(self._cdn_socket)
        store = Xet(root / "xet", self._repos.objects) if xet else None
        state = State(self._repos, self._users, self.endpoint, self.cdn, store, multipart)
        app = Recorder(Weather(application(state), self.faults, self._race), self.requests)
        config = uvicorn.Config(
            app, http=Protocol, ws="none", lifespan="off", loop="asyncio", log_config=None
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [self._socket, self._cdn_socket]},
            daemon=True,
        )
        self._thread.start()

    def __enter__(self) -> Hub:  # noqa: PYI034  (Self is Python 3.11's)
        """Return the Hub."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Break all lines and end; the storage stays."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)
        self._socket.close()
        self._cdn_socket.close()

    def add_user(self, name: str, token: str, write: bool = True) -> None:  # noqa: FBT002
        """Let a token in. A namespace that is no user's name is an organisation of all users."""
        self._users.add(User(name, token, write))

    def create_repo(
        self,
        repo_id: str,
        private: bool = False,  # noqa: FBT002
        gated: bool | str = False,  # noqa: FBT002
        repo_type: str = "model",
    ) -> str:
        """Make a repo, with .gitattributes in it as the Hub does; return its first commit."""
        self._repos.create(repo_id, repo_type, private=private, gated=gated)
        return self.head(repo_id, repo_type=repo_type)

    def grant(self, repo_id: str, user: str) -> None:
        """Let a user into a gated repo."""
        repo = self._repo(repo_id)
        repo.granted.append(user)
        repo.save()

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path],
        message: str = "Change by the test",
        branch: str = "main",
        delete: Iterable[str] = (),
        *,
        repo_type: str = "model",
    ) -> str:
        """Put files (bytes, or copies of files) on a branch; return the commit.

        Nothing is checked: also what the Hub would refuse from a client can be put there. A branch
        that is new starts at main.
        """
        repo = self._repo(repo_id, repo_type)
        with self._repos.lock:
            at = branch if branch in repo.branches or branch.startswith("refs/") else "main"
            changed: dict[str, Entry] = dict(repo.resolve(at).files)
            for path in delete:
                del changed[path]
            for path, data in files.items():
                sha256, size = self._repos.objects.put(data)
                sample = data[:512] if isinstance(data, bytes) else b""
                large = is_large(path, size, sample)
                changed[path] = self._repos.objects.entry(sha256, lfs=large)
            repo.branches.setdefault(branch, repo.branches["main"])
            return self._repos.commit(repo, branch, changed, message or "Change").oid

    def tag(self, repo_id: str, name: str, revision: str = "main") -> None:
        """Give a commit a name; a tag that is there moves."""
        repo = self._repo(repo_id)
        repo.tags[name] = repo.resolve(revision).oid
        repo.save()

    def head(self, repo_id: str, branch: str = "main", *, repo_type: str = "model") -> str:
        """Return the commit that a branch, tag or ref is at."""
        return self._repo(repo_id, repo_type).resolve(branch).oid

    def commits(self, repo_id: str, branch: str = "main") -> list[Commit]:
        """Return the history of a branch, the newest first."""
        repo = self._repo(repo_id)
        return list(repo.history(repo.resolve(branch)))

    def files(
        self, repo_id: str, revision: str = "main", *, repo_type: str = "model"
    ) -> dict[str, bytes | Path]:
        """Return all files of a commit: bytes of the regular ones, paths to the large ones."""
        objects = self._repos.objects
        found = self._repo(repo_id, repo_type).resolve(revision).files
        return {
            path: objects.path(entry.sha256)
            if entry.lfs
            else objects.path(entry.sha256).read_bytes()
            for path, entry in found.items()
        }

    def exists(self, repo_id: str, repo_type: str = "model") -> bool:
        """Return whether there is such a repo."""
        return self._repos.find(repo_id, repo_type) is not None

    def is_private(self, repo_id: str) -> bool:
        """Return whether a repo is private."""
        return self._repo(repo_id).private

    def _repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        """Return a repo that must be there."""
        repo = self._repos.find(repo_id, repo_type)
        assert repo is not None, f"{repo_id} is not there"
        return repo

    def _race(self, path: str) -> None:
        """Be someone else who commits to the branch that a commit is meant for."""
        aim = _COMMIT.match(path)
        assert aim, f"a race is for commits, not for {path}"
        self.commit(
            aim[2],
            {"race.txt": f"{len(self.requests)}\n".encode()},
            "Someone else was first",
            unquote(aim[3]),
            repo_type=aim[1],
        )


def _address(listening: socket.socket) -> str:
    """Return the address at which a socket listens."""
    return f"http://127.0.0.1:{listening.getsockname()[1]}"
