"""What the endpoint asks of an event: what `clm_ray.data.clean` asks of a row, so that the next dataset keeps all that was accepted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from clm_ray.data.normalise import as_ids
from clm_ray.messages import Event, RecentEvent
from clm_ray.serve.catalogue import ServedCatalogue


@dataclass(frozen=True)
class Refusal:
    """What is wrong with one event."""

    field: str
    reason: str
    fix: str


def check_event(event: Event | RecentEvent, *, served: ServedCatalogue, now: int) -> Refusal | None:
    """What is wrong with type, item, value or time of an event that is handed in at `now` (µs)."""
    kind = event.event_type
    if kind == served.recipe.serve.impression_event:
        fix = "send what the user did (with the decision_id), not what was shown"
        return Refusal("event_type", "slates are logged by the endpoint itself", fix)
    if kind not in served.rules.types:
        return Refusal("event_type", "is not an event type of the recipe", f"use one of {served.event_types}")
    if kind in served.rules.needs_value and event.value is None:
        fix = f"send the {served.recipe.event_types[kind].value} as value"
        return Refusal("value", f"a {kind} needs its value", fix)
    if kind in served.rules.needs_item and event.item_id is None:
        return Refusal("item_id", f"a {kind} needs its item", "send the item's id as item_id")
    if event.item_id is not None and (refusal := check_id("item_id", event.item_id)):
        return refusal
    return None if event.timestamp is None else _check_time(event.timestamp, served=served, now=now)


def check_id(field: str, value: str) -> Refusal | None:
    """Refuses an id that cleaning would change, and so join with another one (spaces around it, a whole number with a zero fraction), or reject
    (a number in scientific notation)."""
    if value == value.strip() and not value.endswith("0") and "+" not in value:
        return None
    kept, inexact = (column[0].as_py() for column in as_ids(pa.array([value]), name=field))
    if kept == value:
        return None
    if inexact:
        return Refusal(field, "looks like a number that has lost digits", "send the id as text, with all its digits")
    if kept is None:
        return Refusal(field, "is empty", "send an id that is more than spaces")
    return Refusal(field, "has spaces around it, or is a whole number with a zero fraction", f"send {kept!r}")


def _check_time(timestamp: int, *, served: ServedCatalogue, now: int) -> Refusal | None:
    if timestamp > now + served.recipe.serve.future_seconds * 1_000_000:
        fix = f"the endpoint's clock says {_iso(now)}; leave timestamp out for events of this moment"
        return Refusal("timestamp", "lies in the future", fix)
    if timestamp < served.rules.earliest_us:
        fix = "integers are microseconds since 1970; or send an ISO 8601 text with an offset"
        return Refusal("timestamp", f"lies before {served.recipe.clean.earliest}", fix)
    return None


def _iso(time: int) -> str:
    return datetime.fromtimestamp(time / 1_000_000, UTC).isoformat(timespec="seconds")
