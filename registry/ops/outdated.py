"""Which pulled adapters have a newer commit on the Hub, and pulling those again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from adreg.registry.catalog import remotes
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import Remote, VersionKey
from adreg.registry.errors import AdregError, HubNotFound, NotFound
from adreg.registry.hub.client import HubClient
from adreg.registry.names import Tag
from adreg.registry.ops import pull as pulling
from adreg.registry.ops import resolve
from adreg.registry.ops.add import Wishes
from adreg.registry.ops.context import Context
from adreg.registry.ops.hub_places import Choice, find
from adreg.registry.ops.pull import PulledAll

State = Literal["current", "unchanged", "outdated", "pinned", "gone", "failed"]

_COMMIT_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Standing:
    """How a pulled adapter stands to the Hub.

    ``unchanged``: there is a newer commit, with the same files of the adapter.
    ``pinned``: it was pulled at a commit, and is not asked for. ``gone`` and ``failed``
    say why in ``reason``. ``newest`` is the Hub's commit, None where it is not known.
    """

    reference: str
    repo: str
    subfolder: str
    revision: str
    commit: str
    newest: str | None
    modified: str | None
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Followed:
    """The newest pulled version of a name, and where it came from."""

    key: VersionKey
    remote: Remote

    @property
    def text(self) -> str:
        """What ``pull`` takes."""
        return f"{self.remote.repo}@{self.remote.revision}"

    @property
    def pinned(self) -> bool:
        """Whether its revision is a commit."""
        digits = set("0123456789abcdef")
        return len(self.remote.revision) == _COMMIT_DIGITS and set(self.remote.revision) <= digits


def outdated(
    context: Context, client: HubClient, names: Iterable[str] = ()
) -> tuple[Standing, ...]:
    """Tell how each pulled adapter, or each of these, stands to the Hub; one request each.

    Raises NameRefused, NotFound for a name that was not pulled, HubOffline.
    """
    with context.catalog.read() as connection:
        followed = _all_followed(connection, tuple(names))
    context.progress.start("Asking the Hub", len(followed), "items")
    try:
        return tuple(_standing(context, client, one) for one in followed)
    finally:
        context.progress.finish()


def update(  # noqa: PLR0913  # which, and what is said of them
    context: Context,
    client: HubClient,
    names: Iterable[str],
    tags: tuple[Tag, ...] = (),
    aliases: tuple[str, ...] = (),
    *,
    dry_run: bool = False,
) -> PulledAll:
    """Pull each pulled adapter, or each of these, again from where it came; under its own name.

    One that is refused does not stop the others. Raises as ``outdated``, and what would
    befall every one.
    """
    with context.catalog.read() as connection:
        followed = _all_followed(connection, tuple(names))
    done: PulledAll = PulledAll((), ())
    for one in followed:
        if one.pinned:
            continue
        wishes = Wishes(name=one.key.name, tags=tags, aliases=aliases)
        choice = Choice(subfolder=one.remote.subfolder)
        try:
            new = pulling.pull(context, client, [one.text], wishes, choice, dry_run=dry_run)
        except AdregError as error:
            if pulling.befalls_all(error):
                raise
            new = PulledAll((), (pulling.unpulled(str(one.key), error),))
        done = PulledAll(done.pulled + new.pulled, done.refused + new.refused)
    return done


def _all_followed(connection: Connection, names: tuple[str, ...]) -> tuple[_Followed, ...]:
    newest: dict[int, _Followed] = {}
    for key, remote in remotes.every(connection):
        known = newest.get(key.series_id)
        if remote.direction == "pull" and (known is None or key.number >= known.key.number):
            newest[key.series_id] = _Followed(key, remote)
    if not names:
        return tuple(sorted(newest.values(), key=lambda one: one.key.name))
    chosen = []
    for name in dict.fromkeys(names):
        series = resolve.name(connection, name)
        if series.id not in newest:
            advice = "Only what `adreg pull` brought can be followed: pull it once."
            raise NotFound("pull recorded for", name, advice=advice)
        chosen.append(newest[series.id])
    return tuple(chosen)


def _standing(context: Context, client: HubClient, one: _Followed) -> Standing:
    newest = modified = None
    reason = ""
    state: State = "pinned"
    if not one.pinned:
        try:
            (place,) = find(
                client, one.text, Choice(subfolder=one.remote.subfolder), convert_pickle=True
            )
        except AdregError as error:
            if pulling.befalls_all(error):
                raise
            state = "gone" if isinstance(error, HubNotFound) else "failed"
            reason = error.sentence
        else:
            newest, modified = place.info.commit, place.info.modified
            state = "outdated"
            if newest == one.remote.commit:
                state = "current"
            elif pulling.holds_all(context, place):
                state = "unchanged"
    context.progress.advance(1)
    return Standing(
        reference=str(one.key),
        repo=one.remote.repo,
        subfolder=one.remote.subfolder,
        revision=one.remote.revision,
        commit=one.remote.commit,
        newest=newest,
        modified=modified,
        state=state,
        reason=reason,
    )
