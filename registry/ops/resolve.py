"""From what a user wrote to the version in the catalog that it means."""

from __future__ import annotations

from pathlib import Path

from adreg.registry.catalog import remotes, series, sources, versions
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import Kind, Series, VersionKey
from adreg.registry.errors import InputRefused, NameRefused, NotFound
from adreg.registry.names import Reference


def version(
    connection: Connection, reference: str | Reference, kind: Kind | None = None
) -> VersionKey:
    """Return the version that a reference means, of this kind if one is asked for.

    A name without a selector means its newest version. A Hub repository means the
    version that came from it, at that commit if one is given; the newest when several
    of one adapter did. The weight of a reference is the caller's to use.

    Raises NotFound with the nearest names, NameRefused for a text that is no
    reference, InputRefused for a folder: only some commands take one.
    """
    reference = parse(reference)
    if reference.path is not None:
        raise _a_folder(connection, reference.path)
    look = _of_hub if reference.hub else versions.resolve
    key = look(connection, reference)
    if kind is not None and key.kind != kind:
        raise NotFound(kind, reference.text, (), f"{key} is {_A[key.kind]}.")
    return key


def unweighted(
    connection: Connection, reference: str | Reference, kind: Kind | None = None
) -> VersionKey:
    """Return what ``version`` returns; raise NameRefused for a reference with a weight too."""
    reference = parse(reference)
    if reference.weight is not None:
        reason = "a weight means nothing here"
        raise NameRefused("the reference", reference.text, reason, "Leave out '=' and the weight.")
    return version(connection, reference, kind)


def name(connection: Connection, text: str) -> Series:
    """Return the series that a bare name means; raise NameRefused or NotFound."""
    reference = parse(text)
    if not is_bare_name(reference):
        reason = "a name stands alone here, without version or weight"
        raise NameRefused("the name", text, reason, "Leave out what follows '@' or '='.")
    return series.get(connection, reference.name)


def is_bare_name(reference: Reference) -> bool:
    """Whether a reference is a name and nothing else."""
    return bool(reference.name) and not reference.selector and reference.weight is None


def parse(reference: str | Reference) -> Reference:
    """Return the reference that a text is; raise NameRefused."""
    return Reference.parse(reference) if isinstance(reference, str) else reference


_SHORT_COMMIT = 7
_A = {"adapter": "an adapter", "model": "a model"}


def _of_hub(connection: Connection, reference: Reference) -> VersionKey:
    found = sources.find(connection, "hub", reference.hub, reference.selector or None)
    if not found and reference.selector:
        found = _by_revision(connection, reference.hub, reference.selector)
    if not found:
        place = reference.text.partition("=")[0]
        advice = f"Pull it first: adreg pull {place}; `adreg list` shows what there is."
        raise NotFound("version from the Hub repository", place, (), advice)
    if len({key.series_id for key in found}) > 1:
        names = tuple(str(key) for key in found)
        raise NotFound("single version from", reference.text, names[:5])
    return max(found, key=lambda key: key.number)


def _by_revision(connection: Connection, repo: str, revision: str) -> tuple[VersionKey, ...]:
    """Return what was pulled at a branch, a tag or a short commit of a repository."""
    short = len(revision) >= _SHORT_COMMIT
    return tuple(
        key
        for key, remote in remotes.every(connection)
        if (remote.repo, remote.subfolder) == (repo, "")
        and (remote.revision == revision or (short and remote.commit.startswith(revision)))
    )


def _a_folder(connection: Connection, path: Path) -> InputRefused:
    known = sources.find(connection, "path", str(path.absolute()))
    advice = (
        f"It was added as {known[-1]}: use that name."
        if known
        else f"Add it first: adreg add {path}"
    )
    return InputRefused(path, "a name from the catalog is needed here, not a folder", advice)
