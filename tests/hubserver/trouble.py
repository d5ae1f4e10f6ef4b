"""The refusals of the Hub, with the headers by which clients tell them apart."""

from __future__ import annotations


class Refusal(Exception):
    """An answer that is no success: `code` goes into X-Error-Code, where clients read it."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.headers["X-Error-Message"] = message
        if code:
            self.headers["X-Error-Code"] = code


def no_repo(*, anonymous: bool) -> Refusal:
    """Return the answer for a repo that is missing, or hidden from the caller.

    Without a token the Hub answers 401 where it would answer 404 with one
    (huggingface_hub 2.4.0, utils/_http.py, `hf_raise_for_status`).
    """
    if anonymous:
        return Refusal(401, "Invalid username or password.", "RepoNotFound")
    return Refusal(404, "Repository not found", "RepoNotFound")


def no_revision(revision: str) -> Refusal:
    """Return the answer for a revision that no branch, tag or commit has."""
    return Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
