"""Events in, histories out: the statements behind `Store.append_events`, `Store.histories` and the loading of bases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import orjson
from sqlalchemy import Connection, delete, func, select

from clm_ray.store.engine import Lock, chunks, hold, insert
from clm_ray.store.history import NewEvent, StoredHistory, empty_history, merge, unpack, unpack_ids
from clm_ray.store.records import HistoryMark, StoredEvent, Verdict
from clm_ray.store.tables import EVENTS, HISTORY_BASE


def ids_in_base(connection: Connection, events: Sequence[StoredEvent]) -> set[str]:
    """The ids among `events` that the base of the event's own user has already."""
    asked: dict[str, set[str]] = defaultdict(set)
    for event in events:
        asked[event.user_id].add(event.event_id)
    known: set[str] = set()
    for user_id, payload in _payloads(connection, list(asked)).items():
        known |= asked[user_id].intersection(unpack_ids(payload, user_id=user_id))
    return known


def append(
    connection: Connection,
    events: Sequence[StoredEvent],
    *,
    known: set[str],
    erased: Mapping[str, int],
    received_at: int,
) -> list[Verdict]:
    """Insert what is new; `known` ids are duplicates. One verdict per event, also where another process inserts the same. `erased`: from
    `erase.standing`; nothing before is taken.
    """
    rows: dict[str, dict[str, object]] = {}
    first: dict[str, int] = {}
    buried: set[int] = set()
    for place, event in enumerate(events):
        if event.timestamp < erased.get(event.user_id, event.timestamp):
            buried.add(place)
            continue
        if event.event_id in known or event.event_id in rows:
            continue
        first[event.event_id] = place
        rows[event.event_id] = {
            "event_id": event.event_id,
            "user_id": event.user_id,
            "timestamp": event.timestamp,
            "received_at": received_at,
            "item_id": event.item_id,
            "event_type": event.event_type,
            "value": event.value,
            "decision_id": event.decision_id,
            "context": orjson.dumps(dict(event.context)).decode(),
        }
    accepted: set[int] = set()
    if rows:
        hold(connection, Lock.APPEND, shared=True)
        ordered = [rows[event_id] for event_id in sorted(rows)]  # one order for all: no two wait for each other
        statement = insert(connection, EVENTS).on_conflict_do_nothing(index_elements=["event_id"])
        inserted = connection.execute(statement.returning(EVENTS.c.event_id), ordered).scalars()
        accepted = {first[event_id] for event_id in inserted}
    return [
        Verdict.ERASED if place in buried else Verdict.ACCEPTED if place in accepted else Verdict.DUPLICATE
        for place in range(len(events))
    ]


def histories(
    connection: Connection, user_ids: Sequence[str], *, recent: Mapping[str, Sequence[StoredEvent]]
) -> dict[str, StoredHistory]:
    """Base, events and `recent` of each user merged, each id once; a user never seen has an empty history."""
    live: dict[str, list[NewEvent | StoredEvent]] = defaultdict(list)
    of = EVENTS.c
    for part in chunks(dict.fromkeys(user_ids)):
        query = select(of.user_id, of.event_id, of.timestamp, of.item_id, of.event_type, of.value)
        for user_id, *fields in connection.execute(query.where(of.user_id.in_(part))).all():
            live[user_id].append(NewEvent._make(fields))
    for user_id, events in recent.items():
        live[user_id].extend(events)
    payloads = _payloads(connection, user_ids)
    result = {}
    for user_id in dict.fromkeys(user_ids):
        payload = payloads.get(user_id)
        history = empty_history(user_id) if payload is None else unpack(payload, user_id=user_id)
        if user_id in live:
            ids = [] if payload is None else unpack_ids(payload, user_id=user_id)
            history = merge(history, ids, live[user_id])
        result[user_id] = history
    return result


def marks(connection: Connection, user_ids: Sequence[str]) -> dict[str, HistoryMark]:
    """The mark of each user's history."""
    found = {user_id: HistoryMark("", 0, 0, 0) for user_id in user_ids}
    base, of = HISTORY_BASE.c, EVENTS.c
    for part in chunks(dict.fromkeys(user_ids)):
        bases = select(base.user_id, base.dataset, base.upto).where(base.user_id.in_(part))
        for user_id, dataset, upto in connection.execute(bases).all():
            found[user_id] = HistoryMark(dataset, upto, 0, 0)
        since = select(of.user_id, func.count(), func.max(of.seq)).where(of.user_id.in_(part)).group_by(of.user_id)
        for user_id, events, last in connection.execute(since).all():
            found[user_id] = found[user_id]._replace(events=events, last=last)
    return found


def replace_bases(connection: Connection, bases: Iterable[tuple[str, int, bytes]], *, dataset: str) -> int:
    """Write (user id, last time, payload) over what these users had. Returns how many."""
    rows = [{"user_id": user, "dataset": dataset, "upto": upto, "payload": payload} for user, upto, payload in bases]
    if rows:
        statement = insert(connection, HISTORY_BASE)
        new = {name: statement.excluded[name] for name in ("dataset", "upto", "payload")}
        connection.execute(statement.on_conflict_do_update(index_elements=["user_id"], set_=new), rows)
    return len(rows)


def drop_other_bases(connection: Connection, *, dataset: str) -> None:
    """Forget the bases of users that `dataset` no longer holds."""
    connection.execute(delete(HISTORY_BASE).where(HISTORY_BASE.c.dataset != dataset))


def _payloads(connection: Connection, user_ids: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in chunks(dict.fromkeys(user_ids)):
        query = select(HISTORY_BASE.c.user_id, HISTORY_BASE.c.payload).where(HISTORY_BASE.c.user_id.in_(part))
        found.update((row.user_id, row.payload) for row in connection.execute(query))
    return found
