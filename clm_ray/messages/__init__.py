"""What goes over the wire: the requests and answers of the HTTP endpoint, shared by the endpoint and its client.

Requests are strict: unknown fields and values of another type are refused, every length is bounded. Answers may gain
fields in later versions; readers ignore what they do not know. Times are UTC microseconds since 1970; where a caller
gives one, an ISO 8601 text with an offset will do as well.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from clm_ray.config.policy import Stage

MAX_K = 500
"""Most items one recommendation may return."""
MAX_EVENTS = 1000
"""Most events one batch may carry."""
MAX_BATCH = 100
"""Most recommendations that one batch may ask for."""
MAX_CONTEXT = 32
"""Most entries of a context map."""
MAX_CANDIDATES = 100_000
"""Most candidates whatever the recipe says; `serve.max_candidates` of the served recipe is the limit that counts."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 4_102_444_800_000_000


def parse_time(value: object) -> int:
    """UTC microseconds from an integer or an ISO 8601 text with an offset. Raises ValueError saying what is wrong."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is not an ISO 8601 time such as 2017-11-05T10:00:00Z") from None
        if moment.tzinfo is None:
            raise ValueError("has no offset: add Z for UTC, or +01:00")
        try:
            value = (moment - _EPOCH) // timedelta(microseconds=1)
        except OverflowError:
            raise ValueError("lies outside the years 1970 to 2099") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an integer (UTC microseconds since 1970) or an ISO 8601 text with an offset")
    if not 0 <= value < _LATEST:
        raise ValueError("lies outside the years 1970 to 2099 (integers are microseconds since 1970)")
    return value


Time = Annotated[
    int,
    BeforeValidator(parse_time),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "integer",
                    "minimum": 0,
                    "exclusiveMaximum": _LATEST,
                    "description": "UTC microseconds since 1970",
                },
                {"type": "string", "format": "date-time", "description": "ISO 8601 with an offset"},
            ]
        },
        mode="validation",
    ),
]
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"
"""A pattern, not a function: a request may name thousands of items, and each is checked."""
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_CONTROL_CHARACTERS)]
Context = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)],
        Annotated[str, Field(max_length=256, pattern=NO_CONTROL_CHARACTERS)],
    ],
    Field(max_length=MAX_CONTEXT),
]
Probability = Annotated[float, Field(ge=0, le=1)]
Value = Annotated[float, Field(ge=-3e38, le=3e38)]
"""Histories hold it as a 32-bit float."""


class Ask(BaseModel):
    """Base of what a caller sends: strict, frozen, unknown fields refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Answer(BaseModel):
    """Base of what the endpoint returns."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


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


class Interest(Answer):
    """A category and its share of the user's attention."""

    category: str
    weight: Probability
    """Recent choices weigh more; the shares of all categories sum to 1."""


class Strategy(Answer):
    """What is done for users of this stage. Probabilities are the model's whatever it does."""

    name: str
    """`convert`, `teach`, `deepen`, `treat`, `win_back`, `watch`, or as the recipe has it."""
    why: str
    """In words."""
    slate: dict[str, Any]
    """What shapes the slate: the options of the recipe's section `strategy` that are set. Empty: probability and the shop's rules alone."""
    actions: list[str]
    """Retention actions that may be taken at this stage; the single decision may have fewer to choose from."""
    brought_in: list[str] | None = None
    """Items of this slate that would not be in it without the strategy. Null where it shaped no slate: none was asked for, or no model ranked it."""


class Profile(Answer):
    """Who the user is at one moment; only events strictly before it count."""

    stage: Stage
    """Life-cycle stage."""
    why: str
    """The rule and the numbers that put the user there."""
    strategy: Strategy | None = None
    """What is done at this stage; null where the recipe has switched strategies off."""
    chance_active: dict[str, Probability] | None
    """Days → probability of being active again within them; null with a reason."""
    chance_active_reason: str | None = None
    """Why there is no chance."""
    recency_days: float | None
    """Days since the last activity; null for none."""
    frequency: dict[str, int]
    """Days → days with activity within the last so many days."""
    monetary: dict[str, float]
    """Days → spend within the last so many days."""
    tenure_days: float | None
    """Days since the first activity; null for none."""
    interests: list[Interest]
    """Strongest first."""
    events: int
    """Events of the history that the answer is based on."""


class ExpectedUplift(Answer):
    """What an action was expected to gain when it was decided on."""

    uplift: float
    """Gain in the probability of being active until the outcome is due."""
    low: float
    high: float
    """95 % interval."""
    source: str
    """Where it comes from: a prior, or a prior and so many decisions."""
    score: float
    """uplift × worth of the user - cost × (1 + price), in the recipe's currency."""


class RetentionAction(Answer):
    """The one decision of this user's decision period, and how it came about."""

    action_id: str
    """The record of this decision in the store; the same for every answer within the period."""
    action: str
    """`none`, or what to do to keep the user."""
    propensity: Probability
    """Probability with which the action was drawn."""
    probabilities: dict[str, Probability]
    """Of every action that was feasible."""
    holdout: bool
    """The user belongs to the group that never gets an action."""
    epoch: int
    """Number of the decision period on the user's own calendar."""
    epoch_start: int
    """Its first moment, UTC microseconds; the decision is based on the user as of then."""
    policy: str
    """Version of the policy."""
    cost: float
    """What is set aside for the action, in the recipe's currency."""
    channel: str | None = None
    """How it goes to the user; null for `none`."""
    deliver_from: int | None = None
    """Not to be delivered before this moment, UTC microseconds: quiet hours on the user's own clock end then."""
    price: float = 0.0
    """Price of the budget when it was decided: a unit of it counted for 1 + price."""
    reason: str
    """In words, in short."""
    masked: dict[str, str] | None = None
    """With `explain`: action → the rule that ruled it out."""
    expected: dict[str, ExpectedUplift] | None = None
    """With `explain`: action → what it was expected to gain, for the actions that were left."""
    explanation: list[str] | None = None
    """With `explain`: how it came about, sentence by sentence."""


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


class UserProfile(Answer):
    """A profile by itself."""

    user_id: str
    time: int
    release: str
    profile: Profile


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


class Limits(Answer):
    """Bounds of requests."""

    default_k: int
    max_k: int
    max_candidates: int
    max_events: int
    max_batch: int


class Version(Answer):
    """What is being served."""

    name: str
    version: str
    """Version of the software."""
    release: str
    """The release being served."""
    recipe: str
    clock: Literal["wall", "log_end"]
    """log_end: the clock continues from the end of a demo log that lies in the past."""
    time: int
    """Now, by that clock, UTC microseconds."""
    event_types: list[str]
    """Event types that /v1/events takes."""
    limits: Limits


class Readiness(Answer):
    """Whether every part can answer, and the release each part has loaded."""

    ready: bool
    release: str
    parts: dict[str, str]
    """Part → the release it has loaded, or why it is not ready."""


class FieldProblem(Answer):
    """One field that is wrong."""

    field: str
    problem: str


class Problem(Answer):
    """An error, as RFC 9457 problem details."""

    type: str
    """Names the kind of problem."""
    title: str
    status: int
    """The HTTP status."""
    detail: str
    """What is wrong, in one sentence."""
    field: str | None = None
    """The request field that is wrong."""
    value: str | None = None
    """What was found there, shortened."""
    fix: str | None = None
    """What to do about it."""
    errors: list[FieldProblem] | None = None
    """Where several fields are wrong: all of them, up to twenty."""
    request_id: str | None = None
    """The id of the request, which the log has too."""


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
