"""The copies on the Hub that the catalog knows of, and whether they are still what they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from adreg.registry.adapters.card import CARD
from adreg.registry.catalog import models, remotes, versions
from adreg.registry.catalog.records import Remote, VersionKey
from adreg.registry.digest import FileDigest
from adreg.registry.errors import HubError, HubNotFound, HubOffline
from adreg.registry.hub import repository
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.commit import moved
from adreg.registry.hub.repository import Head
from adreg.registry.hub.upload import LocalFile, RemoteFile
from adreg.registry.ops import resolve
from adreg.registry.ops.context import Context

State = Literal["same", "changed", "gone", "offline", "unknown"]


@dataclass(frozen=True, slots=True)
class KnownRemote:
    """A copy of a version on the Hub."""

    key: VersionKey
    remote: Remote


@dataclass(frozen=True, slots=True)
class CheckedRemote:
    """What became of a copy; ``files`` are those that differ, ``reason`` tells of all but same.

    ``commit``, ``by`` and ``when`` are of what is there now, where it was changed.
    """

    key: VersionKey
    remote: Remote
    state: State
    reason: str = ""
    files: tuple[str, ...] = ()
    commit: str | None = None
    by: tuple[str, ...] = ()
    when: str = ""


def list_remotes(context: Context, reference: str | None = None) -> tuple[KnownRemote, ...]:
    """Return the copies of one version or of all, oldest first; raise NotFound, NameRefused."""
    with context.catalog.read() as connection:
        key = None if reference is None else resolve.unweighted(connection, reference)
        return tuple(KnownRemote(*one) for one in remotes.every(connection, key))


def check_remotes(
    context: Context, client: HubClient, reference: str | None = None
) -> tuple[CheckedRemote, ...]:
    """Compare the copies of one version, or of all, with the version's files, by digest.

    The card is not compared: others may write in it. Of several pushes or pulls of a
    version at one place the last counts. Changes nothing; what the Hub says is in the
    answer, not raised. Raises NotFound and NameRefused.
    """
    last = {
        (one.key.id, one.remote.repo, one.remote.subfolder, one.remote.revision): one
        for one in list_remotes(context, reference)
    }
    context.progress.start("Asking the Hub", len(last), "items")
    heads: dict[tuple[str, str], Head | HubError] = {}
    try:
        return tuple(_checked(context, client, one, heads) for one in last.values())
    finally:
        context.progress.finish()


def _checked(
    context: Context,
    client: HubClient,
    one: KnownRemote,
    heads: dict[tuple[str, str], Head | HubError],
) -> CheckedRemote:
    remote = one.remote
    now = _head(client, remote.repo, remote.revision, heads)
    context.progress.advance()
    if isinstance(now, HubError):
        return CheckedRemote(one.key, remote, _state(now), now.sentence)
    if now.commit == remote.commit:
        return CheckedRemote(one.key, remote, "same", commit=now.commit)
    seen = _head(client, remote.repo, remote.commit, heads)
    local = _local(context, one.key)
    prefix = f"{remote.subfolder}/" if remote.subfolder else ""
    try:
        differing = tuple(
            name
            for name, file in ((f"{prefix}{file.name}", file) for file in local)
            if not _same(name, file, now, seen)
        )
    except OSError as error:
        reason = f"the local files cannot be compared: {error.strerror or error}"
        return CheckedRemote(one.key, remote, "unknown", reason)
    if not differing:
        return CheckedRemote(one.key, remote, "same", commit=now.commit)
    if isinstance(seen, HubError):
        reason = f"commit {remote.commit[:12]} is no longer there"
        return CheckedRemote(one.key, remote, "changed", reason, differing, now.commit)
    return _changed(client, one, (seen, now), differing)


def _changed(
    client: HubClient, one: KnownRemote, heads: tuple[Head, Head], differing: tuple[str, ...]
) -> CheckedRemote:
    seen, now = heads
    done = CheckedRemote(one.key, one.remote, "changed", "", differing, now.commit)
    try:
        told = moved(client, seen, now, set(differing))
    except HubError as error:
        return replace(done, reason=error.reason)
    return replace(done, reason=told.title, by=told.authors, when=told.at)


def _head(
    client: HubClient,
    repo: str,
    revision: str,
    heads: dict[tuple[str, str], Head | HubError],
) -> Head | HubError:
    """Return a revision, or the error that stands in its place; each is asked for once."""
    if (repo, revision) not in heads:
        try:
            heads[repo, revision] = repository.look(client, repo, revision)
        except HubError as error:
            heads[repo, revision] = error
    return heads[repo, revision]


def _state(error: HubError) -> State:
    if isinstance(error, HubNotFound):
        return "gone"
    return "offline" if isinstance(error, HubOffline) else "unknown"


def _same(name: str, file: LocalFile, now: Head, seen: Head | HubError) -> bool:
    """Tell whether a file there is ours: as in the commit that we know, or by its bytes."""
    there: RemoteFile | None = now.files.get(name)
    if there is None:
        return False
    known = None if isinstance(seen, HubError) else seen.files.get(name)
    return there.same(known) or there.holds(file)


def _local(context: Context, key: VersionKey) -> tuple[LocalFile, ...]:
    with context.catalog.read() as connection:
        files = versions.files(connection, key.id)
        folder = (
            context.store.folder(key.digest)
            if key.kind == "adapter"
            else models.facts(connection, key.id).location
        )
    return tuple(_pairs(folder, files))


def _pairs(folder: Path, files: tuple[FileDigest, ...]) -> Iterator[LocalFile]:
    for file in files:
        if file.name != CARD:
            yield LocalFile(file, folder / file.name)
