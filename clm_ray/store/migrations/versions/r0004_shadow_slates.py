"""What a release that is only watched would have answered; and served slates can be found by their time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004_shadow_slates"
down_revision = "r0003_answers_and_erasures"


def upgrade() -> None:
    """Make shadow_slates and the index of served_slates."""
    op.create_table(
        "shadow_slates",
        sa.Column("decision_id", sa.String, primary_key=True),
        sa.Column("release_id", sa.String, primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("ix_shadow_slates_user_id", "shadow_slates", ["user_id"])
    op.create_index("slates_by_time", "served_slates", ["time"])
