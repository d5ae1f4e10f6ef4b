"""The values that go into the catalog and come out of it: frozen, and none does I/O.

VersionKey       which version; what every other function takes
Content          the bytes of a version: digest, size, files
AdapterFacts     what an adapter is            ─┐ + VersionKey, Content, Marks …
ModelFacts       how a model was built         ─┘ = AdapterVersion, ModelVersion
BaseFacts        what a base is; BaseRecord once it has a name
ListQuery        what a listing asks; ListRow, one line of the answer
HistoryEntry     one thing that was done
Remote           a copy of a version on the Hub
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from adreg.registry.digest import FileDigest
from adreg.registry.names import Tag

Kind = Literal["adapter", "model"]
SourceKind = Literal["path", "hub"]
Direction = Literal["push", "pull"]
SortKey = Literal["name", "created", "bytes", "parameters", "rank"]


@dataclass(frozen=True, slots=True)
class Series:
    """A name in the catalog, of adapters or of models."""

    id: int
    name: str
    kind: Kind
    created_at: datetime


@dataclass(frozen=True, slots=True)
class VersionKey:
    """Which version: enough to name it and to ask for the rest."""

    id: int
    series_id: int
    name: str
    number: int
    kind: Kind
    digest: str

    def __str__(self) -> str:
        """The reference that names this version for ever: ``team/support@3``."""
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a version; ``digest`` is that of its files, ``dtype`` a safetensors code."""

    digest: str
    bytes: int
    parameters: int
    dtype: str
    files: tuple[FileDigest, ...]
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter is; ``rank`` and ``rank_min`` are the largest and smallest of its modules.

    ``targets`` are the last names of the modules that it touches, ``config`` is its
    configuration file as it was.
    """

    peft_type: str
    config: str
    targets: tuple[str, ...]
    target_count: int
    task_type: str | None = None
    rank: int | None = None
    rank_min: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    fan_in_fan_out: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    base_hint: str | None = None
    base_revision: str | None = None
    peft_version: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """How a model was built, and the folder where it lies."""

    method: str
    location: Path
    recipe: Mapping[str, Any]
    recipe_digest: str
    engine: str
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A version that a model was built from, as it was called then.

    ``version_id`` is None once that version was removed by force.
    """

    version_id: int | None
    name: str
    number: int
    digest: str
    weight: float

    @classmethod
    def of(cls, key: VersionKey, weight: float) -> ModelInput:
        """Make the input that a version is now."""
        return cls(key.id, key.name, key.number, key.digest, weight)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a version came from: a folder, or a Hub repository at a commit."""

    kind: SourceKind
    location: str
    added_at: datetime
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Remote:
    """A copy of a version on the Hub: it was pushed there, or pulled from there.

    ``revision`` is what was asked for (``main``), ``commit`` what that was then, in hex;
    ``digest`` is the version's. ``subfolder`` is empty for the top of the repository.
    """

    direction: Direction
    repo: str
    repo_type: str
    revision: str
    commit: str
    digest: str
    at: datetime
    url: str | None = None
    subfolder: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A remark that somebody left on a version."""

    text: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured number; one name may be measured many times."""

    name: str
    value: float
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Marks:
    """What people said of a version; each in the order of its name or of its time."""

    aliases: tuple[str, ...] = ()
    tags: tuple[Tag, ...] = ()
    notes: tuple[Note, ...] = ()
    metrics: tuple[Metric, ...] = ()


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What a base is and where it lies; ``location`` is the absolute path of its folder."""

    source_kind: SourceKind
    location: Path
    architecture: str
    model_type: str
    dtype: str
    parameters: int
    bytes: int
    layout_digest: str
    config_digest: str
    hub_repo: str | None = None
    revision: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class BaseFile:
    """One file of a base as it was last seen; ``sha256`` is None until somebody hashed it."""

    path: str
    size: int
    mtime_ns: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """A base under its name; ``aliases`` are the other names that it is known by."""

    id: int
    name: str
    facts: BaseFacts
    aliases: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """What the catalog knows of a version, whatever its kind.

    ``latest`` tells whether it has the highest number of its series, ``models``
    are those that were built from it.
    """

    key: VersionKey
    content: Content
    base: BaseRecord | None
    marks: Marks
    sources: tuple[Source, ...]
    models: tuple[VersionKey, ...]
    latest: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AdapterVersion(VersionRecord):
    """All that the catalog knows of one version of an adapter."""

    facts: AdapterFacts


@dataclass(frozen=True, slots=True)
class ModelVersion(VersionRecord):
    """All that the catalog knows of one model; its inputs stand in the recipe's order."""

    facts: ModelFacts
    inputs: tuple[ModelInput, ...]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a listing asks for; every filter that is set must hold.

    Without ``all_versions`` only the newest version of each series is looked at.
    ``base`` is a name or other name of a base, or what an adapter without one
    calls its base. ``text`` is words, each of which must stand in the name, a tag
    or a note. ``where`` is a search in the language of ``grammar``. A tag without a
    value asks for its key with any value. ``limit`` is None for no limit.
    """

    kind: Kind | None = None
    base: str = ""
    peft_type: str = ""
    rank: int | None = None
    rank_min: int | None = None
    rank_max: int | None = None
    targets: tuple[str, ...] = ()
    tags: tuple[Tag, ...] = ()
    alias: str = ""
    text: str = ""
    where: str = ""
    all_versions: bool = False
    sort: SortKey = "name"
    descending: bool = False
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ListRow:
    """One line of a listing.

    ``base`` is the name of the base in the catalog, ``base_hint`` what the adapter
    calls it. ``peft_type``, ``rank``, ``alpha``, ``base_hint`` and ``targets`` are
    of adapters, ``method`` and ``location`` of models.
    """

    key: VersionKey
    bytes: int
    parameters: int
    dtype: str
    licence: str | None
    created_at: datetime
    base: str | None
    base_hint: str | None
    peft_type: str | None
    rank: int | None
    alpha: float | None
    targets: tuple[str, ...]
    method: str | None
    location: Path | None
    aliases: tuple[str, ...]
    tags: tuple[Tag, ...]
    versions: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How much the catalog holds."""

    adapters: int
    adapter_versions: int
    models: int
    model_versions: int
    bases: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that was done: who did what to what, and the particulars as plain JSON.

    ``id`` is 0 until the entry is in the catalog; ids grow in the order of writing.
    """

    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0
