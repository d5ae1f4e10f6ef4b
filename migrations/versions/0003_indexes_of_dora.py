"""Finding DoRA and rsLoRA adapters without reading every configuration."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the two indexes; no row that is there changes."""
    op.create_index(op.f("ix_adapter_use_dora"), "adapter", ["use_dora"])
    op.create_index(op.f("ix_adapter_use_rslora"), "adapter", ["use_rslora"])
