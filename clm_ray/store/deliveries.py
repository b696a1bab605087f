"""What campaigns sent: an action goes out with one part of one campaign, once, however often a campaign is run."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from clm_ray.store.engine import chunks, insert
from clm_ray.store.records import RetentionDecision
from clm_ray.store.tables import DELIVERIES


def claim(
    connection: Connection, decisions: Sequence[RetentionDecision], *, campaign: str, part: str, now: int
) -> set[str]:
    """Claim these actions for a part of a campaign. Returns the ids that this part has, now or from an earlier run; the others have gone out
    with another one."""
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
    ]
    if rows:
        connection.execute(insert(connection, DELIVERIES).on_conflict_do_nothing(index_elements=["action_id"]), rows)
    of = DELIVERIES.c
    mine: set[str] = set()
    for ids in chunks([row["action_id"] for row in rows]):
        query = select(of.action_id).where(of.action_id.in_(ids), of.campaign == campaign, of.part == part)
        mine.update(connection.execute(query).scalars())
    return mine
