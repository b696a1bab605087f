"""Items put or deleted over HTTP, and their vectors for each release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0006_items"
down_revision = "r0005_policy_controls"


def upgrade() -> None:
    """Make changed_items and changed_vectors."""
    op.create_table(
        "changed_items",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("item_id", sa.String, nullable=False, unique=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text),
    )
    op.create_index("changed_items_version", "changed_items", ["version"])
    op.create_table(
        "changed_vectors",
        sa.Column("release", sa.String, primary_key=True),
        sa.Column("item_id", sa.String, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("change", sa.BigInteger, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    op.create_index("changed_vectors_change", "changed_vectors", ["release", "change"])
