"""The models that merges make: finding one that is made already, and recording a new one."""

from __future__ import annotations

import platform
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.registry import digest, durable
from adreg.registry.bases.base import Base
from adreg.registry.catalog import models, versions
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import (
    BaseRecord,
    Content,
    ModelFacts,
    ModelInput,
    VersionKey,
)
from adreg.registry.durable import Staging, write_error
from adreg.registry.merge.output import Written
from adreg.registry.merge.plan import Plan
from adreg.registry.merge.report import total
from adreg.registry.merge.terms import Module
from adreg.registry.ops import base_files, history
from adreg.registry.ops.bases import free_name, record_base
from adreg.registry.ops.context import Context
from adreg.registry.tensors import dtypes

if TYPE_CHECKING:
    from adreg.registry.ops.merge import Ready


def engine(plan: Plan) -> str:
    """Return what computes here: the versions and the processor that decide the last bits."""
    packages = ["adreg", "numpy", "ml_dtypes"]
    terms = (term for job in plan.jobs for part in job.contributions for term in part.terms)
    if any(isinstance(term, Module) for term in terms):
        packages += ["peft", "torch", "transformers"]
    return "; ".join(f"{name} {here}" for name, here in here_of([*packages, "machine"]).items())


def here_of(names: Iterable[str]) -> dict[str, str]:
    """Return the versions here of what ``engine`` names; "none" for what is not installed."""
    return {name: platform.machine() if name == "machine" else _version(name) for name in names}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def digest_of(ready: Ready) -> str:
    """Return the digest of all that decides the bytes of a merge but its name."""
    return digest.of_value(_content(ready))


def _content(ready: Ready) -> dict[str, Any]:
    """Return what ``digest_of`` digests; adapters by content, never by name."""
    recipe = ready.recipe.to_dict()
    base = ready.base.base
    # Hashing a base takes as long as merging it: a changed file shows in its time and size.
    seen = [base_files.look(base.folder, name) for name in base_files.names(base)]
    recipe["base"] = [
        base.layout_digest,
        str(base.folder),
        *([file.path, file.size, file.mtime_ns] for file in seen),
    ]
    recipe["adapters"] = [
        [one.digest, asked.weight, asked.weights]
        for one, asked in zip(ready.adapters, ready.recipe.adapters, strict=True)
    ]
    recipe["engine"] = engine(ready.plan)
    return recipe


def find_made(context: Context, recipe_digest: str, folder: Path) -> VersionKey | None:
    """Return the model that this recipe made, if its files are in the registry's own folder."""
    with context.catalog.read() as connection:
        return _made(connection, recipe_digest, folder)


def clear(context: Context, recipe_digest: str, folder: Path) -> VersionKey | None:
    """Remove what a removed model, damage or a crash left where the registry keeps this merge.

    Returns the model, and removes nothing, if another process has just made it: that one
    holds the catalog from before it publishes until it has committed. Raises WriteFailed.
    """
    if not folder.exists():
        return None
    with context.catalog.write() as connection:
        if made := _made(connection, recipe_digest, folder):
            return made
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise write_error(folder, error) from error
    return None


def withdraw_killed(context: Context, folder: Path) -> None:
    """Clear up around ``folder`` after merges that were killed.

    Removes their staged halves, and what stands at ``folder`` itself if such a merge
    published it before the catalog knew. Raises WriteFailed.
    """
    durable.sweep(folder.parent)
    with context.catalog.read() as connection:
        durable.withdraw(folder, lambda path: models.at_location(connection, path) is not None)


def _made(connection: Connection, recipe_digest: str, folder: Path) -> VersionKey | None:
    for key in models.find_by_recipe(connection, recipe_digest):
        files = versions.files(connection, key.id)
        if all(_has_size(folder / file.name, file.size) for file in files):
            return key
    return None


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def record(  # noqa: PLR0913, PLR0917  # one transaction's worth of facts
    context: Context,
    ready: Ready,
    name: str,
    folder: Path,
    written: Written,
    recipe_digest: str,
    staging: Staging,
) -> tuple[VersionKey, bool]:
    """Publish the folder and record it, as one step: what cannot be recorded is not published."""
    plan, report = ready.plan, written.report
    content = Content(
        digest=digest.of_files(written.files),
        bytes=sum(file.size for file in written.files),
        parameters=sum(job.entry.nbytes * 8 // dtypes.BITS[job.dtype] for job in plan.jobs),
        dtype=dtypes.OUTPUTS[plan.dtype] if plan.dtype else ready.base.base.dtype,
        files=written.files,
    )
    facts = ModelFacts(
        method=ready.recipe.method,
        location=folder,
        recipe=ready.recipe.to_dict(),
        recipe_digest=recipe_digest,
        engine=engine(plan),
        report={
            **asdict(total(report.tensors)),
            "actions": dict(Counter(job.action for job in plan.jobs)),
        },
    )
    inputs = [
        ModelInput.of(one.key, weight)
        if one.key
        else ModelInput(None, str(one.content.folder), 0, one.digest, weight)
        for one, weight in zip(ready.adapters, ready.weights, strict=True)
    ]
    at = history.now()
    try:
        with context.catalog.write() as connection:
            known = versions.find_by_digest(connection, "model", content.digest)
            if known is not None:
                models.set_location(connection, known.id, folder)
                key = known
            else:
                base = ready.base.record or _new_base(connection, ready.base.base)
                key = models.add(connection, name, content, facts, inputs, base_id=base.id, at=at)
            history.write(
                connection,
                at,
                "merge",
                str(key),
                location=str(folder),
                digest=content.digest,
                inputs=[[one.name, one.number, one.digest, one.weight] for one in inputs],
            )
            staging.publish(held=True)
            connection.commit()
    except BaseException:
        # A commit that is interrupted may have been made.
        with context.catalog.read() as connection:
            if models.at_location(connection, folder) is None:
                staging.take_back()
        raise
    staging.keep()
    return key, known is None


def _new_base(connection: Connection, base: Base) -> BaseRecord:
    """Record a base under a free name: nobody chose one, and a merge must not fail for it.

    A model that serves as a base has the model's name, not that of its folder.
    """
    model = models.at_location(connection, base.folder)
    name = free_name(connection, base, None if model is None else model.name)
    return record_base(connection, base, name=name).record
