"""What goes over the wire: the requests and answers of the HTTP endpoint, shared by the endpoint and its client.

Requests are strict: unknown fields and values of another type are refused, every length is bounded. Answers may gain
fields in later versions; readers ignore what they do not know. Times are UTC microseconds since 1970; where a caller
gives one, an ISO 8601 text with an offset will do as well.
"""

from __future__ import annotations

from clm_ray.messages.asks import BatchRequest, Filters, RankRequest, RecentEvent, RecommendRequest
from clm_ray.messages.events import Event, EventsAnswer, EventsRequest, Verdict
from clm_ray.messages.fields import (
    MAX_BATCH,
    MAX_CANDIDATES,
    MAX_CONTEXT,
    MAX_EVENTS,
    MAX_K,
    NO_CONTROL_CHARACTERS,
    Answer,
    Ask,
    Context,
    Name,
    Probability,
    Time,
    Value,
    parse_time,
)
from clm_ray.messages.problems import FieldProblem, Problem
from clm_ray.messages.profiles import Interest, Profile, Strategy, UserProfile
from clm_ray.messages.recommendations import (
    BatchAnswer,
    BatchResult,
    Degraded,
    Ranking,
    Reason,
    Recommendation,
    RecommendedItem,
)
from clm_ray.messages.retention import ExpectedUplift, RetentionAction
from clm_ray.messages.service import Limits, Readiness, Version

__all__ = [
    "MAX_BATCH",
    "MAX_CANDIDATES",
    "MAX_CONTEXT",
    "MAX_EVENTS",
    "MAX_K",
    "NO_CONTROL_CHARACTERS",
    "Answer",
    "Ask",
    "BatchAnswer",
    "BatchRequest",
    "BatchResult",
    "Context",
    "Degraded",
    "Event",
    "EventsAnswer",
    "EventsRequest",
    "ExpectedUplift",
    "FieldProblem",
    "Filters",
    "Interest",
    "Limits",
    "Name",
    "Probability",
    "Problem",
    "Profile",
    "RankRequest",
    "Ranking",
    "Readiness",
    "Reason",
    "RecentEvent",
    "RecommendRequest",
    "Recommendation",
    "RecommendedItem",
    "RetentionAction",
    "Strategy",
    "Time",
    "UserProfile",
    "Value",
    "Verdict",
    "Version",
    "parse_time",
]
