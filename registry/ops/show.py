"""Everything that the catalog knows of one version, with its lineage both ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adreg.registry.catalog import bases, models, remotes
from adreg.registry.catalog import show as catalog_show
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import AdapterVersion, ModelVersion, Remote, VersionKey
from adreg.registry.ops import resolve
from adreg.registry.ops.context import Context


@dataclass(frozen=True, slots=True)
class Descendant:
    """A model that was built from a version, ``steps`` merges later."""

    key: VersionKey
    steps: int


@dataclass(frozen=True, slots=True)
class Shown:
    """One version. ``descendants`` are all models that it went into, directly or through others.

    ``base_names`` are the bases that lie in a model's folder: what it is itself a base as.
    ``remotes`` are its copies on the Hub, oldest first.
    """

    version: AdapterVersion | ModelVersion
    descendants: tuple[Descendant, ...]
    base_names: tuple[str, ...]
    remotes: tuple[Remote, ...]


def show(context: Context, reference: str) -> Shown:
    """Return all that is known of a version.

    Raises NotFound, NameRefused, or InputRefused for a folder.
    """
    with context.catalog.read() as connection:
        key = resolve.unweighted(connection, reference)
        descendants = tuple(_descendants(connection, key))
        copies = remotes.of(connection, key)
        if key.kind == "adapter":
            return Shown(catalog_show.adapter(connection, key), descendants, (), copies)
        model = catalog_show.model(connection, key)
        here = bases.find_by_location(connection, model.facts.location)
        return Shown(model, descendants, tuple(one.name for one in here), copies)


def _descendants(connection: Connection, key: VersionKey) -> Iterator[Descendant]:
    seen, layer, steps = {key.id}, [key], 0
    while layer:
        steps += 1
        following: list[VersionKey] = []
        for parent in layer:
            for child in models.built_from(connection, parent.id):
                if child.id not in seen:
                    seen.add(child.id)
                    following.append(child)
                    yield Descendant(child, steps)
        layer = following
