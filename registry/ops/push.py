"""A version on the Hub: one commit, or none where it is there already."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from adreg.registry.adapters.card import CARD
from adreg.registry.catalog import bases, remotes
from adreg.registry.catalog.records import AdapterVersion, Kind, Remote
from adreg.registry.digest import FileDigest
from adreg.registry.errors import (
    CardRefused,
    HubConflict,
    HubNoAccess,
    PushRefused,
    UnknownRepo,
    UnknownRevision,
)
from adreg.registry.hub import branches, commit, repository
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.commit import Committed, Wanted
from adreg.registry.hub.repository import Head
from adreg.registry.hub.upload import LocalFile, check_local
from adreg.registry.ops import history, push_parts
from adreg.registry.ops.context import Context
from adreg.registry.ops.push_parts import BaseName, Licence, Place, PushParts
from adreg.registry.release.licences import OTHER
from adreg.registry.release.pack import of_text
from adreg.registry.release.readme import metadata, renewed

_MAIN = "main"
_KEPT = frozenset({CARD, ".gitattributes"})
"""Files of a repository that nobody loses: the card is renewed, not replaced."""
_LOOKED_BACK = 5
"""Recorded commits that are looked through for the content of a file."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a push goes. ``private`` is for a repository that it makes, and demanded of others."""

    repo: str
    revision: str = _MAIN
    private: bool = False
    message: str | None = None
    create_pr: bool = False
    tag: str | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Pushed:
    """What is on the Hub now, or would be.

    ``commit`` is None after a dry run that has something to send. ``sent`` are the files
    of the commit, empty where all was there (``new`` is then False); ``created`` tells
    that the repository was made. ``remarks`` are for a person.
    """

    reference: str
    kind: Kind
    repo: str
    revision: str
    commit: str | None
    url: str | None
    pull_request: str | None
    tag: str | None
    sent: tuple[FileDigest, ...]
    files: int
    created: bool
    new: bool
    licence: str | None
    base_model: str
    remarks: tuple[str, ...]
    dry_run: bool

    @property
    def bytes(self) -> int:
        """The bytes of what was sent, or would be."""
        return sum(file.size for file in self.sent)


def push(  # noqa: PLR0913  # the version, the place, and what the user says of them
    context: Context,
    reference: str,
    target: Target,
    client: HubClient,
    *,
    base_model: str | None = None,
    licence: Licence | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Put a version on the Hub in one commit, and record it; the same again makes none.

    All or nothing: what was uploaded before a failure is no part of the branch, and is
    not sent again. Files that are not the version's stay. A file that somebody else
    changed there is written over only if ``target.overwrite``.

    Raises NotFound, NameRefused, LicenceUnknown, Damaged, CardRefused, PushRefused,
    RemoteChanged, HubError.
    """
    _check(reference, target)
    parts = push_parts.gather(context, reference, base_model, licence or Licence())
    head = _head(client, target)
    base = _base(client, parts, target.repo)
    card = _card(client, head)
    theirs = None if card is None else _licence_of(card)
    given = licence is not None and licence.given is not None
    # Whoever owns the card on the Hub said so; the version's own is older than the catalog.
    stated = parts.licence if given or theirs is None else theirs
    made, section = parts.finish(Place(target.repo, base, stated, given or theirs is None))
    text = renewed(parts.readme if card is None else card, section)
    readme = LocalFile(of_text(CARD, text), text.encode())
    files = (*parts.content, *made, readme)
    sending = commit.missing(files, {} if head is None else head.files)
    if head is not None:
        _check_head(context, client, head, parts, target, sending)
    pushed = Pushed(
        reference=str(parts.key),
        kind=parts.key.kind,
        repo=target.repo,
        revision=target.revision,
        commit=None if sending or head is None else head.commit,
        url=None,
        pull_request=None,
        tag=target.tag,
        sent=tuple(file.digest for file in sending),
        files=len(files),
        created=head is None,
        new=bool(sending),
        licence=stated,
        base_model=base.repo or "",
        remarks=_remarks(parts, stated, base),
        dry_run=dry_run,
    )
    if readme in sending:
        branches.check_card(client, target.repo, text)
    if dry_run:
        return pushed
    there = head if head is not None and not sending else None
    if there is None and target.create_pr:
        there = _offered(context, client, target.repo, files)
        pushed = replace(pushed, new=there is None, sent=() if there else pushed.sent)
    if there is None:
        done = _send(context, client, target, parts, head, sending)
    else:
        done = commit.at(client, there)
    pushed = replace(
        pushed,
        commit=done.commit,
        revision=done.revision,
        url=done.url,
        pull_request=done.pull_request,
    )
    if target.tag is not None:
        branches.tag(client, str(parts.key), target.repo, target.tag, done.commit)
    _record(context, parts, pushed)
    return pushed


def _check(reference: str, target: Target) -> None:
    branches.check_repo_name(target.repo)
    if target.create_pr and target.tag is not None:
        raise PushRefused(
            reference,
            target.repo,
            "a pull request has no commit to tag before it is merged",
            "Leave out --tag or --create-pr.",
        )


def _head(client: HubClient, target: Target) -> Head | None:
    """Return the branch, None for a repository that is not there.

    A branch that is not there is the main one under its name, ``branch_missing``.
    """
    try:
        return repository.look(client, target.repo, target.revision)
    except UnknownRepo:
        return None
    except UnknownRevision:
        pass
    main = repository.look(client, target.repo, _MAIN)
    return replace(main, revision=target.revision, branch_missing=True)


def _base(client: HubClient, parts: PushParts, repo: str) -> BaseName:
    """Return the base's name on the Hub, never a path; a name that only looks so is asked for."""
    if parts.base.repo is not None:
        return parts.base
    for guess in parts.base.guesses:
        if _is_model(client, guess):
            return BaseName(guess)
    raise PushRefused(
        str(parts.key),
        repo,
        "it is not known what the Hub calls its base",
        "Name it with --base-model OWNER/NAME.",
    )


def _is_model(client: HubClient, repo: str) -> bool:
    try:
        return client.exists(repo)
    except HubNoAccess:  # its terms are not accepted here, but it is there
        return True


def _card(client: HubClient, head: Head | None) -> str | None:
    """Return the README on the Hub, None where there is none."""
    if head is None or CARD not in head.files:
        return None
    if head.files[CARD].size > push_parts.MOST_README:
        raise CardRefused(f"{CARD} there is larger than {push_parts.MOST_README:,} bytes")
    try:
        return client.read(head.repo, head.commit, CARD).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CardRefused(f"{CARD} there is not UTF-8") from error


def _check_head(  # noqa: PLR0913, PLR0917  # all that is known before the first byte
    context: Context,
    client: HubClient,
    head: Head,
    parts: PushParts,
    target: Target,
    sending: tuple[LocalFile, ...],
) -> None:
    """Raise PushRefused or RemoteChanged for what this push would do wrong there."""
    reference = str(parts.key)
    if target.private and not head.private:
        advice = "Make it private in its settings on the Hub, or leave out --private."
        raise PushRefused(reference, target.repo, "that repository is public", advice)
    if target.tag is not None:
        there = repository.commit_of_tag(client, target.repo, target.tag)
        if there is not None and (sending or there != head.commit):
            raise branches.taken(reference, target.repo, target.tag, there)
    replaced = {one.name for one in sending if one.name in head.files} - _KEPT
    if not replaced or target.overwrite:
        return
    seen = _seen(context, client, target.repo)
    foreign = {
        name
        for name in replaced
        if not any(head.files[name].same(known.files.get(name)) for known in seen)
    }
    if not foreign:
        return
    if seen:
        raise commit.moved(client, seen[0], head, foreign)
    raise PushRefused(
        reference,
        target.repo,
        f"it has other files of these names, which adreg did not put there: {_names(foreign)}",
        "Choose another repository or --revision, or pass --overwrite to replace them.",
    )


def _seen(context: Context, client: HubClient, repo: str) -> list[Head]:
    """Return the last commits of a repository that the catalog knows, newest first."""
    with context.catalog.read() as connection:
        known = [one.commit for _, one in remotes.every(connection) if one.repo == repo]
    seen = []
    for oid in list(dict.fromkeys(reversed(known)))[:_LOOKED_BACK]:
        with suppress(UnknownRevision):  # the history there was rewritten
            seen.append(repository.look(client, repo, oid))
    return seen


def _offered(
    context: Context, client: HubClient, repo: str, files: tuple[LocalFile, ...]
) -> Head | None:
    """Return a pull request of ours that has these files already, None for none."""
    with context.catalog.read() as connection:
        known = [one.revision for _, one in remotes.every(connection) if one.repo == repo]
    for revision in dict.fromkeys(one for one in reversed(known) if one.startswith("refs/pr/")):
        with suppress(UnknownRevision):
            there = repository.look(client, repo, revision)
            if not commit.missing(files, there.files):
                return there
    return None


def _send(  # noqa: PLR0913, PLR0917  # what, and where to
    context: Context,
    client: HubClient,
    target: Target,
    parts: PushParts,
    head: Head | None,
    sending: tuple[LocalFile, ...],
) -> Committed:
    check_local(sending, str(parts.key), context.progress)
    if head is None:
        branches.create_repo(client, target.repo, private=target.private)
        head = repository.look(client, target.repo, _MAIN)
        # It was not there before; where somebody was faster, nothing was compared with theirs.
        theirs = {file.name for file in sending} & head.files.keys()
        if theirs or (target.private and not head.private):
            raise HubConflict(
                target.repo,
                "somebody else made it meanwhile",
                "Push again: what is there now is looked at first.",
            )
        if target.revision != _MAIN:
            head = replace(head, revision=target.revision, branch_missing=True)
    if head.branch_missing:
        branches.create(client, target.repo, target.revision, head.commit)
    wanted = Wanted(
        reference=str(parts.key),
        files=sending,
        message=target.message or f"Push {parts.key} with adreg",
        description=f"digest {parts.key.digest}",
        create_pr=target.create_pr,
    )
    return commit.commit(client, head, wanted, context.progress)


def _licence_of(card: str) -> str | None:
    """Return the licence that a card states, the name that it gives where that is ``other``."""
    fields = metadata(card)
    licence = fields.get("license")
    if licence == OTHER and isinstance(fields.get("license_name"), str):
        licence = fields["license_name"]
    return licence if isinstance(licence, str) else None


def _remarks(parts: PushParts, licence: str | None, base: BaseName) -> tuple[str, ...]:
    remarks = []
    if parts.licence not in {None, licence}:
        remarks.append(
            f"the card there says the licence is {licence}, the catalog {parts.licence}:"
            " --license changes the card"
        )
    hint = parts.record.facts.base_hint if isinstance(parts.record, AdapterVersion) else None
    if hint is not None and hint != base.repo:
        remarks.append(
            f"adapter_config.json calls the base {hint!r} and is pushed as it is;"
            f" the card says {base.repo}"
        )
    return tuple(remarks)


def _record(context: Context, parts: PushParts, pushed: Pushed) -> None:
    at = history.now()
    if pushed.commit is None:
        raise TypeError("nothing was pushed")
    copy = Remote(
        direction="push",
        repo=pushed.repo,
        repo_type="model",
        revision=pushed.revision,
        commit=pushed.commit,
        digest=parts.key.digest,
        at=at,
        url=pushed.pull_request or pushed.url,
    )
    with context.catalog.write() as connection:
        if parts.hashed and parts.record.base is not None:
            bases.set_files(connection, parts.record.base.id, parts.hashed)
        if remotes.record(connection, parts.key, copy):
            history.write(
                connection,
                at,
                "push",
                str(parts.key),
                repo=pushed.repo,
                revision=pushed.revision,
                commit=pushed.commit,
                digest=parts.key.digest,
            )
        connection.commit()


def _names(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
