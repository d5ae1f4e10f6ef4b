"""Which copies of a version lie on the Hub."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of remote copies; no row that is there changes."""
    op.create_table(
        "remote",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("direction", sa.String(4), nullable=False),
        sa.Column("repo", sa.String(193), nullable=False),
        sa.Column("repo_type", sa.String(16), nullable=False),
        sa.Column("subfolder", sa.String(1024), nullable=False),
        sa.Column("revision", sa.String(256), nullable=False),
        sa.Column("commit_oid", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("at", sa.String(27), nullable=False),
        sa.CheckConstraint("direction IN ('push', 'pull')", name=op.f("ck_remote_direction")),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["version.id"],
            name=op.f("fk_remote_version_id_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remote")),
    )
    op.create_index(op.f("ix_remote_repo"), "remote", ["repo"])
    op.create_index(op.f("ix_remote_version_id"), "remote", ["version_id"])
