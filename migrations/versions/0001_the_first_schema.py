"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table of an empty catalog."""
    op.create_table(
        "base",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(193), nullable=False),
        sa.Column("name_key", sa.String(193), nullable=False),
        sa.Column("source_kind", sa.String(8), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("hub_repo", sa.String(193), nullable=True),
        sa.Column("revision", sa.String(256), nullable=True),
        sa.Column("architecture", sa.String(256), nullable=False),
        sa.Column("model_type", sa.String(256), nullable=False),
        sa.Column("dtype", sa.String(16), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("layout_digest", sa.String(64), nullable=False),
        sa.Column("config_digest", sa.String(64), nullable=False),
        sa.Column("licence", sa.String(256), nullable=True),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.CheckConstraint("source_kind IN ('path', 'hub')", name=op.f("ck_base_source_kind")),
        sa.CheckConstraint("bytes >= 0", name=op.f("ck_base_bytes")),
        sa.CheckConstraint("parameters >= 0", name=op.f("ck_base_parameters")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base")),
        sa.UniqueConstraint("name", name=op.f("uq_base_name")),
        sa.UniqueConstraint("name_key", name=op.f("uq_base_name_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_base_layout_digest"), "base", ["layout_digest"])

    op.create_table(
        "history",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(1024), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_history")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_history_action"), "history", ["action"])
    op.create_index(op.f("ix_history_at"), "history", ["at"])
    op.create_index(op.f("ix_history_subject"), "history", ["subject"])

    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(193), nullable=False),
        sa.Column("name_key", sa.String(193), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.CheckConstraint("kind IN ('adapter', 'model')", name=op.f("ck_series_kind")),
        sa.CheckConstraint("last_number >= 0", name=op.f("ck_series_last_number")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint("name", name=op.f("uq_series_name")),
        sa.UniqueConstraint("name_key", name=op.f("uq_series_name_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "base_alias",
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("name_key", sa.String(1024), nullable=False),
        sa.Column("name", sa.String(1024), nullable=False),
        sa.ForeignKeyConstraint(
            ["base_id"], ["base.id"], name=op.f("fk_base_alias_base_id_base"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("base_id", "name_key", name=op.f("pk_base_alias")),
    )
    op.create_index(op.f("ix_base_alias_name_key"), "base_alias", ["name_key"])

    op.create_table(
        "base_file",
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(1024), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.CheckConstraint("size >= 0", name=op.f("ck_base_file_size")),
        sa.ForeignKeyConstraint(
            ["base_id"], ["base.id"], name=op.f("fk_base_file_base_id_base"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("base_id", "path", name=op.f("pk_base_file")),
    )
    op.create_table(
        "version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("name_key", sa.String(193), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("dtype", sa.String(16), nullable=False),
        sa.Column("licence", sa.String(256), nullable=True),
        sa.Column("base_id", sa.Integer(), nullable=True),
        sa.Column("peft_type", sa.String(64), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.CheckConstraint("kind IN ('adapter', 'model')", name=op.f("ck_version_kind")),
        sa.CheckConstraint("bytes >= 0", name=op.f("ck_version_bytes")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_version_number")),
        sa.CheckConstraint("parameters >= 0", name=op.f("ck_version_parameters")),
        sa.CheckConstraint("rank >= 0", name=op.f("ck_version_rank")),
        sa.ForeignKeyConstraint(["base_id"], ["base.id"], name=op.f("fk_version_base_id_base")),
        sa.ForeignKeyConstraint(
            ["series_id"],
            ["series.id"],
            name=op.f("fk_version_series_id_series"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version")),
        sa.UniqueConstraint("digest", "kind", name=op.f("uq_version_digest_kind")),
        sa.UniqueConstraint("series_id", "number", name=op.f("uq_version_series_id_number")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_version_base_id"), "version", ["base_id"])
    op.create_index(op.f("ix_version_bytes"), "version", ["bytes"])
    op.create_index(op.f("ix_version_created_at"), "version", ["created_at"])
    op.create_index(op.f("ix_version_name_key_number"), "version", ["name_key", "number"])
    op.create_index(op.f("ix_version_parameters"), "version", ["parameters"])
    op.create_index(op.f("ix_version_peft_type"), "version", ["peft_type"])
    op.create_index(op.f("ix_version_rank"), "version", ["rank"])

    op.create_table(
        "adapter",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("task_type", sa.String(64), nullable=True),
        sa.Column("rank_min", sa.Integer(), nullable=True),
        sa.Column("alpha", sa.Float(), nullable=True),
        sa.Column("dropout", sa.Float(), nullable=True),
        sa.Column("use_rslora", sa.Boolean(), nullable=False),
        sa.Column("use_dora", sa.Boolean(), nullable=False),
        sa.Column("bias", sa.String(32), nullable=False),
        sa.Column("fan_in_fan_out", sa.Boolean(), nullable=False),
        sa.Column("rank_pattern", sa.JSON(), nullable=False),
        sa.Column("alpha_pattern", sa.JSON(), nullable=False),
        sa.Column("modules_to_save", sa.JSON(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("target_count", sa.Integer(), nullable=False),
        sa.Column("base_hint", sa.String(1024), nullable=True),
        sa.Column("base_revision", sa.String(256), nullable=True),
        sa.Column("peft_version", sa.String(64), nullable=True),
        sa.Column("config", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_adapter_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_adapter")),
    )
    op.create_index(op.f("ix_adapter_base_hint"), "adapter", ["base_hint"])

    op.create_table(
        "alias",
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(96), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.String(27), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"], ["series.id"], name=op.f("fk_alias_series_id_series"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_alias_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("series_id", "name", name=op.f("pk_alias")),
    )
    op.create_index(op.f("ix_alias_name"), "alias", ["name"])
    op.create_index(op.f("ix_alias_version_id"), "alias", ["version_id"])

    op.create_table(
        "file",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(1024), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("size >= 0", name=op.f("ck_file_size")),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_file_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "name", name=op.f("pk_file")),
    )
    op.create_index(op.f("ix_file_sha256"), "file", ["sha256"])

    op.create_table(
        "metric",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(96), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("recorded_at", sa.String(27), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_metric_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric")),
    )
    op.create_index(op.f("ix_metric_version_id_name"), "metric", ["version_id", "name"])

    op.create_table(
        "model",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("recipe_digest", sa.String(64), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_model_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_model")),
    )
    op.create_index(op.f("ix_model_recipe_digest"), "model", ["recipe_digest"])

    op.create_table(
        "model_input",
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(193), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.CheckConstraint("position >= 0", name=op.f("ck_model_input_position")),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["version.id"],
            name=op.f("fk_model_input_model_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_model_input_version_id_version"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("model_version_id", "position", name=op.f("pk_model_input")),
    )
    op.create_index(op.f("ix_model_input_version_id"), "model_input", ["version_id"])

    op.create_table(
        "note",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_note_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_note")),
    )
    op.create_index(op.f("ix_note_version_id"), "note", ["version_id"])

    op.create_table(
        "source",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("revision", sa.String(256), nullable=True),
        sa.Column("added_at", sa.String(27), nullable=False),
        sa.CheckConstraint("kind IN ('path', 'hub')", name=op.f("ck_source_kind")),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_source_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source")),
    )
    op.create_index(op.f("ix_source_kind_location"), "source", ["kind", "location"])
    op.create_index(op.f("ix_source_version_id"), "source", ["version_id"])

    op.create_table(
        "tag",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(96), nullable=False),
        sa.Column("value", sa.String(1024), nullable=False),
        sa.Column("folded", sa.String(1122), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_tag_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "key", name=op.f("pk_tag")),
    )
    op.create_index(op.f("ix_tag_key_value"), "tag", ["key", "value"])

    op.create_table(
        "target",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_target_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "name", name=op.f("pk_target")),
    )
    op.create_index(op.f("ix_target_name"), "target", ["name"])
