"""Adapters from the Hub: found, fetched and verified, then taken in as any folder is."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from adreg.registry import jsonio
from adreg.registry.adapters.files import CONFIG
from adreg.registry.catalog import marks, remotes, sources, versions
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import Remote, VersionKey
from adreg.registry.durable import require_space
from adreg.registry.errors import (
    AdapterRefused,
    AdregError,
    CatalogError,
    HubNotFound,
    HubOffline,
    Incompatible,
    InputRefused,
    NameRefused,
    NotAnAdapter,
    WriteFailed,
)
from adreg.registry.hub.answers import RepoInfo
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.download import Downloads, is_file
from adreg.registry.names import Tag, check_alias, check_name
from adreg.registry.ops import history
from adreg.registry.ops.add import Added, Origin, Wishes, add_read
from adreg.registry.ops.base_fetch import fetch_base
from adreg.registry.ops.bases import OpenedBase, open_base
from adreg.registry.ops.context import Context
from adreg.registry.ops.hub_places import Choice, Place, default_name, find
from adreg.registry.ops.leftovers import take_back

_MAX_TAGS = 64


@dataclass(frozen=True, slots=True)
class Pulled:
    """An adapter of the Hub that is in the catalog now, or would be after a dry run.

    ``reference`` is None for what a dry run would add. ``new`` is false when the very bytes
    were there already; ``fetched`` are the bytes that came over the network (after a dry
    run, those that would), ``bytes`` those of the adapter. ``added`` is None when nothing
    had to be read.
    """

    repo: str
    subfolder: str
    revision: str
    commit: str
    name: str
    reference: str | None
    new: bool
    fetched: int
    bytes: int
    files: tuple[str, ...]
    added: Added | None = None


@dataclass(frozen=True, slots=True)
class Unpulled:
    """An adapter or a repository that was not pulled, and why."""

    source: str
    error: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class PulledAll:
    """What became of all that was asked for, in its order."""

    pulled: tuple[Pulled, ...]
    refused: tuple[Unpulled, ...]


def pull(  # noqa: PLR0913  # what, how, and what the user says of it
    context: Context,
    client: HubClient,
    references: Iterable[str],
    wishes: Wishes,
    choice: Choice,
    *,
    dry_run: bool = False,
) -> PulledAll:
    """Pull adapters, ``OWNER/REPO[@REVISION]`` each; the same again costs one request.

    Several do not stop each other: those that are refused are in the answer. Of one alone
    the error is raised. What was fetched and verified is kept for the next try.

    Raises NameRefused, HubError, what ``add`` raises, and what would befall every one:
    HubOffline, WriteFailed, DiskFull, CatalogError.
    """
    texts = tuple(dict.fromkeys(references))
    return _pull(context, client, texts, wishes, choice, dry_run=dry_run, lone=len(texts) == 1)


def pull_owner(  # noqa: PLR0913  # as ``pull``
    context: Context,
    client: HubClient,
    repos: Iterable[str],
    wishes: Wishes,
    choice: Choice,
    *,
    dry_run: bool = False,
) -> PulledAll:
    """Pull what an owner has; repositories without an adapter are passed over. See ``pull``."""
    every = replace(choice, every=choice.subfolder is None)
    done = _pull(context, client, tuple(repos), wishes, every, dry_run=dry_run, lone=False)
    kept = tuple(one for one in done.refused if one.error != NotAnAdapter.__name__)
    return replace(done, refused=kept)


def _pull(  # noqa: PLR0913  # as ``pull``
    context: Context,
    client: HubClient,
    texts: tuple[str, ...],
    wishes: Wishes,
    choice: Choice,
    *,
    dry_run: bool,
    lone: bool,
) -> PulledAll:
    _check(wishes)
    opened = open_base(context, wishes.base) if wishes.base is not None else None
    if not dry_run:
        take_back(context)
    done: list[Pulled] = []
    refused: list[Unpulled] = []

    def refuse(source: str, error: AdregError, *, alone: bool) -> None:
        if alone or befalls_all(error):
            raise error
        refused.append(unpulled(source, error))

    for text in texts:
        try:
            places = find(client, text, choice, convert_pickle=wishes.convert_pickle)
        except AdregError as error:
            refuse(text, error, alone=lone)
            continue
        alone = lone and len(places) == 1
        for place in places:
            named = replace(wishes, name=_name_of(wishes.name, place, alone=alone))
            try:
                done.append(
                    _pull_place(context, client, place, named, opened, choice, dry_run=dry_run)
                )
            except AdregError as error:
                refuse(place.location, error, alone=alone)
    return PulledAll(tuple(done), tuple(refused))


def unpulled(source: str, error: AdregError) -> Unpulled:
    """Return an error as part of an answer."""
    return Unpulled(source, type(error).__name__, error.sentence, error.hint)


def befalls_all(error: AdregError) -> bool:
    """Whether an error would befall the next adapter too."""
    return isinstance(error, HubOffline | WriteFailed | CatalogError)


def _pull_place(  # noqa: PLR0913, PLR0917  # what, where from, and what the user says of it
    context: Context,
    client: HubClient,
    place: Place,
    wishes: Wishes,
    opened: OpenedBase | None,
    choice: Choice,
    *,
    dry_run: bool,
) -> Pulled:
    """Pull one adapter that was found; see ``pull``."""
    with context.catalog.read() as connection:
        there = at_commit(context, connection, place)
        follows = wishes.name or _followed(connection, place) or default_name(place)
    if there is not None and wishes.base is None and not choice.base:
        if not dry_run:
            _mark(context, there, wishes)
        return _pulled(place, there.name, there, new=False)
    if dry_run:
        missing = sum(
            e.size for n, e in place.adapter.files.items() if n not in _stored(context, place)
        )
        return _pulled(place, follows, None, new=True, fetched=missing)
    named = replace(
        wishes, name=follows, tags=_tags(place.info, wishes.tags), origin=_origin(client, place)
    )
    return _fetch(context, client, place, named, opened, choice)


def _fetch(  # noqa: PLR0913, PLR0917  # as ``_pull_place``
    context: Context,
    client: HubClient,
    place: Place,
    wishes: Wishes,
    opened: OpenedBase | None,
    choice: Choice,
) -> Pulled:
    info, wanted = place.info, place.adapter.files
    progress = context.progress
    with Downloads.of(context.settings.downloads, info.repo) as downloads:
        files = dict(_stored(context, place))
        coming = {name: entry for name, entry in wanted.items() if name not in files}
        require_space(downloads.folder, downloads.missing(coming.values()))
        progress.start(f"Pulling {place.location}", sum(one.size for one in coming.values()))
        try:
            # The small ones first: what is wrong with them is known before the weights come.
            for name, entry in sorted(coming.items(), key=lambda item: item[1].size):
                files[name] = downloads.fetch(
                    client, info.repo, info.commit, entry, progress.advance
                )
        finally:
            progress.finish()
        if choice.base and opened is None:
            opened = _fetch_base(context, client, files[CONFIG], place.location)
            wishes = replace(wishes, base=opened.text)
        with downloads.view(files, info.repo.rpartition("/")[2]) as folder:
            added = _add(context, folder, place, wishes, opened)
        downloads.discard(coming.values())
    return _pulled(
        place, added.name, added.key, new=added.new, fetched=downloads.fetched, added=added
    )


def _add(
    context: Context, folder: Path, place: Place, wishes: Wishes, opened: OpenedBase | None
) -> Added:
    """Take in what was fetched; what is wrong with it is said of its place on the Hub."""
    try:
        return add_read(context, folder, wishes, opened, dry_run=False)
    except (InputRefused, AdapterRefused) as error:
        if not error.path.is_relative_to(folder):
            raise
        raise replace(error, path=Path(place.location, error.path.relative_to(folder))) from error
    except Incompatible as error:
        raise replace(error, adapter=place.location) from error


def at_commit(context: Context, connection: Connection, place: Place) -> VersionKey | None:
    """Return the version that was pulled from a place at this very commit and is stored."""
    found = sources.find(connection, "hub", place.location, place.info.commit)
    for key in sorted(found, key=lambda one: one.number, reverse=True):
        if context.store.holds(key.digest, versions.files(connection, key.id)):
            return key
    return None


def _stored(context: Context, place: Place) -> dict[str, Path]:
    """Return the files of a place that the store has, by name, each hashed again."""
    with context.catalog.read() as connection:
        earlier = sources.find(connection, "hub", place.location)
        known = {
            file.name: file.sha256
            for key in sorted(earlier, key=lambda one: one.number)
            for file in versions.files(connection, key.id)
        }
    found = {}
    for name, entry in place.adapter.files.items():
        digest = entry.sha256 or known.get(name)
        blob = None if digest is None else context.store.blob(digest)
        with suppress(OSError):
            if blob is not None and is_file(blob, entry):
                found[name] = blob
    return found


def holds_all(context: Context, place: Place) -> bool:
    """Whether the store has every file of a place as it is on the Hub now."""
    return _stored(context, place).keys() == place.adapter.files.keys()


def _name_of(wish: str | None, place: Place, *, alone: bool) -> str | None:
    """Return the name that a wish means for this place: of several adapters it is the team."""
    if wish is None or alone:
        return wish
    return f"{wish}/{default_name(place).rpartition('/')[2]}"


def _followed(connection: Connection, place: Place) -> str | None:
    """Return the name under which earlier commits of a place were pulled."""
    found = sources.find(connection, "hub", place.location)
    return max(found, key=lambda key: (key.number, key.id)).name if found else None


def _check(wishes: Wishes) -> None:
    if wishes.name is not None:
        check_name(wishes.name)
    for alias in wishes.aliases:
        check_alias(alias)


def _tags(info: RepoInfo, wished: tuple[Tag, ...]) -> tuple[Tag, ...]:
    """Return the card's tags, the author and the base that the card names, and the user's."""
    texts = info.card.get("tags")
    found = {}
    for text in texts[:_MAX_TAGS] if isinstance(texts, list) else ():
        with suppress(NameRefused):  # the Hub's own, such as ``region:us``
            if isinstance(text, str) and "=" not in text:
                found[text] = Tag.parse(text)
    found["author"] = Tag("author", info.author or info.repo.partition("/")[0])
    base = info.card.get("base_model")
    if isinstance(base, str):
        with suppress(NameRefused):
            found["base_model"] = Tag.parse(f"base_model={base}")
    return tuple({**found, **{tag.key: tag for tag in wished}}.values())


def _origin(client: HubClient, place: Place) -> Origin:
    info = place.info

    def record(connection: Connection, key: VersionKey, at: datetime) -> None:
        url = f"{client.site}/{info.repo}/tree/{info.commit}"
        copy = Remote(
            direction="pull",
            repo=info.repo,
            repo_type="model",
            revision=place.revision,
            commit=info.commit,
            digest=key.digest,
            at=at,
            url=url,
            subfolder=place.adapter.subfolder,
        )
        remotes.record(connection, key, copy)

    return Origin(place.location, info.commit, record)


def _mark(context: Context, key: VersionKey, wishes: Wishes) -> None:
    """Note what is said of a version that is there already."""
    if not (wishes.tags or wishes.aliases or wishes.note):
        return
    at = history.now()
    with context.catalog.write() as connection:
        for tag in wishes.tags:
            marks.set_tag(connection, key.id, tag)
        for alias in wishes.aliases:
            marks.set_alias(connection, key, alias, at)
        if wishes.note:
            marks.add_note(connection, key.id, wishes.note, at)
        told = {"tags": [str(tag) for tag in wishes.tags], "aliases": list(wishes.aliases)}
        history.write(connection, at, "pull again", str(key), **told)
        connection.commit()


def _fetch_base(context: Context, client: HubClient, config: Path, location: str) -> OpenedBase:
    said = jsonio.read_object(config)
    repo, revision = said.get("base_model_name_or_path"), said.get("revision")
    if not isinstance(repo, str) or not repo:
        advice = "Name the base with --base, and fetch it with `hf download`."
        raise HubNotFound(location, "it does not say which base it was trained on", advice)
    return fetch_base(context, client, repo, revision if isinstance(revision, str) else None)


def _pulled(  # noqa: PLR0913  # one argument for each thing that is told
    place: Place,
    name: str,
    key: VersionKey | None,
    *,
    new: bool,
    fetched: int = 0,
    added: Added | None = None,
) -> Pulled:
    return Pulled(
        repo=place.info.repo,
        subfolder=place.adapter.subfolder,
        revision=place.revision,
        commit=place.info.commit,
        name=name,
        reference=None if key is None else str(key),
        new=new,
        fetched=fetched,
        bytes=place.adapter.bytes,
        files=tuple(sorted(place.adapter.files)),
        added=added,
    )
