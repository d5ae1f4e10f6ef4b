"""The models that merges make: finding one that is made already, and recording a new one."""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.registry import digest, durable
from adreg.registry.catalog import bases, models, versions
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import (
    BaseFile,
    BaseRecord,
    Content,
    ModelFacts,
    ModelInput,
    VersionKey,
)
from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging, write_error
from adreg.registry.errors import Damaged
from adreg.registry.merge.output import Written
from adreg.registry.merge.plan import Plan
from adreg.registry.merge.report import REPORT, TensorReport, total
from adreg.registry.merge.run import ENGINE, MergeReport
from adreg.registry.merge.terms import Module
from adreg.registry.ops import base_files, history
from adreg.registry.ops.bases import OpenedBase, free_name, record_base
from adreg.registry.ops.context import Context
from adreg.registry.release.card import CARD
from adreg.registry.release.pack import copy_verified, write_text
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


@dataclass(frozen=True, slots=True)
class Made:
    """A model that was made of the same before, and a folder where all its files are."""

    key: VersionKey
    folder: Path
    files: tuple[FileDigest, ...]


def keys_of(context: Context, ready: Ready) -> tuple[str, ...]:
    """Return the digests of all that decides the bytes of a merge but its name, the best first.

    Adapters and the recipe count by their content, never by a name. So does the base where
    the digests of its files are known; and it counts by what shows a changed file without
    hashing it, since that would take as long as merging it.
    """
    recipe = ready.recipe.to_dict()
    base = ready.base.base
    recipe["adapters"] = [
        [one.digest, asked.weight, asked.weights]
        for one, asked in zip(ready.adapters, ready.recipe.adapters, strict=True)
    ]
    recipe["engine"] = [ENGINE, engine(ready.plan)]
    return tuple(
        digest.of_value({**recipe, "base": [base.layout_digest, how]})
        for how in _contents_of(context, ready.base)
        if how
    )


def _contents_of(context: Context, opened: OpenedBase) -> tuple[list[list[Any]], ...]:
    """Return what tells the content of a base's files: their digests, and what is seen of them."""
    base = opened.base
    if opened.away is not None:  # at a commit, which nothing changes
        return ([[one.path, one.sha256] for one in opened.away.files],)
    seen = [base_files.look(base.folder, name) for name in base_files.names(base)]
    stamps = [_stamp(base.folder / file.path, file) for file in seen]
    return _known_digests(context, opened, seen), stamps


def _stamp(path: Path, seen: BaseFile) -> list[str | int]:
    """Return what changes with a file: time of change can be set back, of status cannot."""
    status = path.stat()
    return [seen.path, seen.size, seen.mtime_ns, status.st_ctime_ns, status.st_ino]


def _known_digests(
    context: Context, base: OpenedBase, seen: Sequence[BaseFile]
) -> list[list[str | None]]:
    """Return the digests of a base's files, or nothing unless the catalog knows them all."""
    if base.record is None:
        return []
    with context.catalog.read() as connection:
        recorded = bases.files(connection, base.record.id)
    known = {(one.path, one.size, one.mtime_ns): one.sha256 for one in recorded}
    found = [[one.path, known.get((one.path, one.size, one.mtime_ns))] for one in seen]
    return found if all(sha256 for _, sha256 in found) else []


def find_made(context: Context, keys: Sequence[str], folder: Path) -> Made | None:
    """Return the model that was made of the same, with a folder that holds all its files.

    That is ``folder`` if it can be, else where the catalog says that it lies. Files are
    known by their sizes: what they hold is hashed when it is copied, and by ``verify``.
    """
    with context.catalog.read() as connection:
        return _made(connection, keys, folder) or _made(connection, keys, None)


def clear(context: Context, keys: Sequence[str], folder: Path) -> VersionKey | None:
    """Remove what a removed model, damage or a crash left where the registry keeps this merge.

    Returns the model, and removes nothing, if another process has just made it: that one
    holds the catalog from before it publishes until it has committed. Raises WriteFailed.
    """
    if not folder.exists():
        return None
    with context.catalog.write() as connection:
        if made := _made(connection, keys, folder):
            return made.key
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise write_error(folder, error) from error
    return None


def clear_moved(context: Context, folder: Path) -> None:
    """Remove a folder of the registry's own in which no model is said to lie any more."""
    with context.catalog.write() as connection:
        if models.at_location(connection, folder) is None:
            shutil.rmtree(folder, ignore_errors=True)


def withdraw_killed(context: Context, folder: Path, key: str | None) -> None:
    """Clear up around ``folder`` after merges that were killed.

    Removes their staged halves, but for what the merge with this staging ``key`` can go on
    with, or another merge elsewhere, and what stands at ``folder`` itself if such a merge
    published it before the catalog knew. Raises WriteFailed.
    """
    durable.sweep(folder.parent, folder, key)
    with context.catalog.read() as connection:
        durable.withdraw(folder, lambda path: models.at_location(connection, path) is not None)


def copy_made(context: Context, made: Made, staging: Staging, card: str) -> Written | None:
    """Copy a model into a staging folder, each file hashed, with a card of its own.

    None if the model is damaged. Raises WriteFailed or DiskFull.
    """
    files = tuple(file for file in made.files if file.name != CARD)
    staging.clear()  # of what a merge that was stopped had finished
    context.progress.start(f"copying {made.key}", sum(file.size for file in files))
    try:
        copy_verified(made.folder, files, staging.folder, str(made.key), context.progress)
    except Damaged:
        staging.clear()
        return None
    finally:
        context.progress.finish()
    said = json.loads((staging.folder / REPORT).read_text())["tensors"]
    report = MergeReport(
        tuple(file for file in files if file.name.endswith(".safetensors")),
        tuple(TensorReport(**one) for one in said),
    )
    return Written(tuple(sorted((*files, write_text(staging.folder, CARD, card)))), report)


def _made(connection: Connection, keys: Sequence[str], folder: Path | None) -> Made | None:
    for recipe_digest in keys:
        for key in models.find_by_recipe(connection, recipe_digest):
            files = versions.files(connection, key.id)
            place = folder or models.facts(connection, key.id).location
            if all(_has_size(place / file.name, file.size) for file in files):
                return Made(key, place, files)
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
                models.set_location(connection, known.id, folder, recipe_digest)
                key = known
            else:
                base = ready.base.record or _new_base(connection, ready.base)
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


def _new_base(connection: Connection, opened: OpenedBase) -> BaseRecord:
    """Record a base under a free name: nobody chose one, and a merge must not fail for it.

    A model that serves as a base has the model's name, not that of its folder.
    """
    base, files = opened.base, None
    if opened.away is not None:
        base, files = replace(base, folder=opened.away.location), opened.away.files
    model = models.at_location(connection, base.folder)
    name = free_name(connection, base, None if model is None else model.name)
    return record_base(connection, base, name=name, files=files).record
