"""Adapters on the Hub: which are meant, where they are, and what to call them here."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.errors import NameRefused
from adreg.registry.hub import selection
from adreg.registry.hub.answers import RepoInfo
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.selection import Selected
from adreg.registry.names import Reference, suggest_name

_MAIN = "main"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of a repository's adapters are meant, and what may be fetched besides.

    ``subfolder`` names one, ``every`` all that there are; ``base`` fetches the base too.
    """

    subfolder: str | None = None
    every: bool = False
    base: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """An adapter on the Hub, at a commit, with its files; ``revision`` is what was asked for."""

    info: RepoInfo
    revision: str
    adapter: Selected

    @property
    def location(self) -> str:
        """``OWNER/REPO`` or ``OWNER/REPO/FOLDER``."""
        return "/".join(part for part in (self.info.repo, self.adapter.subfolder) if part)


def parse(text: str) -> Reference:
    """Read ``OWNER/REPO[@REVISION]``, with or without ``hf://``; raise NameRefused."""
    reference = Reference.parse(text if text.startswith("hf://") else f"hf://{text}")
    if reference.weight is not None:
        raise NameRefused("the Hub repository", text, "a weight means nothing here")
    return reference


def find(
    client: HubClient, text: str, choice: Choice, *, convert_pickle: bool = False
) -> list[Place]:
    """Return the adapters that are meant, at the commit of this moment; one request.

    Raises NameRefused, HubError, PickleRefused.
    """
    reference = parse(text)
    revision = reference.selector or _MAIN
    info = client.info(reference.hub, revision)
    target = text.removeprefix("hf://")
    entries = info.files if info.files is not None else client.tree(info.repo, info.commit)
    folders = selection.adapters_of(entries)
    if not folders:
        raise selection.no_adapter(target, entries)
    chosen = selection.choose(target, folders, choice.subfolder, every=choice.every)
    return [
        Place(info, revision, selection.select(target, entries, one, convert_pickle=convert_pickle))
        for one in chosen
    ]


def default_name(place: Place) -> str:
    """Make a name of a repository's, and of the folder in it."""
    owner, _, leaf = place.info.repo.partition("/")
    if place.adapter.subfolder:
        leaf = f"{leaf}-{place.adapter.subfolder.replace('/', '-')}"
    return f"{suggest_name(owner)}/{suggest_name(leaf)}"
