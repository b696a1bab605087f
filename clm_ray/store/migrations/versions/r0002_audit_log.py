"""The audit log, whose chained columns the database itself lets nobody change; and the users' keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0002_audit_log"
down_revision = "r0001_first_tables"

_CHAINED = ("seq", "time", "kind", "digest", "hash")


def upgrade() -> None:
    """Make audit_log and audit_keys; mark the store as one that code of the first release must not open."""
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("user_id", sa.String),
        sa.Column("content", sa.Text),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
    )
    op.create_index("audit_of_user", "audit_log", ["user_id"])
    op.create_table(
        "audit_keys",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
    )
    for statement in _GUARD[op.get_bind().dialect.name]:
        op.execute(statement)
    op.execute("UPDATE settings SET value = 'see store_revision' WHERE key = 'schema'")


# What an erasure may do, and nothing else may: blank user and content, never write them.
_GUARD = {
    "sqlite": (
        "CREATE TRIGGER audit_log_is_kept BEFORE DELETE ON audit_log "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
        f"CREATE TRIGGER audit_log_is_fixed BEFORE UPDATE OF {', '.join(_CHAINED)} ON audit_log "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
        "CREATE TRIGGER audit_log_is_not_rewritten BEFORE UPDATE OF user_id, content ON audit_log "
        "WHEN new.user_id IS NOT NULL OR new.content IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
        "CREATE TRIGGER audit_log_is_kept BEFORE DELETE OR TRUNCATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()",
        f"CREATE TRIGGER audit_log_is_fixed BEFORE UPDATE OF {', '.join(_CHAINED)} ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()",
        "CREATE TRIGGER audit_log_is_not_rewritten BEFORE UPDATE OF user_id, content ON audit_log FOR EACH ROW "
        "WHEN (new.user_id IS NOT NULL OR new.content IS NOT NULL) EXECUTE FUNCTION audit_log_refuse()",
    ),
}
