"""What is set while the policy runs, approvals, consent by channel, and what campaigns sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0005_policy_controls"
down_revision = "r0004_shadow_slates"


def upgrade() -> None:
    """Make policy_controls, approvals, channel_consents and deliveries."""
    op.create_table(
        "policy_controls",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("requested_by", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("decided_at", sa.BigInteger),
        sa.Column("decided_by", sa.String),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "channel_consents",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("channel", sa.String, primary_key=True),
        sa.Column("given", sa.Boolean, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("action_id", sa.String, sa.ForeignKey("retention_decisions.action_id"), primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("campaign", sa.String, nullable=False),
        sa.Column("channel", sa.String, nullable=False),
        sa.Column("part", sa.String, nullable=False),
        sa.Column("claimed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("deliveries_of_part", "deliveries", ["campaign", "part"])
    op.create_index("deliveries_of_user", "deliveries", ["user_id"])
