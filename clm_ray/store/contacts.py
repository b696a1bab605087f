"""What users got before, and by which channels they agreed to be contacted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, delete, select

from clm_ray.config.stages import NO_ACTION
from clm_ray.store.engine import chunks, insert
from clm_ray.store.tables import CHANNEL_CONSENTS, RETENTION_DECISIONS


@dataclass(frozen=True)
class Taken:
    """An action that a user got. epoch_start, deliver_from: µs; channel: None where a record does not say."""

    action: str
    channel: str | None
    epoch_start: int
    deliver_from: int


def taken(connection: Connection, user_ids: Sequence[str], *, since: int) -> dict[str, list[Taken]]:
    """User → actions decided at or after `since` (µs), in any order; `none` is left out. Overridden ones count: they may have gone out."""
    found: dict[str, list[Taken]] = defaultdict(list)
    of = RETENTION_DECISIONS.c
    for part in chunks(dict.fromkeys(user_ids)):
        query = select(of.user_id, of.action, of.time, of.record)
        for row in connection.execute(
            query.where(of.user_id.in_(part), of.action != NO_ACTION, of.time >= since).order_by(of.user_id, of.epoch)
        ):
            raw = orjson.loads(row.record)
            at = raw.get("deliver_from") or row.time
            found[row.user_id].append(Taken(row.action, raw.get("channel"), raw["epoch_start"], at))
    return dict(found)


def channel_consents(connection: Connection, user_ids: Sequence[str]) -> dict[str, dict[str, bool]]:
    """User → channel → consent, as far as the user said."""
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    of = CHANNEL_CONSENTS.c
    for part in chunks(dict.fromkeys(user_ids)):
        for row in connection.execute(select(of.user_id, of.channel, of.given).where(of.user_id.in_(part))):
            found[row.user_id][row.channel] = row.given
    return dict(found)


def put_channel_consents(connection: Connection, user_id: str, given: Mapping[str, bool], *, now: int) -> None:
    """Set consents of a user by channel; those of other channels stay."""
    rows = [{"user_id": user_id, "channel": channel, "given": yes, "changed_at": now} for channel, yes in given.items()]
    if rows:
        statement = insert(connection, CHANNEL_CONSENTS)
        new = {name: statement.excluded[name] for name in ("given", "changed_at")}
        connection.execute(statement.on_conflict_do_update(index_elements=["user_id", "channel"], set_=new), rows)


def forget_channels(connection: Connection, user_ids: Sequence[str]) -> None:
    """Drop what these users said of single channels."""
    for part in chunks(dict.fromkeys(user_ids)):
        connection.execute(delete(CHANNEL_CONSENTS).where(CHANNEL_CONSENTS.c.user_id.in_(part)))
