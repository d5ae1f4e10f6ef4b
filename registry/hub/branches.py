"""Making repositories, branches and tags."""

from __future__ import annotations

from collections.abc import Callable

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported lazily

from adreg.registry.errors import (
    CardRefused,
    HubError,
    HubNoAccess,
    NameRefused,
    PushRefused,
    UnknownRepo,
)
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.repository import commit_of_tag


def check_repo_name(repo: str) -> None:
    """Raise NameRefused for what is not OWNER/REPO by the rules of the Hub's client."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise NameRefused("the repository", repo, reason) from error
    if repo.count("/") != 1:
        raise NameRefused("the repository", repo, "it is not OWNER/REPO")


def create_repo(client: HubClient, repo: str, *, private: bool) -> None:
    """Make a repository for a model; one that is there by now is left as it is.

    Raises HubNoAccess without a token that may, HubError with the Hub's words for a name
    that it refuses.
    """
    try:
        _tried(
            client,
            repo,
            lambda: client.api.create_repo(repo, private=private or None, exist_ok=True),
        )
    except UnknownRepo as error:
        advice = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
        raise HubNoAccess(repo, "it is not there, and may not be made", advice, 401) from error
    except HubError as error:
        if error.status == 400 and not error.advice:
            error.advice = "Choose another name for the repository."
        raise


def create(client: HubClient, repo: str, branch: str, commit: str) -> None:
    """Make a branch at a commit; one that is there by now is left as it is."""
    _tried(
        client,
        f"{repo}@{branch}",
        lambda: client.api.create_branch(repo, branch=branch, revision=commit, exist_ok=True),
    )


def tag(client: HubClient, reference: str, repo: str, name: str, commit: str) -> None:
    """Let an annotated tag name a commit; raise PushRefused if it names another one."""

    def make() -> None:
        message = f"adreg push {reference}"
        client.api.create_tag(repo, tag=name, tag_message=message, revision=commit, exist_ok=True)

    there = commit_of_tag(client, repo, name)
    if there is None:
        _tried(client, f"{repo}@{name}", make)
        there = commit_of_tag(client, repo, name)  # somebody may have been faster
    if there != commit:
        raise taken(reference, repo, name, there or "nothing")


def taken(reference: str, repo: str, name: str, commit: str) -> PushRefused:
    """Return the error for a tag that names another commit."""
    return PushRefused(
        reference,
        repo,
        f"its tag {name} names commit {commit[:12]} already",
        "Choose another --tag, or delete that one on the Hub.",
    )


def check_card(client: HubClient, repo: str, text: str) -> None:
    """Raise CardRefused with the Hub's reasons for a README whose metadata it does not take."""
    answer = client.request(
        "POST",
        "api/validate-yaml",
        target=repo,
        json={"repoType": "model", "content": text},
        allowed=frozenset({400}),
    )
    try:
        errors = [str(one["message"]) for one in answer.json().get("errors", ())]
    except (ValueError, TypeError, KeyError, AttributeError):
        errors = [] if answer.status_code == 200 else [f"status {answer.status_code}"]
    if errors:
        raise CardRefused(
            f"the Hub does not take its metadata: {'; '.join(errors)}",
            "Give --license and --base-model as the Hub writes them, or mend README.md there.",
        )


def _tried(client: HubClient, target: str, call: Callable[[], object]) -> None:
    """Call until it works, waiting as the client does; only for what may be done twice."""
    failures = 0
    while True:
        try:
            with client.guarded(target):
                call()
        except HubError as error:  # noqa: PERF203  # it waits in between
            failures += 1
            client.pause(error, failures)
        else:
            return
