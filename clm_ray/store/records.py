"""What the store keeps, as values.

Two ids, not to be mixed up: every answer of the endpoint has its own **decision_id** (a `ServedSlate`); that is the id which clients
quote in their events. A slate refers by **action_id** to the `RetentionDecision` that was in force, of which there is one per user
and epoch: many slates can carry the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from clm_ray.config.policy import Stage


class Verdict(StrEnum):
    """What became of an event: `accepted` is durable, `duplicate` was there before (by event id, whatever else it says), `erased` lies before
    the erasure of its user and is not kept."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    ERASED = "erased"


@dataclass(frozen=True)
class StoredEvent:
    """One event of the log, as `schema.EVENTS` has it. `timestamp`: UTC µs."""

    event_id: str
    user_id: str
    event_type: str
    timestamp: int
    item_id: str | None = None
    value: float | None = None
    decision_id: str | None = None
    context: Mapping[str, str] = field(default_factory=dict)


class HistoryMark(NamedTuple):
    """Changes whenever a user's stored history does. dataset, upto: of the base (µs of its last event), "" and 0 without one; events, last:
    number and highest `seq` of the events since."""

    dataset: str
    upto: int
    events: int
    last: int


@dataclass(frozen=True)
class UserOverlay:
    """What a user told us after the dataset was made; None: nothing, the dataset's user table holds.

    erased: they were erased here, what they tell is of the time since, and a user table that was read before says nothing of them. pending: nor do those
    in the files of the workspace, which are not erased yet.
    """

    user_id: str
    consent: bool | None = None
    timezone: str | None = None
    erased: bool = False
    pending: bool = False


@dataclass(frozen=True)
class MaskRecord:
    """An action (or a channel) that was excluded: by which rule, why, and in which step of the decision."""

    action: str
    rule: str
    reason: str
    step: str = ""


@dataclass(frozen=True)
class EstimateRecord:
    """What an action was expected to gain when it was decided on: uplift with its 95 % interval, the decisions behind it (0: a prior alone),
    and the score that it got, in the recipe's currency."""

    mean: float
    low: float
    high: float
    treated: int
    control: int
    score: float


@dataclass(frozen=True)
class Override:
    """An action that was replaced after the draw: by what, by which rule, when (µs)."""

    action: str
    rule: str
    time: int


@dataclass(frozen=True)
class RetentionDecision:
    """One retention decision of one user and epoch, complete enough to be replayed and explained.

    feasible, probabilities: the final, masked distribution, marginal over the uniform slice. action, propensity: what was drawn
    from it and how likely that was; neither ever changes. overrides: what replaced the action later; deliver `in_force`.
    policy_digest: of the rules and weights behind policy_version. cost: what is set aside for the action, in the recipe's currency. stage, consent, last_taken (action → start of its epoch, µs): what the rules saw;
    features_digest: of what the policy saw. outcome_due: when the outcome can be read, µs.

    channel, deliver_from (µs): how the drawn action goes to the user, and from when. epoch_end, timezone, consents (by channel), contacts
    ((channel, µs) of earlier ones), columns, features, worth, price, estimates: what rules and scores saw. enabled, stops, unapproved,
    limits: what the store said at that moment (kill switch, guardrails, missing approvals, what of the first policy still holds). closed: channels that
    were excluded. would_be: of a holdout user, what would have been feasible. origin: the endpoint or a campaign. why: the
    stage in words. forecast: chance of being active until the outcome is due, as logged, not used.
    """

    action_id: str
    user_id: str
    epoch: int
    epoch_start: int
    time: int
    policy_version: str
    policy_digest: str
    release_id: str
    stage: Stage
    consent: bool
    last_taken: Mapping[str, int]
    holdout: bool
    feasible: tuple[str, ...]
    probabilities: tuple[float, ...]
    action: str
    propensity: float
    cost: float
    masks: tuple[MaskRecord, ...]
    features_digest: str
    outcome_due: int
    overrides: tuple[Override, ...] = ()
    channel: str | None = None
    deliver_from: int = 0
    epoch_end: int = 0
    timezone: str = "UTC"
    consents: Mapping[str, bool] = field(default_factory=dict)
    contacts: tuple[tuple[str, int], ...] = ()
    columns: Mapping[str, str | float] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    worth: float = 0.0
    price: float = 0.0
    estimates: Mapping[str, EstimateRecord] = field(default_factory=dict)
    enabled: bool = True
    stops: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unapproved: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    closed: tuple[MaskRecord, ...] = ()
    would_be: tuple[str, ...] = ()
    origin: str = "endpoint"
    why: str = ""
    forecast: float | None = None

    @property
    def in_force(self) -> str:
        """The action to deliver: the drawn one, unless it was overridden."""
        return self.overrides[-1].action if self.overrides else self.action

    def to_json(self) -> str:
        """The record as JSON text."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS).decode()

    @staticmethod
    def from_json(text: str) -> RetentionDecision:
        """The inverse of `to_json`."""
        raw: dict[str, Any] = orjson.loads(text)
        for name in ("feasible", "probabilities"):
            raw[name] = tuple(raw[name])
        raw["overrides"] = tuple(Override(**override) for override in raw["overrides"])
        for name in ("masks", "closed"):
            raw[name] = tuple(MaskRecord(**mask) for mask in raw.get(name, ()))
        raw["contacts"] = tuple((channel, time) for channel, time in raw.get("contacts", ()))
        raw["would_be"] = tuple(raw.get("would_be", ()))
        raw["stops"] = {action: (rule, reason) for action, (rule, reason) in raw.get("stops", {}).items()}
        raw["estimates"] = {name: EstimateRecord(**one) for name, one in raw.get("estimates", {}).items()}
        return RetentionDecision(**raw)


@dataclass(frozen=True)
class NotLogged:
    """Of what was to be logged, what was not: keys whose claim was lost, and the decision_ids of slates that are not there."""

    keys: frozenset[str] = frozenset()
    decisions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ServedSlate:
    """One answer of the endpoint: what was shown to whom, under which decision_id.

    items: as shown, best place first (position = place in the tuple); probabilities: the click probability of each as served.
    action_id: the retention decision in force, None when there was none. degraded: why the answer was degraded, "" when it was not.
    context: goes into the impression event that compaction writes. arm: which arm of a split answered, "" without one.
    """

    decision_id: str
    user_id: str
    time: int
    release_id: str
    items: tuple[str, ...]
    probabilities: tuple[float, ...]
    action_id: str | None = None
    degraded: str = ""
    context: Mapping[str, str] = field(default_factory=dict)
    arm: str = ""
    shaping: Mapping[str, Any] = field(default_factory=dict)
    """What beside the probabilities made the slate (filters, boosts, diversity, pins); empty where nothing did."""

    def to_json(self) -> str:
        """The record as JSON text."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS).decode()

    @staticmethod
    def from_json(text: str) -> ServedSlate:
        """The inverse of `to_json`."""
        raw: dict[str, Any] = orjson.loads(text)
        for name in ("items", "probabilities"):
            raw[name] = tuple(raw[name])
        return ServedSlate(**raw)


@dataclass(frozen=True)
class ShadowSlate:
    """What another release would have shown for an answer that was given; never shown to anybody.

    decision_id, user_id, time: those of the served slate. items, probabilities: the shadow's own slate. shown: its probability of each
    item that was shown, in the order of the served slate; None for an item that is not in its catalogue.
    """

    decision_id: str
    user_id: str
    time: int
    release_id: str
    items: tuple[str, ...]
    probabilities: tuple[float, ...]
    shown: tuple[float | None, ...]

    def to_json(self) -> str:
        """The record as JSON text."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS).decode()

    @staticmethod
    def from_json(text: str) -> ShadowSlate:
        """The inverse of `to_json`."""
        raw: dict[str, Any] = orjson.loads(text)
        for name in ("items", "probabilities", "shown"):
            raw[name] = tuple(raw[name])
        return ShadowSlate(**raw)


@dataclass(frozen=True)
class Reservation:
    """Money asked for under a key that is used once (the decision's action_id); amount in the recipe's currency."""

    key: str
    amount: float


@dataclass(frozen=True)
class Budget:
    """The ledger's state, in millionths of the recipe's currency so that it is exact. reserved + spent + leased ≤ cap, always.

    reserved: held for decisions that are not booked yet. leased: taken by processes in advance, and free there.
    """

    cap: int
    reserved: int
    spent: int
    leased: int
