"""What is to be shown, and everything that comes with it."""

from __future__ import annotations

from typing import Literal

from clm_ray.messages.fields import Answer, Probability
from clm_ray.messages.problems import Problem
from clm_ray.messages.profiles import Profile
from clm_ray.messages.retention import RetentionAction


class Reason(Answer):
    """One event of the user that moved an item's probability. Exact for this event alone; events act together, so effects do not add up."""

    text: str
    """In words."""
    event_type: str
    item_id: str | None
    """Null for an event without an item, or of one that the model does not know."""
    time: int
    """When it happened, UTC microseconds."""
    effect: float
    """The item's probability less what it would be had this event never happened."""


class RecommendedItem(Answer):
    """One item of the slate."""

    item_id: str
    probability: Probability | None
    """Click probability by the model; null in a degraded slate that no model scored."""
    position: int
    """1 is the top."""
    text: str | None = None
    """With `explain`: the item's text."""
    categories: list[str] | None = None
    """With `explain`: the item's categories."""
    matches: list[str] | None = None
    """With `explain`: the user's interests among its categories, strongest first."""
    reasons: list[Reason] | None = None
    """With `explain`: the events that moved its probability most, up to three, strongest first. Left out where nobody could say in time."""


Degraded = Literal[
    "no_history",
    "profiler_late",
    "profiler_failed",
    "ranker_late",
    "ranker_failed",
    "retention_late",
    "retention_failed",
    "explainer_late",
    "explainer_failed",
    "slate_not_logged",
]
"""Why an answer is less than it could be.

no_history: the user has no events, so the slate comes from what is popular and the profile from the life-cycle prior.
profiler_*: no profile, a popular slate, no action. ranker_*: a popular slate. retention_*: no action.
explainer_*: no reasons. slate_not_logged: the store refused the slate; there is no decision_id and clicks on it cannot be joined to it."""


class Recommendation(Answer):
    """What to show, who the user is, and what to do to keep them."""

    decision_id: str | None
    """Identifies this slate in the log; send it with the events that answer it. Null when nothing was logged."""
    user_id: str | None
    """Null for an anonymous user."""
    time: int
    """The moment of the answer by the endpoint's clock, UTC microseconds."""
    release: str
    """The release that answered."""
    arm: str | None = None
    """Where two releases share the users: `incumbent` or `challenger`."""
    items: list[RecommendedItem]
    skipped: list[str] | None = None
    """With `unknown_items: skip`: the candidates that are not in the catalogue."""
    item_rules: list[str] | None = None
    """With `explain`: the rules of the policy that kept items from this user, where there were any."""
    profile: Profile | None
    retention: RetentionAction | None
    """Null: no action is to be taken; see `retention_reason`."""
    retention_reason: str | None = None
    """Why there is no decision."""
    degraded: list[Degraded]
    """Empty for a full answer."""
    timings: dict[str, float] | None = None
    """With `debug`: part → milliseconds. `waiting`: until the batch set out; `total`: all of it. Requests of one batch share the parts' times."""


class Ranking(Answer):
    """Items in order, and nothing else: no decision, no action, nothing logged."""

    user_id: str | None
    """Null for an anonymous user."""
    time: int
    """The moment of the answer by the endpoint's clock, UTC microseconds."""
    release: str
    """The release that answered."""
    items: list[RecommendedItem]
    skipped: list[str] | None = None
    """With `unknown_items: skip`: the candidates that are not in the catalogue."""
    item_rules: list[str] | None = None
    """With `explain`: the rules of the policy that kept items from this user, where there were any."""
    degraded: list[Degraded]
    """Empty for a full answer."""
    timings: dict[str, float] | None = None
    """With `debug`: part → milliseconds."""


class BatchResult(Answer):
    """What became of one request of a batch: an answer, or a problem."""

    index: int
    """Position in the batch."""
    status: int
    """The HTTP status that the request would have had by itself."""
    answer: Recommendation | None = None
    problem: Problem | None = None


class BatchAnswer(Answer):
    """One result per request, in the order of the batch."""

    results: list[BatchResult]
