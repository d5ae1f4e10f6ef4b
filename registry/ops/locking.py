"""From what the catalog knows of a model to the lock file that it is rebuilt from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adreg.registry import jsonio
from adreg.registry.bases.base import CONFIG
from adreg.registry.catalog import show, versions
from adreg.registry.catalog.records import AdapterVersion, ModelInput, ModelVersion
from adreg.registry.digest import FileDigest
from adreg.registry.errors import Damaged, InputRefused, NameRefused
from adreg.registry.names import FULL, check_name, suggest_name
from adreg.registry.ops.bases import OpenedBase
from adreg.registry.ops.context import Context
from adreg.registry.release.licences import LicensedPart
from adreg.registry.release.lock import (
    HubSource,
    Lock,
    LockedAdapter,
    LockedBase,
    LockedModel,
)
from adreg.registry.tensors import dtypes


@dataclass(frozen=True, slots=True)
class Parts:
    """A model and the adapters that went in; None for one that was removed by force."""

    model: ModelVersion
    adapters: tuple[AdapterVersion | None, ...]

    def licensed(self) -> tuple[LicensedPart, ...]:
        """Return the base and the adapters with their licences."""
        base = self.model.base
        base_name = "the base" if base is None else f"the base {base.name}"
        parts = [LicensedPart(base_name, None if base is None else base.facts.licence)]
        for one, adapter in zip(self.model.inputs, self.adapters, strict=True):
            licence = None if adapter is None else adapter.content.licence
            parts.append(LicensedPart(f"the adapter {one.name}@{one.number}", licence))
        return tuple(parts)


def gather(context: Context, model: ModelVersion) -> Parts:
    """Return a model with what is known of its inputs now."""
    with context.catalog.read() as connection:
        found = []
        for one in model.inputs:
            key = versions.find_by_digest(connection, "adapter", one.digest)
            found.append(None if key is None else show.adapter(connection, key))
    return Parts(model, tuple(found))


def make_lock(
    parts: Parts,
    base: OpenedBase,
    base_files: tuple[FileDigest, ...],
    files: tuple[FileDigest, ...],
    licence: str | None,
) -> Lock:
    """Return the lock of a release; ``files`` are those of the release as far as they are known."""
    model = parts.model
    check_nameable(model)
    config = jsonio.read_object(model.facts.location / CONFIG)
    locked_base = LockedBase(
        names=_base_names(base),
        layout_digest=base.base.layout_digest,
        config_digest=base.base.config_digest,
        repo=base.base.hub_repo,
        revision=base.base.revision,
        licence=base.base.licence if base.record is None else base.record.facts.licence,
        files=tuple(sorted(base_files)),
    )
    adapters = tuple(map(_adapter, model.inputs, parts.adapters))
    return Lock(
        adreg=version("adreg"),
        engine=engine_versions(model.facts.engine),
        model=LockedModel(
            name=model.key.name,
            dtype=dtypes.NAMES.get(model.content.dtype, model.content.dtype.lower()),
            architecture=next(iter(config.get("architectures") or ()), None),
            model_type=config.get("model_type"),
            licence=licence,
        ),
        recipe=_recipe(model.facts.recipe, locked_base, adapters),
        base=locked_base,
        adapters=adapters,
        files=tuple(sorted(files)),
    )


def check_nameable(model: ModelVersion) -> None:
    """Raise InputRefused for a model of a whole checkpoint, which no lock file can name."""
    if full := [a["ref"] for a in model.facts.recipe["adapters"] if a["ref"].startswith(FULL)]:
        raise InputRefused(
            model.facts.location,
            f"it was made of a whole checkpoint ({full[0]}), which no lock file can name",
            f"Extract an adapter of it with `adreg extract {full[0].removeprefix(FULL)}`.",
        )


def engine_versions(text: str) -> dict[str, str]:
    """Return what ``merge.engine`` says, by package: ``{"numpy": "2.4.0", …}``."""
    pairs = (part.strip().partition(" ") for part in text.split(";"))
    return {name: number for name, _, number in pairs if name and number}


def with_file(lock: Lock, file: FileDigest) -> Lock:
    """Return the lock with one more file."""
    return replace(lock, files=tuple(sorted((*lock.files, file))))


def check_present(model: ModelVersion) -> None:
    """Raise Damaged if a file of a model is missing or has another size; none is read."""
    faults = []
    for file in model.content.files:
        path = model.facts.location / file.name
        if not path.is_file():
            faults.append(f"{model.key}: {file.name} is missing")
        elif path.stat().st_size != file.size:
            faults.append(f"{model.key}: {file.name} has another size than was recorded")
    if faults:
        raise Damaged(tuple(faults))


def _adapter(one: ModelInput, adapter: AdapterVersion | None) -> LockedAdapter:
    # An adapter that was merged from a folder is recorded under that folder's path.
    name = one.name if _is_name(one.name) else suggest_name(Path(one.name).name)
    if adapter is None:
        return LockedAdapter(name, one.number, one.digest, one.weight)
    sources = tuple(
        HubSource(source.location, source.revision)
        for source in adapter.sources
        if source.kind == "hub"
    )
    content = adapter.content
    return LockedAdapter(
        name, one.number, one.digest, one.weight, content.licence, sources, content.files
    )


def _base_names(base: OpenedBase) -> tuple[str, ...]:
    """Return its names that say nothing of a machine: paths are left out."""
    record = base.record
    wanted = [base.base.folder.name] if record is None else [record.name, *record.aliases]
    wanted += [base.base.hub_repo or ""]
    names = tuple(dict.fromkeys(name for name in wanted if _is_name(name)))
    return names or ("base",)


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except NameRefused:
        return False
    return True


def _recipe(
    recipe: Mapping[str, Any], base: LockedBase, adapters: tuple[LockedAdapter, ...]
) -> dict[str, Any]:
    """Return the recipe with names that mean the same on another machine."""
    named = [
        {**asked, "ref": one.reference, "weight": one.weight}
        for asked, one in zip(recipe["adapters"], adapters, strict=True)
    ]
    return {**recipe, "base": base.names[0], "adapters": named}
