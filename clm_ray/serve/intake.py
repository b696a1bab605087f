"""Events at the door: each is checked by itself, and what is wrong with it is said with the field and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from clm_ray.messages import Event, Verdict
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.problems import path_of, sentence
from clm_ray.store.records import StoredEvent

RESERVED_ID = "impression:"
"""Event ids that begin so are those of the slates that the endpoint logs."""
_UNKNOWN_ITEM = "the item is not in the catalogue: the event is kept, but the item means nothing to the model yet"


@dataclass(frozen=True)
class Refusal:
    """What is wrong with one event."""

    field: str
    reason: str
    fix: str


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
        admitted.events.append(_stored(event, now))
        admitted.index.append(index)
        admitted.notes.append(None if known else _UNKNOWN_ITEM)
    return admitted


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
    recipe = served.recipe
    if event.event_id.startswith(RESERVED_ID):
        return Refusal("event_id", f"ids that begin with {RESERVED_ID!r} are reserved", "choose another id")
    if event.event_type == recipe.serve.impression_event:
        fix = "send what the user did (with the decision_id), not what was shown"
        return Refusal("event_type", "slates are logged by the endpoint itself", fix)
    kind = recipe.event_types.get(event.event_type)
    if kind is None:
        return Refusal("event_type", "is not an event type of the recipe", f"use one of {served.event_types}")
    if kind.value == "rating" and event.value is None:
        return Refusal("value", f"a {event.event_type} needs its value", "send the rating as value")
    if event.timestamp is not None:
        return _check_time(event.timestamp, served=served, now=now)
    return None


def _check_time(timestamp: int, *, served: ServedCatalogue, now: int) -> Refusal | None:
    if timestamp > now + served.recipe.serve.future_seconds * 1_000_000:
        fix = f"the endpoint's clock says {_iso(now)}; leave timestamp out for events of this moment"
        return Refusal("timestamp", "lies in the future", fix)
    earliest = datetime.fromisoformat(served.recipe.clean.earliest).replace(tzinfo=UTC)
    if timestamp < earliest.timestamp() * 1_000_000:
        fix = "integers are microseconds since 1970; or send an ISO 8601 text with an offset"
        return Refusal("timestamp", f"lies before {served.recipe.clean.earliest}", fix)
    return None


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


def _stored(event: Event, now: int) -> StoredEvent:
    return StoredEvent(
        event_id=event.event_id,
        user_id=event.user_id,
        event_type=event.event_type,
        timestamp=now if event.timestamp is None else event.timestamp,
        item_id=event.item_id,
        value=event.value,
        decision_id=event.decision_id,
        context=event.context,
    )


def _iso(time: int) -> str:
    return datetime.fromtimestamp(time / 1_000_000, UTC).isoformat(timespec="seconds")
