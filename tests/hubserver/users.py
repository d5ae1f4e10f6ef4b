"""Who asks, and what they may."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from starlette.requests import Request

from hubserver.repos import Repo, Repos
from hubserver.trouble import Refusal, no_repo


@dataclass(frozen=True)
class User:
    """A user with one token."""

    name: str
    token: str
    write: bool


class Users:
    """The users of a Hub. A namespace that is no user's name is an organisation of them all."""

    def __init__(self) -> None:
        self._by_token: dict[str, User] = {}

    def add(self, user: User) -> None:
        """Let a token in."""
        self._by_token[user.token] = user

    def names(self) -> list[str]:
        """Return the names of all users."""
        return [user.name for user in self._by_token.values()]

    def caller(self, request: Request) -> User | None:
        """Return who asks, None without a token; `Refusal` 401 if the token is nobody's."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if not value:
            return None
        if scheme.lower() == "basic":  # git-lfs: the token is the password
            try:
                value = base64.b64decode(value).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                value = ""
        user = self._by_token.get(value)
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def signed_in(self, request: Request) -> User:
        """Return who asks; `Refusal` 401 if nobody."""
        user = self.caller(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return user

    def owns(self, user: User | None, namespace: str) -> bool:
        """Return whether a namespace is the user's own, or an organisation's."""
        return user is not None and (user.name == namespace or namespace not in self.names())

    def readable(self, request: Request, repos: Repos, repo_id: str, kind: str) -> Repo:
        """Return a repo that the caller may see."""
        user = self.caller(request)
        repo = repos.find(repo_id, kind)
        if repo is None or (repo.private and not self.owns(user, repo.namespace)):
            raise no_repo(anonymous=user is None)
        return repo

    def check_gate(self, request: Request, repo: Repo) -> None:
        """Refuse the files of a gated repo to those who were not let in."""
        user = self.caller(request)
        if not repo.gated or self.owns(user, repo.namespace):
            return
        if user is None:
            message = (
                f"Access to model {repo.id} is restricted. You must have access to it and be "
                "authenticated to access it. Please log in."
            )
            raise Refusal(401, message, "GatedRepo")
        if user.name not in repo.granted:
            message = (
                f"Access to model {repo.id} is restricted and you are not in the authorized list."
                f" Visit https://huggingface.co/{repo.id} to ask for access."
            )
            raise Refusal(403, message, "GatedRepo")

    def check_write(self, request: Request, namespace: str, what: str = "write to") -> User:
        """Return who asks if they may write in a namespace; else `Refusal` 401 or 403."""
        user = self.signed_in(request)
        if not user.write:
            message = f"Forbidden: your token has no write role: cannot {what} {namespace}"
            raise Refusal(403, message)
        if not self.owns(user, namespace):
            raise Refusal(403, f"You don't have the rights to {what} the namespace {namespace!r}")
        return user
