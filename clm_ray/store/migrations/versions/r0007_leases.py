"""Leases of the budget, and an index that finds reservations nobody came back for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0007_leases"
down_revision = "r0006_items"


def upgrade() -> None:
    """Make leases; what is reserved already stays reserved."""
    op.create_table(
        "leases",
        sa.Column("holder", sa.String, primary_key=True),
        sa.Column("budget", sa.String, sa.ForeignKey("budgets.name"), primary_key=True),
        sa.Column("cap", sa.BigInteger, nullable=False),
        sa.Column("free", sa.BigInteger, nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("free >= 0 AND spent >= 0", name="lease_never_overdrawn"),
    )
    unsettled = sa.text("spent IS NULL")
    op.create_index(
        "open_reservations",
        "reservations",
        ["budget", "created_at"],
        sqlite_where=unsettled,
        postgresql_where=unsettled,
    )
