"""The lock file of a release: all that it takes to build the same bytes again.

    schema    1
    adreg     the version that wrote it
    engine    the versions of what computes: numpy, ml_dtypes
    model     its name, architecture, model type, dtype and licence
    recipe    as it was asked for; its adapters stand in the order of ``adapters``
    base      names, Hub repository and revision, layout, config, and its files
    adapters  name, number, digest, weight, sources, and their files
    files     what came out, without the lock file and SHA256SUMS themselves

Deterministic JSON: sorted keys, sorted files, no dates, no paths of a machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adreg.registry import jsonio
from adreg.registry.digest import FileDigest
from adreg.registry.errors import JsonBroken, LockBroken
from adreg.registry.release.card import CardAdapter, CardBase, CardFacts
from adreg.registry.release.fields import Fields, files_of, files_to

LOCK = "adreg.lock.json"
"""The name of the file."""

SCHEMA = 1
_AGAIN = "Take it again from the release."


@dataclass(frozen=True, slots=True)
class HubSource:
    """A commit of a Hub repository that an adapter came from."""

    repo: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class LockedBase:
    """The base: how it may be called, and what it must be made of. ``names`` has one or more."""

    names: tuple[str, ...]
    layout_digest: str
    config_digest: str
    repo: str | None = None
    revision: str | None = None
    licence: str | None = None
    files: tuple[FileDigest, ...] = ()


@dataclass(frozen=True, slots=True)
class LockedAdapter:
    """One adapter version that went in, with its weight."""

    name: str
    number: int
    digest: str
    weight: float
    licence: str | None = None
    sources: tuple[HubSource, ...] = ()
    files: tuple[FileDigest, ...] = ()

    @property
    def reference(self) -> str:
        """What it was called in the catalog: ``team/support@3``."""
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class LockedModel:
    """What came out, as the card describes it; ``dtype`` is a name such as ``bfloat16``."""

    name: str
    dtype: str
    architecture: str | None = None
    model_type: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file's contents; ``files`` are those of the release, sorted by name."""

    adreg: str
    engine: Mapping[str, str]
    model: LockedModel
    recipe: Mapping[str, Any]
    base: LockedBase
    adapters: tuple[LockedAdapter, ...]
    files: tuple[FileDigest, ...] = field(repr=False)

    def to_json(self) -> str:
        """Return the file's text; the same lock gives the same text."""
        base, model = self.base, self.model
        value = {
            "schema": SCHEMA,
            "adreg": self.adreg,
            "engine": dict(self.engine),
            "model": {name: getattr(model, name) for name in model.__slots__},
            "recipe": dict(self.recipe),
            "base": {
                **{name: getattr(base, name) for name in base.__slots__},
                "files": files_to(base.files),
            },
            "adapters": [
                {
                    **{name: getattr(one, name) for name in one.__slots__},
                    "sources": [{"repo": s.repo, "revision": s.revision} for s in one.sources],
                    "files": files_to(one.files),
                }
                for one in self.adapters
            ],
            "files": files_to(self.files),
        }
        text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return text + "\n"


def card_facts(lock: Lock) -> CardFacts:
    """Return what the card of a release says; all of it stands in its lock file."""
    base, model = lock.base, lock.model
    adapters = (CardAdapter(a.reference, a.digest, a.weight, a.licence) for a in lock.adapters)
    return CardFacts(
        title=model.name,
        base=CardBase(base.names[0], base.layout_digest, base.repo, base.revision, base.licence),
        adapters=tuple(adapters),
        method=str(lock.recipe.get("method", "linear")),
        precision=str(lock.recipe.get("precision", "float32")),
        dtype=model.dtype,
        architecture=model.architecture,
        model_type=model.model_type,
        licence=model.licence,
        code=tuple(file.name for file in lock.files if file.name.endswith(".py")),
    )


def read_lock(path: Path) -> Lock:
    """Read a lock file strictly: no field is missing, unknown or of another type.

    Raises LockBroken with the reason.
    """
    try:
        data = jsonio.read_object(path)
    except JsonBroken as error:
        raise LockBroken(path, error.reason, _AGAIN) from error
    schema = data.pop("schema", None)
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        advice = "Install a newer adreg." if newer else _AGAIN
        raise LockBroken(path, f"its schema is {schema!r}, this adreg reads {SCHEMA}", advice)
    try:
        return _lock(Fields(data, ""))
    except ValueError as error:
        raise LockBroken(path, str(error), _AGAIN) from None


def _lock(fields: Fields) -> Lock:
    engine = fields.object("engine")
    model, base = fields.object("model"), fields.object("base")
    lock = Lock(
        adreg=fields.text("adreg"),
        engine={name: engine.text(name) for name in engine.names()},
        model=LockedModel(
            name=model.text("name"),
            dtype=model.text("dtype"),
            architecture=model.text_or_none("architecture"),
            model_type=model.text_or_none("model_type"),
            licence=model.text_or_none("licence"),
        ),
        recipe=fields.raw("recipe"),
        base=LockedBase(
            names=base.texts("names"),
            layout_digest=base.sha256("layout_digest"),
            config_digest=base.sha256("config_digest"),
            repo=base.text_or_none("repo"),
            revision=base.text_or_none("revision"),
            licence=base.text_or_none("licence"),
            files=files_of(base),
        ),
        adapters=tuple(_adapter(one) for one in fields.objects("adapters")),
        files=files_of(fields),
    )
    for part in (engine, model, base, fields):
        part.close()
    if not lock.base.names:
        raise ValueError("base.names is empty")
    if not lock.adapters or not lock.files:
        raise ValueError("it has no adapters or no files")
    return lock


def _adapter(fields: Fields) -> LockedAdapter:
    sources = []
    for source in fields.objects("sources"):
        sources.append(HubSource(source.text("repo"), source.text_or_none("revision")))
        source.close()
    adapter = LockedAdapter(
        name=fields.text("name"),
        number=fields.number("number"),
        digest=fields.sha256("digest"),
        weight=fields.real("weight"),
        licence=fields.text_or_none("licence"),
        sources=tuple(sources),
        files=files_of(fields),
    )
    fields.close()
    return adapter
