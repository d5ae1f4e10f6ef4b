"""The tables of the catalog, as SQLAlchemy Core metadata.

    series ── version ─┬─ adapter, target        what an adapter is
                       ├─ model, model_input     what a model was built from
                       ├─ file, source           its bytes, where they came from
                       ├─ remote                 its copies on the Hub
                       └─ alias, tag, note, metric
    base ── base_alias, base_file
    history                                      append-only, refers to nothing

Adapters and models share ``series``, since a reference may name either. A text
that is looked up whatever its case has a folded copy beside it (``fold``).
``version`` holds the columns that listings filter and sort by, so that a page of
a listing walks one index and joins only the rows that it shows.

What stands here and what the migrations make is the same; a test compares them.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

from adreg.registry.catalog.folding import fold as fold  # noqa: PLC0414  # its users look here

NAME = 193
"""Characters of the longest name: two parts of 96 and the slash."""
PART = 96
SHA256 = 64


class Moment(TypeDecorator[datetime]):
    """A UTC time as ISO-8601 text of fixed width: it sorts, reads and ports the same everywhere."""

    impl = String(27)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Write an aware time in UTC; raise ValueError for one without a zone."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Read it back, aware."""
        del dialect
        # datetime.fromisoformat knows the letter Z only from Python 3.11 on.
        return None if value is None else datetime.fromisoformat(value[:-1] + "+00:00")


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _identity() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=True)


def _of_version(*, primary_key: bool = False, name: str = "version_id") -> Column[int]:
    target = ForeignKey("version.id", ondelete="CASCADE")
    return Column(name, Integer, target, primary_key=primary_key, nullable=False)


def _text(name: str, kind: Any = Text, *, null: bool = False) -> Column[str]:  # noqa: ANN401
    return Column(name, kind, nullable=null)


# AUTOINCREMENT, so that the id of something that was removed never comes back
# as the id of something else.
series = Table(
    "series",
    metadata,
    _identity(),
    _text("name", String(NAME)),
    _text("name_key", String(NAME)),
    _text("kind", String(8)),
    Column("last_number", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    UniqueConstraint("name"),
    UniqueConstraint("name_key"),
    CheckConstraint("kind IN ('adapter', 'model')", name="kind"),
    CheckConstraint("last_number >= 0", name="last_number"),
    sqlite_autoincrement=True,
)
"""``last_number`` is the highest number ever given, so that none is given twice."""

base = Table(
    "base",
    metadata,
    _identity(),
    _text("name", String(NAME)),
    _text("name_key", String(NAME)),
    _text("source_kind", String(8)),
    _text("location"),
    _text("hub_repo", String(NAME), null=True),
    _text("revision", String(256), null=True),
    _text("architecture", String(256)),
    _text("model_type", String(256)),
    _text("dtype", String(16)),
    Column("parameters", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    _text("layout_digest", String(SHA256)),
    _text("config_digest", String(SHA256)),
    _text("licence", String(256), null=True),
    Column("created_at", Moment, nullable=False),
    UniqueConstraint("name"),
    UniqueConstraint("name_key"),
    CheckConstraint("source_kind IN ('path', 'hub')", name="source_kind"),
    CheckConstraint("parameters >= 0", name="parameters"),
    CheckConstraint("bytes >= 0", name="bytes"),
    Index(None, "layout_digest"),
    sqlite_autoincrement=True,
)

base_alias = Table(
    "base_alias",
    metadata,
    Column("base_id", Integer, ForeignKey("base.id", ondelete="CASCADE"), primary_key=True),
    Column("name_key", String(1024), primary_key=True),
    _text("name", String(1024)),
    Index(None, "name_key"),
)

base_file = Table(
    "base_file",
    metadata,
    Column("base_id", Integer, ForeignKey("base.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(1024), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    _text("sha256", String(SHA256), null=True),
    CheckConstraint("size >= 0", name="size"),
)

version = Table(
    "version",
    metadata,
    _identity(),
    Column("series_id", Integer, ForeignKey("series.id", ondelete="CASCADE"), nullable=False),
    _text("name_key", String(NAME)),
    _text("kind", String(8)),
    Column("number", Integer, nullable=False),
    _text("digest", String(SHA256)),
    Column("bytes", BigInteger, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    _text("dtype", String(16)),
    _text("licence", String(256), null=True),
    Column("base_id", Integer, ForeignKey("base.id"), nullable=True),
    _text("peft_type", String(64), null=True),
    Column("rank", Integer, nullable=True),
    Column("created_at", Moment, nullable=False),
    UniqueConstraint("series_id", "number"),
    UniqueConstraint("digest", "kind"),
    CheckConstraint("kind IN ('adapter', 'model')", name="kind"),
    CheckConstraint("number >= 1", name="number"),
    CheckConstraint("bytes >= 0", name="bytes"),
    CheckConstraint("parameters >= 0", name="parameters"),
    CheckConstraint("rank >= 0", name="rank"),
    Index(None, "name_key", "number"),
    Index(None, "created_at"),
    Index(None, "bytes"),
    Index(None, "parameters"),
    Index(None, "rank"),
    Index(None, "peft_type"),
    Index(None, "base_id"),
    sqlite_autoincrement=True,
)
"""``name_key`` is its series' again; ``peft_type`` and ``rank`` are NULL for models.

``rank`` is the largest that a module of the adapter has.
"""

adapter = Table(
    "adapter",
    metadata,
    _of_version(primary_key=True),
    _text("task_type", String(64), null=True),
    Column("rank_min", Integer, nullable=True),
    Column("alpha", Float, nullable=True),
    Column("dropout", Float, nullable=True),
    Column("use_rslora", Boolean, nullable=False),
    Column("use_dora", Boolean, nullable=False),
    _text("bias", String(32)),
    Column("fan_in_fan_out", Boolean, nullable=False),
    Column("rank_pattern", JSON, nullable=False),
    Column("alpha_pattern", JSON, nullable=False),
    Column("modules_to_save", JSON, nullable=False),
    Column("targets", JSON, nullable=False),
    Column("target_count", Integer, nullable=False),
    _text("base_hint", String(1024), null=True),
    _text("base_revision", String(256), null=True),
    _text("peft_version", String(64), null=True),
    _text("config"),
    Index(None, "base_hint"),
    Index(None, "use_dora"),
    Index(None, "use_rslora"),
)

target = Table(
    "target",
    metadata,
    _of_version(primary_key=True),
    Column("name", String(256), primary_key=True),
    Index(None, "name"),
)

model = Table(
    "model",
    metadata,
    _of_version(primary_key=True),
    _text("method", String(64)),
    _text("location"),
    Column("recipe", JSON, nullable=False),
    _text("recipe_digest", String(SHA256)),
    _text("engine"),
    Column("report", JSON(none_as_null=True), nullable=True),
    Index(None, "recipe_digest"),
)

model_input = Table(
    "model_input",
    metadata,
    _of_version(primary_key=True, name="model_version_id"),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("version_id", Integer, ForeignKey("version.id", ondelete="SET NULL"), nullable=True),
    _text("digest", String(SHA256)),
    _text("name", String(NAME)),
    Column("number", Integer, nullable=False),
    Column("weight", Float, nullable=False),
    CheckConstraint("position >= 0", name="position"),
    Index(None, "version_id"),
)
"""The name, number and digest stay when the version that they name is removed by force."""

file = Table(
    "file",
    metadata,
    _of_version(primary_key=True),
    Column("name", String(1024), primary_key=True),
    _text("sha256", String(SHA256)),
    Column("size", BigInteger, nullable=False),
    CheckConstraint("size >= 0", name="size"),
    Index(None, "sha256"),
)

source = Table(
    "source",
    metadata,
    _identity(),
    _of_version(),
    _text("kind", String(8)),
    _text("location"),
    _text("revision", String(256), null=True),
    Column("added_at", Moment, nullable=False),
    CheckConstraint("kind IN ('path', 'hub')", name="kind"),
    Index(None, "version_id"),
    Index(None, "kind", "location"),
)

remote = Table(
    "remote",
    metadata,
    _identity(),
    _of_version(),
    _text("direction", String(4)),
    _text("repo", String(NAME)),
    _text("repo_type", String(16)),
    _text("subfolder", String(1024)),
    _text("revision", String(256)),
    _text("commit_oid", String(64)),
    _text("digest", String(SHA256)),
    _text("url", null=True),
    Column("at", Moment, nullable=False),
    CheckConstraint("direction IN ('push', 'pull')", name="direction"),
    Index(None, "version_id"),
    Index(None, "repo"),
)
"""``revision`` is the branch, tag or commit that was asked for, ``digest`` the version's then."""

alias = Table(
    "alias",
    metadata,
    Column("series_id", Integer, ForeignKey("series.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(PART), primary_key=True),
    _of_version(),
    Column("updated_at", Moment, nullable=False),
    Index(None, "version_id"),
    Index(None, "name"),
)

tag = Table(
    "tag",
    metadata,
    _of_version(primary_key=True),
    Column("key", String(PART), primary_key=True),
    _text("value", String(1024)),
    _text("folded", String(1122)),
    Index(None, "key", "value"),
)
"""``value`` is empty for a plain tag; ``folded`` is the folded ``key`` or ``key=value``."""

note = Table(
    "note",
    metadata,
    _identity(),
    _of_version(),
    _text("text"),
    _text("folded"),
    Column("created_at", Moment, nullable=False),
    Index(None, "version_id"),
)

metric = Table(
    "metric",
    metadata,
    _identity(),
    _of_version(),
    _text("name", String(PART)),
    Column("value", Float, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Index(None, "version_id", "name"),
)

history = Table(
    "history",
    metadata,
    _identity(),
    Column("at", Moment, nullable=False),
    _text("actor", String(256)),
    _text("action", String(64)),
    _text("subject", String(1024)),
    Column("detail", JSON, nullable=False),
    Index(None, "at"),
    Index(None, "action"),
    Index(None, "subject"),
    sqlite_autoincrement=True,
)
"""No foreign key, so that removing what an entry tells of never touches the entry."""
