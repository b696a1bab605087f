"""The tables of the online store, the same on every backend, as the code uses them; migrations/versions says how a database gets there.

    settings              what is set once per store: id, clock offset, loaded dataset, compaction watermark
    history_base          one compacted history per user, replaced whenever a dataset is loaded
    events                what came in since, append-only
    users                 what users told us themselves, over the dataset's user table
    retention_decisions   one per user and epoch
    served_slates         one per answer of the endpoint; refers to the retention decision that was in force
    kept_answers          answers of requests with an Idempotency-Key, until they expire
    changed_items         items put or deleted since the release's catalogue was made;  changed_vectors  theirs, for each release
    erased_users          who was erased, by hash, and when: nothing of the time before comes back
    shadow_slates         what a release that is only watched would have answered
    budgets, leases,      the ledger, in millionths of the currency so that sums are exact; `store.leases` says how the three
    reservations          belong together
    audit_log             who did what, append-only, each entry chained to the one before it by its hash
    audit_keys            one random key per user, under which the user's entries are digested; erased with the user
    policy_controls       kill switch, stopped actions, price of budget, learned uplifts, baseline
    approvals             what was asked, and what a person said
    channel_consents      what users told us about single channels
    deliveries            which part of which campaign an action went out with; once per action

Times are UTC microseconds. `seq` grows with each row, is never reused, and is what compaction counts by. SQLite has one writer at a
time, so commits follow `seq`. On PostgreSQL writers overlap: they share a lock while they append, and compaction and erasures take it alone for a
moment, so that they never pass a row that is not committed yet.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

_SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")

SETTINGS = Table("settings", METADATA, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

HISTORY_BASE = Table(
    "history_base",
    METADATA,
    Column("user_id", String, primary_key=True),
    Column("dataset", String, nullable=False),
    Column("upto", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
    Column("event_id", String, nullable=False, unique=True),
    Column("user_id", String, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("item_id", String),
    Column("event_type", String, nullable=False),
    Column("value", Double),
    Column("decision_id", String),
    Column("context", Text, nullable=False),
    Index("events_of_user", "user_id", "timestamp"),
    sqlite_autoincrement=True,
)

USERS = Table(
    "users",
    METADATA,
    Column("user_id", String, primary_key=True),
    Column("consent", Boolean),
    Column("timezone", String),
)

RETENTION_DECISIONS = Table(
    "retention_decisions",
    METADATA,
    Column("action_id", String, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("action", String, nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("user_id", "epoch", name="one_decision_per_user_and_epoch"),
)

SERVED_SLATES = Table(
    "served_slates",
    METADATA,
    Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
    Column("decision_id", String, nullable=False, unique=True),
    Column("user_id", String, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("action_id", String, ForeignKey("retention_decisions.action_id")),
    Column("record", Text, nullable=False),
    Index("slates_by_time", "time"),
    Index("slates_of_user", "user_id"),
    sqlite_autoincrement=True,
)

KEPT_ANSWERS = Table(
    "kept_answers",
    METADATA,
    Column("key", String, primary_key=True),
    Column("body", String, nullable=False),
    Column("token", String, nullable=False),
    Column("user_id", String),
    Column("claimed_until", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("answer", Text),
    Index("kept_answers_token", "token"),
    Index("kept_answers_user", "user_id"),
    Index("kept_answers_expiry", "expires_at"),
)

CHANGED_ITEMS = Table(
    "changed_items",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("item_id", String, nullable=False, unique=True),
    Column("version", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("record", Text),
    Index("changed_items_version", "version"),
)

CHANGED_VECTORS = Table(
    "changed_vectors",
    METADATA,
    Column("release", String, primary_key=True),
    Column("item_id", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Index("changed_vectors_change", "release", "change"),
)

ERASED_USERS = Table(
    "erased_users",
    METADATA,
    Column("user", String, primary_key=True),
    Column("erased_at", BigInteger, nullable=False),
    Column("pending", String),
)

SHADOW_SLATES = Table(
    "shadow_slates",
    METADATA,
    Column("decision_id", String, primary_key=True),
    Column("release_id", String, primary_key=True),
    Column("user_id", String, nullable=False, index=True),
    Column("record", Text, nullable=False),
)

BUDGETS = Table(
    "budgets",
    METADATA,
    Column("name", String, primary_key=True),
    Column("cap", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    CheckConstraint("reserved >= 0 AND spent >= 0 AND reserved + spent <= cap", name="never_overspent"),
)

LEASES = Table(
    "leases",
    METADATA,
    Column("holder", String, primary_key=True),
    Column("budget", String, ForeignKey("budgets.name"), primary_key=True),
    Column("cap", BigInteger, nullable=False),
    Column("free", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    CheckConstraint("free >= 0 AND spent >= 0", name="lease_never_overdrawn"),
)

RESERVATIONS = Table(
    "reservations",
    METADATA,
    Column("key", String, primary_key=True),
    Column("budget", String, ForeignKey("budgets.name"), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("spent", BigInteger),
    Column("created_at", BigInteger, nullable=False),
)
Index(
    "open_reservations",
    RESERVATIONS.c.budget,
    RESERVATIONS.c.created_at,
    sqlite_where=RESERVATIONS.c.spent.is_(None),
    postgresql_where=RESERVATIONS.c.spent.is_(None),
)

AUDIT_LOG = Table(
    "audit_log",
    METADATA,
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("user_id", String),
    Column("content", Text),
    Column("digest", String, nullable=False),
    Column("hash", String, nullable=False),
    Index("audit_of_user", "user_id"),
)

AUDIT_KEYS = Table(
    "audit_keys",
    METADATA,
    Column("user_id", String, primary_key=True),
    Column("key", LargeBinary, nullable=False),
)

POLICY_CONTROLS = Table(
    "policy_controls",
    METADATA,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", String, nullable=False),
    Column("reason", Text, nullable=False),
)

APPROVALS = Table(
    "approvals",
    METADATA,
    Column("approval_id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    Column("requested_by", String, nullable=False),
    Column("status", String, nullable=False),
    Column("decided_at", BigInteger),
    Column("decided_by", String),
    Column("expires_at", BigInteger),
    Column("note", Text, nullable=False),
)

CHANNEL_CONSENTS = Table(
    "channel_consents",
    METADATA,
    Column("user_id", String, primary_key=True),
    Column("channel", String, primary_key=True),
    Column("given", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("action_id", String, ForeignKey("retention_decisions.action_id"), primary_key=True),
    Column("user_id", String, nullable=False),
    Column("campaign", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("part", String, nullable=False),
    Column("claimed_at", BigInteger, nullable=False),
    Index("deliveries_of_part", "campaign", "part"),
    Index("deliveries_of_user", "user_id"),
)
