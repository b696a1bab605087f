"""Removing users from the store. What they cost stays in the budget's sums; nothing there names them.

A tombstone stays: a hash of the user and the moment of the erasure. What arrives later and lies before it (an event sent late or again, a dataset made
before, the decision and the slate of a request that was under way) is not taken in. Until the files of the workspace are erased too
(jobs/erase.py --pending), it names the user, or nobody could.

On PostgreSQL writers run beside each other. Who adds rows about users holds a lock shared and then asks for tombstones (`standing`); an erasure takes
it alone: so it sees every row that was added before, and everybody after it sees its tombstone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, delete, select, update

from clm_ray.store import tables
from clm_ray.store.audit import blank
from clm_ray.store.engine import Lock, chunks, hold, insert

OF_USERS = (
    tables.HISTORY_BASE,
    tables.EVENTS,
    tables.USERS,
    tables.SHADOW_SLATES,
    tables.CHANNEL_CONSENTS,
    tables.DELIVERIES,
    tables.SERVED_SLATES,
    tables.RETENTION_DECISIONS,
    tables.KEPT_ANSWERS,
)
"""In an order in which nothing refers to a row that is gone."""


@dataclass(frozen=True)
class Erased:
    """removed: table → rows deleted. decisions: ids of the slates that were served to the users. at: nothing of the time before is taken in, µs."""

    removed: dict[str, int]
    decisions: list[str]
    at: int = 0


@dataclass(frozen=True)
class Tombstone:
    """erased_at: nothing of the time before is taken in, µs. pending: the files of the workspace are not erased yet."""

    erased_at: int
    pending: bool


def erase(connection: Connection, user_ids: Sequence[str], *, now: int, at: Callable[[], int], pending: bool) -> Erased:
    """Delete every row of these users. Reservations go with the decision that settled them; of the audit log's entries
    (`removed` counts them) the chain stays, without user and content. `now`: µs, of the audit log's entry about this. `at` (µs, asked when all is
    deleted) and `pending`: of the tombstone."""
    hold(connection, Lock.BASES)  # first: while this waits for a dataset that is loaded, the endpoint goes on
    hold(connection, Lock.APPEND)
    decisions = _slates_of(connection, user_ids)
    removed = dict.fromkeys((table.name for table in (*OF_USERS, tables.RESERVATIONS)), 0)
    for part in chunks(dict.fromkeys(user_ids)):
        actions = connection.execute(
            select(tables.RETENTION_DECISIONS.c.action_id).where(tables.RETENTION_DECISIONS.c.user_id.in_(part))
        )
        for keys in chunks(actions.scalars().all()):
            settled = tables.RESERVATIONS.c.spent.is_not(None)
            _delete(connection, tables.RESERVATIONS, tables.RESERVATIONS.c.key.in_(keys) & settled, removed)
        for table in OF_USERS:
            _delete(connection, table, table.c.user_id.in_(part), removed)
    removed[tables.AUDIT_LOG.name], removed[tables.AUDIT_KEYS.name] = blank(connection, user_ids, now=now)
    moment = at()
    _bury(connection, user_ids, at=moment, pending=pending)
    return Erased(removed, decisions, moment)


def standing(connection: Connection, user_ids: Iterable[str], *, lock: Lock = Lock.APPEND) -> dict[str, int]:
    """When each of these users was erased, µs, which holds until the transaction ends: an erasure waits for it. Ask before any row is locked."""
    hold(connection, lock, shared=True)
    return {user_id: stone.erased_at for user_id, stone in tombstones(connection, user_ids).items()}


def tombstones(connection: Connection, user_ids: Iterable[str]) -> dict[str, Tombstone]:
    """The tombstone of each of these users who was ever erased."""
    of = tables.ERASED_USERS.c
    if connection.execute(select(of.user).limit(1)).scalar() is None:
        return {}
    found = {}
    for part in chunks(dict.fromkeys(user_ids)):
        named = {_hash(user_id): user_id for user_id in part}
        for row in connection.execute(select(tables.ERASED_USERS).where(of.user.in_(named))):
            found[named[row.user]] = Tombstone(row.erased_at, row.pending is not None)
    return found


def pending(connection: Connection) -> list[str]:
    """The users whose files are not erased yet, in order."""
    of = tables.ERASED_USERS.c
    query = select(of.pending).where(of.pending.is_not(None)).order_by(of.pending)
    return [str(user_id) for user_id in connection.execute(query).scalars()]


def finish_erasures(connection: Connection, user_ids: Sequence[str]) -> None:
    """Their tombstones name them no longer."""
    of = tables.ERASED_USERS.c
    for part in chunks(user_ids):
        connection.execute(update(tables.ERASED_USERS).where(of.pending.in_(part)).values(pending=None))


def _bury(connection: Connection, user_ids: Sequence[str], *, at: int, pending: bool) -> None:
    rows = [{"user": _hash(u), "erased_at": at, "pending": u if pending else None} for u in dict.fromkeys(user_ids)]
    if rows:
        statement = insert(connection, tables.ERASED_USERS)
        new = {name: statement.excluded[name] for name in ("erased_at", "pending")}
        connection.execute(statement.on_conflict_do_update(index_elements=["user"], set_=new), rows)


def _hash(user_id: str) -> str:
    return hashlib.sha256(b"erased:" + user_id.encode()).hexdigest()


def _slates_of(connection: Connection, user_ids: Sequence[str]) -> list[str]:
    of = tables.SERVED_SLATES.c
    return [
        decision
        for part in chunks(dict.fromkeys(user_ids))
        for decision in connection.execute(select(of.decision_id).where(of.user_id.in_(part))).scalars()
    ]


def _delete(connection: Connection, table: Table, which: object, removed: dict[str, int]) -> None:
    removed[table.name] += connection.execute(delete(table).where(which)).rowcount  # type: ignore[arg-type]
