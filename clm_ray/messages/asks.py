"""For whom something is to be shown, and what may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clm_ray.messages.fields import MAX_BATCH, MAX_CANDIDATES, MAX_EVENTS, MAX_K, Ask, Context, Name, Time, Value


class RecentEvent(Ask):
    """An event that only the caller knows; it counts for this one request and is not stored."""

    event_type: Name
    """One of the event types that /v1/version lists."""
    item_id: Name | None = None
    """Null for an event without an item."""
    timestamp: Time | None = None
    """Null: a moment before the request."""
    value: Value | None = None
    """Amount or rating, as the event type says."""


class Filters(Ask):
    """Which items may be shown to this caller, beside the shop's own rules. An item must satisfy all that is given."""

    allow: Annotated[list[Name], Field(max_length=MAX_CANDIDATES)] | None = None
    """These items alone. Null: any."""
    deny: Annotated[list[Name], Field(max_length=MAX_CANDIDATES)] = Field(default_factory=list)
    """Never these. Ids that are not in the catalogue mean nothing here."""
    categories: Annotated[list[Name], Field(min_length=1, max_length=100)] | None = None
    """In one of these categories."""
    without_categories: Annotated[list[Name], Field(max_length=100)] = Field(default_factory=list)
    """In none of these categories."""
    flags: Annotated[list[Name], Field(max_length=100)] = Field(default_factory=list)
    """With one of these flags of the items table."""
    without_flags: Annotated[list[Name], Field(max_length=100)] = Field(default_factory=list)
    """With none of these flags."""
    without_chosen: bool = False
    """Nothing that the user already chose."""


class RankRequest(Ask):
    """For whom, and what, is to be ranked."""

    user_id: Name | None = None
    """The user. Null for an anonymous one."""
    anonymous: bool = False
    """True, and no `user_id`: somebody of whom nothing is known but `recent_events`. Nothing is stored, no action is booked."""
    candidates: Annotated[list[Name], Field(min_length=1, max_length=MAX_CANDIDATES)] | None = None
    """Item ids to rank, at most `limits.max_candidates` of /v1/version; repeated ids count once. Null: retrieved from the whole catalogue."""
    unknown_items: Literal["refuse", "skip"] = "refuse"
    """Candidates that are not in the catalogue: refuse the request, or leave them out and name them in `skipped`."""
    k: Annotated[int, Field(ge=1, le=MAX_K)] | None = None
    """Items to return. Null: `limits.default_k` of /v1/version."""
    filters: Filters | None = None
    """Which items may be shown, of the candidates or of the whole catalogue. What is left may be fewer than `k` items."""
    diversity: Annotated[float, Field(ge=0, lt=1)] | None = None
    """How much unlike those above it an item should be: 0 not at all. Null: as the strategy of the user's stage says, else the recipe."""
    stage_strategy: bool = True
    """False: the strategy of the user's stage does not shape this slate; probability and the shop's rules alone do."""
    recent_events: list[RecentEvent] = Field(default_factory=list, max_length=MAX_EVENTS)
    """Events that only the caller knows; they count for this request and are not stored."""
    explain: bool = False
    """Add texts, categories, matching interests and reasons to the items, and the rules that ruled actions out."""
    deadline_ms: Annotated[int, Field(ge=10, le=60_000)] | None = None
    """Answer within this time, counted from the request's arrival, milliseconds: parts that would be later are left out, and `degraded` says so."""
    debug: bool = False
    """Add `timings`."""
    as_of: Time | None = None
    """Administrators only (header X-Admin-Token): answer as of this moment. Nothing is logged and no action is booked."""


class RecommendRequest(RankRequest):
    """Who is asking, and what may be shown."""

    context: Context = Field(default_factory=dict)
    """Free text about the occasion (page, slot, ...); logged with the slate."""


class BatchRequest(Ask):
    """Many recommendations at once. Each gets its own result; one that is refused does not cost the others."""

    requests: Annotated[list[RecommendRequest], Field(min_length=1, max_length=MAX_BATCH)]
    """The requests."""
