"""What campaigns sent: an action goes out with one part of one campaign, once, however often a campaign is run."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from clm_ray.store.engine import Lock, chunks, hold, insert
from clm_ray.store.records import RetentionDecision
from clm_ray.store.tables import DELIVERIES, RETENTION_DECISIONS


def claim(
    connection: Connection, decisions: Sequence[RetentionDecision], *, campaign: str, part: str, now: int
) -> set[str]:
    """Claim these actions for a part of a campaign. Returns the ids that this part has, now or from an earlier run; the others have gone out
    with another one, or are gone with their users, who were erased meanwhile."""
    hold(connection, Lock.APPEND, shared=True)
    stored = _stored(connection, [decision.action_id for decision in decisions])
    rows = [
        {
            "action_id": decision.action_id,
            "user_id": decision.user_id,
            "campaign": campaign,
            "channel": decision.channel,
            "part": part,
            "claimed_at": now,
        }
        for decision in sorted(decisions, key=lambda one: one.action_id)
        if decision.action_id in stored
    ]
    if rows:
        connection.execute(insert(connection, DELIVERIES).on_conflict_do_nothing(index_elements=["action_id"]), rows)
    of = DELIVERIES.c
    mine: set[str] = set()
    for ids in chunks([row["action_id"] for row in rows]):
        query = select(of.action_id).where(of.action_id.in_(ids), of.campaign == campaign, of.part == part)
        mine.update(connection.execute(query).scalars())
    return mine


def _stored(connection: Connection, action_ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    of = RETENTION_DECISIONS.c
    for part in chunks(action_ids):
        found.update(connection.execute(select(of.action_id).where(of.action_id.in_(part))).scalars())
    return found
