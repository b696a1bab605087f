"""Removing users from the store. What they cost stays in the budget's sums; nothing there names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, delete, select

from clm_ray.store import tables
from clm_ray.store.audit import blank
from clm_ray.store.engine import chunks

_OF_USERS = (
    tables.HISTORY_BASE,
    tables.EVENTS,
    tables.USERS,
    tables.SERVED_SLATES,
    tables.RETENTION_DECISIONS,
)
"""In an order in which nothing refers to a row that is gone."""


@dataclass(frozen=True)
class Erased:
    """removed: table → rows deleted. decisions: ids of the slates that were served to the users."""

    removed: dict[str, int]
    decisions: list[str]


def erase(connection: Connection, user_ids: Sequence[str], *, now: int) -> Erased:
    """Delete every row of these users. Reservations go with the decision that settled them; of the audit log's entries
    (`removed` counts them) the chain stays, without user and content. `now`: µs, of the audit log's entry about this."""
    decisions = _slates_of(connection, user_ids)
    removed = dict.fromkeys((table.name for table in (*_OF_USERS, tables.RESERVATIONS)), 0)
    for part in chunks(dict.fromkeys(user_ids)):
        actions = connection.execute(
            select(tables.RETENTION_DECISIONS.c.action_id).where(tables.RETENTION_DECISIONS.c.user_id.in_(part))
        )
        for keys in chunks(actions.scalars().all()):
            settled = tables.RESERVATIONS.c.spent.is_not(None)
            _delete(connection, tables.RESERVATIONS, tables.RESERVATIONS.c.key.in_(keys) & settled, removed)
        for table in _OF_USERS:
            _delete(connection, table, table.c.user_id.in_(part), removed)
    removed[tables.AUDIT_LOG.name], removed[tables.AUDIT_KEYS.name] = blank(connection, user_ids, now=now)
    return Erased(removed, decisions)


def _slates_of(connection: Connection, user_ids: Sequence[str]) -> list[str]:
    of = tables.SERVED_SLATES.c
    return [
        decision
        for part in chunks(dict.fromkeys(user_ids))
        for decision in connection.execute(select(of.decision_id).where(of.user_id.in_(part))).scalars()
    ]


def _delete(connection: Connection, table: Table, which: object, removed: dict[str, int]) -> None:
    removed[table.name] += connection.execute(delete(table).where(which)).rowcount  # type: ignore[arg-type]
