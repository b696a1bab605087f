"""An index that finds the slates of a user: who erases or exports somebody need not read them all."""

from __future__ import annotations

from alembic import op

revision = "r0008_slates_of_user"
down_revision = "r0007_leases"


def upgrade() -> None:
    """Make it."""
    op.create_index("slates_of_user", "served_slates", ["user_id"])
