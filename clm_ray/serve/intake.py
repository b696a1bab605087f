"""Events at the door: each is checked by itself, and what is wrong with it is said with the field and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from clm_ray.messages import Event, Verdict
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.checks import Refusal, check_event, check_id
from clm_ray.serve.problems import path_of, sentence
from clm_ray.store.records import StoredEvent
from clm_ray.store.records import Verdict as Stored

RESERVED_ID = "impression:"
"""Event ids that begin so are those of the slates that the endpoint logs."""
_UNKNOWN_ITEM = "the item is not in the catalogue: the event is kept, but the item means nothing to the model yet"


@dataclass(frozen=True)
class Admitted:
    """The events of a batch that may be stored, with their positions and notes, and the verdicts on the others."""

    events: list[StoredEvent]
    index: list[int]
    notes: list[str | None]
    rejected: list[Verdict]


def admit(raw: Sequence[Any], *, served: ServedCatalogue, now: int) -> Admitted:
    """Check a batch. `now` (µs) is the time of events that bring none."""
    admitted = Admitted([], [], [], [])
    for index, one in enumerate(raw):
        event = _read(one)
        if isinstance(event, Event):
            event = _check(event, served=served, now=now) or event
        if isinstance(event, Refusal):
            admitted.rejected.append(_rejection(index, one, event))
            continue
        known = event.item_id is None or event.item_id in served.catalogue.row_of
        admitted.events.append(_stored(event, served.known_as(event.user_id), now))
        admitted.index.append(index)
        admitted.notes.append(None if known else _UNKNOWN_ITEM)
    return admitted


def verdict_of(index: int, event_id: str, stored: Stored, note: str | None) -> Verdict:
    """What the store says of an event that was admitted, as the caller reads it."""
    if stored is Stored.ERASED:
        return Verdict(
            index=index,
            event_id=event_id,
            status="rejected",
            field="timestamp",
            reason="lies before the erasure of this user",
            fix="send what happened since then; the time before stays erased",
        )
    status: Literal["accepted", "duplicate"] = "duplicate" if stored is Stored.DUPLICATE else "accepted"
    fields = {"note": note} if note else {}
    return Verdict(index=index, event_id=event_id, status=status, **fields)


def _read(raw: Any) -> Event | Refusal:
    try:
        return Event.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            return Refusal("event", "is not a JSON object", "send an object with event_id, user_id and event_type")
        if first["type"] == "extra_forbidden":
            return Refusal(path_of(first["loc"]), "there is no such field", "leave it out, or put it into context")
        return Refusal(
            path_of(first["loc"]), sentence(dict(first)), "correct this field; /docs has the types and limits"
        )


def _check(event: Event, *, served: ServedCatalogue, now: int) -> Refusal | None:
    if event.event_id.startswith(RESERVED_ID):
        return Refusal("event_id", f"ids that begin with {RESERVED_ID!r} are reserved", "choose another id")
    ids = (("event_id", event.event_id), ("user_id", event.user_id), ("decision_id", event.decision_id))
    for field, value in ids:
        if value is not None and (refusal := check_id(field, value)):
            return refusal
    return check_event(event, served=served, now=now)


def _rejection(index: int, raw: Any, refusal: Refusal) -> Verdict:
    named = raw.get("event_id") if isinstance(raw, dict) else None
    event_id = named if isinstance(named, str) and len(named) <= 200 and named.isprintable() else None
    return Verdict(
        index=index,
        event_id=event_id,
        status="rejected",
        field=refusal.field,
        reason=refusal.reason,
        fix=refusal.fix,
    )


def _stored(event: Event, user_id: str, now: int) -> StoredEvent:
    return StoredEvent(
        event_id=event.event_id,
        user_id=user_id,
        event_type=event.event_type,
        timestamp=now if event.timestamp is None else event.timestamp,
        item_id=event.item_id,
        value=event.value,
        decision_id=event.decision_id,
        context=event.context,
    )
