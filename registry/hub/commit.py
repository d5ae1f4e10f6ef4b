"""One commit on the Hub: on the parent that was looked at, and known to be there when it returns.

huggingface_hub sends a commit's one request once (hf_api.py, ``create_commit``): an
answer that is lost after the Hub applied it looks like a failure. So the head is read
again, and what is there is compared with what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adreg.registry.errors import (
    HubBusy,
    HubConflict,
    HubError,
    HubOffline,
    PushRefused,
    RemoteChanged,
)
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.repository import Head, commits, look, pull_requests
from adreg.registry.hub.sending import send
from adreg.registry.hub.upload import LocalFile, RemoteFile
from adreg.registry.progress import Progress

Tree = Mapping[str, RemoteFile]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A commit that is to be: files, words, and whether it is offered as a pull request."""

    reference: str
    files: tuple[LocalFile, ...]
    message: str
    description: str = ""
    create_pr: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that is there; ``revision`` is its branch, or ``refs/pr/N``."""

    commit: str
    revision: str
    url: str
    pull_request: str | None = None


def missing(files: Sequence[LocalFile], tree: Tree) -> tuple[LocalFile, ...]:
    """Return the files that a tree does not have, or has with another content."""
    return tuple(file for file in files if file.name not in tree or not tree[file.name].holds(file))


def changed(before: Tree, after: Tree) -> tuple[str, ...]:
    """Return the names of the files that differ between two trees."""
    names = sorted({*before, *after})
    return tuple(n for n in names if n not in before or not before[n].same(after.get(n)))


def commit(client: HubClient, head: Head, wanted: Wanted, progress: Progress) -> Committed:
    """Upload and commit files on top of ``head``, all or nothing.

    Raises RemoteChanged if the branch moved meanwhile, PushRefused if the Hub left a file
    out, Damaged, and HubError.
    """
    offered = pull_requests(client, head.repo) if wanted.create_pr else {}
    failures = 0
    while True:
        try:
            oid, revision = send(
                client,
                head,
                wanted.files,
                (wanted.message, wanted.description),
                progress,
                create_pr=wanted.create_pr,
            )
        except (HubBusy, HubOffline, HubConflict) as error:  # noqa: PERF203  # it waits too
            found = _found(client, head, wanted, offered, error)
            if found is not None:
                return found
            failures += 1
            client.pause(error, failures)
        else:
            made = _committed(client, head.repo, revision or head.revision, oid)
            _check(client, made, wanted, head.repo)
            return made


def _found(
    client: HubClient, head: Head, wanted: Wanted, offered: Mapping[str, str], error: HubError
) -> Committed | None:
    """Return the commit of ours that is there though it was not acknowledged, None for none.

    Raises RemoteChanged if the branch has somebody else's.
    """
    try:
        if wanted.create_pr:
            return _offered(client, head.repo, wanted, offered)
        now = look(client, head.repo, head.revision)
        if now.commit == head.commit:
            return None
        if not missing(wanted.files, now.files):
            return at(client, now)
        raise moved(client, head, now, {file.name for file in wanted.files}, during=True)
    except HubError as again:
        raise HubBusy(
            head.name,
            f"{error.reason}; whether the commit was made could not be asked: {again.reason}",
            "Push again: it looks first, and sends nothing twice.",
            again.status,
        ) from error


def _offered(
    client: HubClient, repo: str, wanted: Wanted, before: Mapping[str, str]
) -> Committed | None:
    for revision, oid in pull_requests(client, repo).items():
        if revision not in before and not missing(wanted.files, look(client, repo, oid).files):
            return _committed(client, repo, revision, oid)
    return None


def moved(
    client: HubClient, before: Head, now: Head, ours: set[str], *, during: bool = False
) -> RemoteChanged:
    """Return the error that tells whose commits moved a branch, and what of ours they changed."""
    theirs = commits(client, now.repo, now.commit, until=before.commit)
    newest = theirs[0] if theirs else None
    mine = tuple(name for name in changed(before.files, now.files) if name in ours)
    return RemoteChanged(
        repo=now.repo,
        revision=now.revision,
        commit=now.commit,
        authors=tuple(dict.fromkeys(name for one in theirs for name in one.authors)),
        at="" if newest is None else newest.at,
        title="" if newest is None else newest.title,
        files=mine,
        during=during,
    )


def _check(client: HubClient, made: Committed, wanted: Wanted, repo: str) -> None:
    """Raise PushRefused unless the commit has every file, as it was sent."""
    there = look(client, repo, made.commit)
    if lacking := missing(wanted.files, there.files):
        raise PushRefused(
            wanted.reference,
            repo,
            f"commit {made.commit[:12]} lacks {', '.join(file.name for file in lacking)}",
            "A .gitignore there may leave them out: mend it on the Hub, and push again.",
        )


def at(client: HubClient, head: Head) -> Committed:
    """Return the commit of a branch that has all that was wanted."""
    return _committed(client, head.repo, head.revision, head.commit)


def _committed(client: HubClient, repo: str, revision: str, oid: str) -> Committed:
    made = Committed(oid, revision, f"{client.site}/{repo}/commit/{oid}")
    if not revision.startswith("refs/pr/"):
        return made
    number = revision.rpartition("/")[2]
    return replace(made, pull_request=f"{client.site}/{repo}/discussions/{number}")
