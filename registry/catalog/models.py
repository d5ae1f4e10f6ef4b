"""The merged models in the catalog, and what they were built from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from adreg.registry.catalog import keys, versions
from adreg.registry.catalog.records import Content, ModelFacts, ModelInput, VersionKey
from adreg.registry.catalog.schema import model, model_input, version


def add(  # noqa: PLR0913  # each is one fact of the caller's
    connection: Connection,
    name: str,
    content: Content,
    facts: ModelFacts,
    inputs: Sequence[ModelInput],
    *,
    base_id: int | None,
    at: datetime,
) -> VersionKey:
    """Record a model with its inputs, under a new name or as the next version of a known one.

    Raises AlreadyExists if the name is an adapter's, or if these very bytes are a
    model already: ``set_location`` says that it lies elsewhere now.
    """
    new = versions.NewVersion(name, content, base_id)
    (key,) = versions.insert_versions(connection, "model", [new], at=at)
    connection.execute(
        insert(model).values(
            version_id=key.id,
            method=facts.method,
            location=str(facts.location),
            recipe=dict(facts.recipe),
            recipe_digest=facts.recipe_digest,
            engine=facts.engine,
            report=None if facts.report is None else dict(facts.report),
        )
    )
    rows = [
        {
            "model_version_id": key.id,
            "position": position,
            "version_id": one.version_id,
            "digest": one.digest,
            "name": one.name,
            "number": one.number,
            "weight": one.weight,
        }
        for position, one in enumerate(inputs)
    ]
    if rows:
        connection.execute(insert(model_input), rows)
    return key


def facts(connection: Connection, version_id: int) -> ModelFacts:
    """Return how the model of this version was built; the version must be one of a model."""
    row = connection.execute(select(model).where(model.c.version_id == version_id)).one()
    return ModelFacts(
        row.method, Path(row.location), row.recipe, row.recipe_digest, row.engine, row.report
    )


def inputs(connection: Connection, version_id: int) -> tuple[ModelInput, ...]:
    """Return what a model was built from, in the order of its recipe."""
    rows = connection.execute(
        select(
            model_input.c.version_id,
            model_input.c.name,
            model_input.c.number,
            model_input.c.digest,
            model_input.c.weight,
        )
        .where(model_input.c.model_version_id == version_id)
        .order_by(model_input.c.position)
    )
    return tuple(ModelInput(*row) for row in rows)


def built_from(connection: Connection, version_id: int) -> tuple[VersionKey, ...]:
    """Return the models that a version went into, by name."""
    users = select(model_input.c.model_version_id).where(model_input.c.version_id == version_id)
    return keys.several(connection, version.c.id.in_(users))


def built_from_series(connection: Connection, series_id: int) -> tuple[VersionKey, ...]:
    """Return the models outside a series that any of its versions went into, by name."""
    mine = select(version.c.id).where(version.c.series_id == series_id)
    users = select(model_input.c.model_version_id).where(model_input.c.version_id.in_(mine))
    return keys.several(connection, version.c.id.in_(users), version.c.series_id != series_id)


def find_by_recipe(connection: Connection, recipe_digest: str) -> tuple[VersionKey, ...]:
    """Return the models that were built by this recipe, by name."""
    built = select(model.c.version_id).where(model.c.recipe_digest == recipe_digest)
    return keys.several(connection, version.c.id.in_(built))


def set_location(
    connection: Connection, version_id: int, location: Path, recipe_digest: str | None = None
) -> None:
    """Say in which folder a model lies now, and by which recipe it was found to be made too."""
    values = {"location": str(location)}
    if recipe_digest is not None:
        values["recipe_digest"] = recipe_digest
    connection.execute(update(model).where(model.c.version_id == version_id).values(values))


def at_location(connection: Connection, location: Path) -> VersionKey | None:
    """Return the model that is said to lie in this folder, the newest if several are."""
    there = select(model.c.version_id).where(model.c.location == str(location))
    return max(
        keys.several(connection, version.c.id.in_(there)), key=lambda key: key.id, default=None
    )
