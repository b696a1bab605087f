"""Interactions that callers report, and what becomes of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from clm_ray.messages.fields import MAX_EVENTS, Answer, Ask, Context, Name, Time, Value


class Event(Ask):
    """One interaction to be kept."""

    event_id: Name
    """Unique; the same id sent twice is one event."""
    user_id: Name
    event_type: Name
    """One of the event types that /v1/version lists, except the one of the slates, which the endpoint logs itself."""
    item_id: Name | None = None
    """Null for an event without an item. An item that is not in the catalogue is kept, and noted."""
    timestamp: Time | None = None
    """Null: now. Late events land in their place in the history."""
    value: Value | None = None
    """Amount or rating, as the event type says."""
    decision_id: Name | None = None
    """The recommendation that this event answers."""
    context: Context = Field(default_factory=dict)


class _ShownAsEvents:
    """In OpenAPI the loosely read list shows as a list of `Event`: each is checked by itself."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_EVENTS,
            "items": handler(TypeAdapter(Event).core_schema),
        }


class EventsRequest(Ask):
    """A batch of events. Each gets its own verdict; a bad one does not cost the others."""

    events: Annotated[list[Any], Field(min_length=1, max_length=MAX_EVENTS), _ShownAsEvents()]
    """The events."""


class Verdict(Answer):
    """What became of one event."""

    index: int
    """Position in the batch."""
    event_id: str | None
    """Null when the event had none that could be read."""
    status: Literal["accepted", "duplicate", "rejected"]
    """accepted: durable. duplicate: known before, nothing changed. rejected: not kept."""
    field: str | None = None
    """rejected: the field that is wrong."""
    reason: str | None = None
    """rejected: what is wrong with it."""
    fix: str | None = None
    """rejected: what to do."""
    note: str | None = None
    """accepted: something worth knowing, e.g. that the item is not in the catalogue."""


class EventsAnswer(Answer):
    """Given only when every accepted event is durable."""

    accepted: int
    duplicate: int
    rejected: int
    verdicts: list[Verdict]
    """In the order of the batch."""
