"""The tables of the first release (its stores say `schema = 1` in the settings)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001_first_tables"
down_revision = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make settings, histories, events, users, decisions, slates and the ledger."""
    op.create_table(
        "settings",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "history_base",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("upto", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String, nullable=False, unique=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("item_id", sa.String),
        sa.Column("event_type", sa.String, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("decision_id", sa.String),
        sa.Column("context", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_of_user", "events", ["user_id", "timestamp"])
    op.create_table(
        "users",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("consent", sa.Boolean),
        sa.Column("timezone", sa.String),
    )
    _decisions()
    _ledger()
    op.execute("INSERT INTO settings (key, value) VALUES ('schema', '1')")


def _decisions() -> None:
    op.create_table(
        "retention_decisions",
        sa.Column("action_id", sa.String, primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.UniqueConstraint("user_id", "epoch", name="one_decision_per_user_and_epoch"),
    )
    op.create_table(
        "served_slates",
        sa.Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("decision_id", sa.String, nullable=False, unique=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("action_id", sa.String, sa.ForeignKey("retention_decisions.action_id")),
        sa.Column("record", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )


def _ledger() -> None:
    op.create_table(
        "budgets",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("cap", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.CheckConstraint("reserved >= 0 AND spent >= 0 AND reserved + spent <= cap", name="never_overspent"),
    )
    op.create_table(
        "reservations",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("budget", sa.String, sa.ForeignKey("budgets.name"), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("spent", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
