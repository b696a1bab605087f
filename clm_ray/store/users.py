"""What users told us themselves: consent and time zone; and who of them was erased, since a user table in memory does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, select

from clm_ray.store.contacts import forget_channels
from clm_ray.store.engine import chunks, insert
from clm_ray.store.erase import tombstones
from clm_ray.store.records import UserOverlay
from clm_ray.store.tables import USERS


def overlays(connection: Connection, user_ids: Sequence[str]) -> dict[str, UserOverlay]:
    """User → what they told us; users who told nothing and were never erased are left out."""
    found: dict[str, UserOverlay] = {}
    for part in chunks(dict.fromkeys(user_ids)):
        for row in connection.execute(select(USERS).where(USERS.c.user_id.in_(part))):
            found[row.user_id] = UserOverlay(row.user_id, row.consent, row.timezone)
    for user_id, stone in tombstones(connection, user_ids).items():
        told = found.get(user_id, UserOverlay(user_id))
        found[user_id] = replace(told, erased=True, pending=stone.pending)
    return found


def put_overlays(connection: Connection, told: Sequence[UserOverlay]) -> None:
    """Replace what is known of these users. Who says no in general says no to every channel, whatever they said of it before."""
    rows = [{"user_id": o.user_id, "consent": o.consent, "timezone": o.timezone} for o in told]
    statement = insert(connection, USERS)
    new = {name: statement.excluded[name] for name in ("consent", "timezone")}
    connection.execute(statement.on_conflict_do_update(index_elements=["user_id"], set_=new), rows)
    forget_channels(connection, [o.user_id for o in told if o.consent is False])
