"""Answers of requests with an Idempotency-Key, and the tombstones of erased users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003_answers_and_erasures"
down_revision = "r0002_audit_log"


def upgrade() -> None:
    """Make kept_answers and erased_users."""
    op.create_table(
        "kept_answers",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("body", sa.String, nullable=False),
        sa.Column("token", sa.String, nullable=False),
        sa.Column("user_id", sa.String),
        sa.Column("claimed_until", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("answer", sa.Text),
    )
    op.create_index("kept_answers_token", "kept_answers", ["token"])
    op.create_index("kept_answers_user", "kept_answers", ["user_id"])
    op.create_index("kept_answers_expiry", "kept_answers", ["expires_at"])
    op.create_table(
        "erased_users",
        sa.Column("user", sa.String, primary_key=True),
        sa.Column("erased_at", sa.BigInteger, nullable=False),
        sa.Column("pending", sa.String),
    )
