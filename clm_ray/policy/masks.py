"""What may not be done to this user now, and which rule says so.

    kill switch → guardrails → consent → holdout → eligibility → rules → approval → cooldown → caps → quiet hours → budget → required

An action is masked by the first step that leaves it no way, and that step's rule is what the record names. Consent, caps and quiet hours
close channels; an action is masked there once none of its channels is left. The budget comes after all of these and is the store's to
decide: `mask_unaffordable` takes its answer. Rules that require an action speak last (`keep_required`): what cannot be had
cannot be required. A new step is one function and one line in STEPS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from clm_ray.config.policy import PolicyConfig, Stage
from clm_ray.policy.catalogue import NONE, Action
from clm_ray.policy.contacts import Contact, cap_reason, quiet_until
from clm_ray.policy.rules import PREFIX, Known, excluded_by, holds, requiring
from clm_ray.schema import DAY_US, HOUR_US

BUDGET = "budget"
"""Name of the rule that masks what the budget refused."""
KILL_SWITCH = "kill_switch"
HOLDOUT = "holdout"
ORDER = (
    KILL_SWITCH,
    "guardrails",
    "consent",
    HOLDOUT,
    "eligibility",
    "rules",
    "approval",
    "cooldown",
    "caps",
    "quiet_hours",
    BUDGET,
    "required",
)
"""The steps of a decision, in order; those before the budget are STEPS."""


@dataclass(frozen=True)
class Stop:
    """An action that the store says must not be taken now: by which rule, and why."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Circumstances:
    """Everything the rules look at.

    `epoch_start`, `epoch_end`: bounds of the decision's epoch (µs); `last_taken`: action → start of the epoch in which this user last got it
    (µs): when within an epoch somebody asked does not matter there. `time` (µs) is that moment: caps and quiet hours are about the
    delivery itself. `consents`: channel → consent, no entry is a no. `stops`: action → guardrail that stopped it; `unapproved`:
    action → why nobody may take it yet.
    """

    enabled: bool
    holdout: bool
    stage: Stage
    epoch_start: int
    epoch_end: int
    time: int
    timezone: str = "UTC"
    consents: Mapping[str, bool] = field(default_factory=dict)
    last_taken: Mapping[str, int] = field(default_factory=dict)
    contacts: tuple[Contact, ...] = ()
    columns: Mapping[str, str | float] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    stops: Mapping[str, Stop] = field(default_factory=dict)
    unapproved: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> Known:
        """What conditions may ask."""
        return Known(self.stage, self.columns, self.features)


@dataclass(frozen=True)
class Mask:
    """One action, or one channel, that is excluded: in which step, by which rule, and why in words."""

    name: str
    step: str
    rule: str
    reason: str


@dataclass(frozen=True)
class Route:
    """How an action goes to the user, and from when (µs)."""

    channel: str | None
    deliver_from: int


@dataclass(frozen=True)
class Feasible:
    """What is left (`none` is always in it, first, unless a rule requires something else) and what is not.

    routes: action → how it would be delivered. closed: channels that consent, caps or quiet hours closed."""

    actions: tuple[Action, ...]
    masks: tuple[Mask, ...]
    routes: Mapping[str, Route]
    closed: tuple[Mask, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(action.name for action in self.actions)


Verdict = tuple[str, str]
"""(rule, reason) of what is excluded."""
Step = Callable[[Action, Circumstances, PolicyConfig], Verdict | None]
ChannelStep = Callable[[str, Circumstances, PolicyConfig], "Verdict | int"]


def _kill_switch(_action: Action, at: Circumstances, _config: PolicyConfig) -> Verdict | None:
    return None if at.enabled else (KILL_SWITCH, "the policy is switched off")


def _guardrails(action: Action, at: Circumstances, _config: PolicyConfig) -> Verdict | None:
    stop = at.stops.get(action.name)
    return None if stop is None else (stop.rule, stop.reason)


def _holdout(_action: Action, at: Circumstances, _config: PolicyConfig) -> Verdict | None:
    return (HOLDOUT, "the user is in the holdout, which never gets an action") if at.holdout else None


def _eligibility(action: Action, at: Circumstances, _config: PolicyConfig) -> Verdict | None:
    if at.stage not in action.stages:
        return "eligibility", f"only for stages {', '.join(action.stages)}, the user is {at.stage}"
    return None if holds(action.when, at.known) else ("eligibility", "its condition of eligibility does not hold")


def _rules(action: Action, at: Circumstances, config: PolicyConfig) -> Verdict | None:
    rule = excluded_by(action.name, config.rules, at.known)
    return None if rule is None else (PREFIX + rule.name, rule.reason)


def _approval(action: Action, at: Circumstances, _config: PolicyConfig) -> Verdict | None:
    reason = at.unapproved.get(action.name)
    return None if reason is None else ("approval", reason)


def _cooldown(action: Action, at: Circumstances, _config: PolicyConfig) -> Verdict | None:
    last = at.last_taken.get(action.name)
    if last is None:
        return None
    days = round((at.epoch_start - last) / DAY_US)  # between local midnights: an hour more or less is daylight saving
    if days * DAY_US >= action.cooldown_us:
        return None
    return "cooldown", f"taken in the epoch that began {days} days before, again after {action.cooldown_us / DAY_US:g}"


def _consent(channel: str, at: Circumstances, config: PolicyConfig) -> Verdict | int:
    if not config.channels[channel].needs_consent or at.consents.get(channel, False):
        return at.time
    return "consent", f"the user has not consented to {channel}"


def _caps(channel: str, at: Circumstances, config: PolicyConfig) -> Verdict | int:
    of = config.channels[channel]
    if not of.contact:
        return at.time
    counted = [contact for contact in at.contacts if _is_contact(contact.channel, config)]
    if reason := cap_reason(counted, at.time, cap=config.cap):
        return "caps", reason
    own = [contact for contact in counted if contact.channel == channel]
    reason = cap_reason(own, at.time, cap=of.cap)
    return at.time if reason is None else ("caps", f"by {channel} {reason}")


def _is_contact(channel: str, config: PolicyConfig) -> bool:
    """A channel that the recipe no longer has counts: it did interrupt the user."""
    return config.channels[channel].contact if channel in config.channels else True


def _quiet_hours(channel: str, at: Circumstances, config: PolicyConfig) -> Verdict | int:
    quiet = config.channels[channel].quiet
    until = None if quiet is None else quiet_until(at.time, quiet=quiet, timezone=at.timezone)
    if quiet is None or until is None:
        return at.time
    said = f"it is quiet from {quiet.begin} to {quiet.end} in {at.timezone}"
    if until - at.time > round(quiet.defer_hours * HOUR_US):
        return "quiet_hours", f"{said}, longer than a message may wait"
    if until >= at.epoch_end:
        return "quiet_hours", f"{said}, beyond the end of the decision period"
    return until


STEPS: tuple[tuple[str, Step | None, ChannelStep | None], ...] = (
    (KILL_SWITCH, _kill_switch, None),
    ("guardrails", _guardrails, None),
    ("consent", None, _consent),
    (HOLDOUT, _holdout, None),
    ("eligibility", _eligibility, None),
    ("rules", _rules, None),
    ("approval", _approval, None),
    ("cooldown", _cooldown, None),
    ("caps", None, _caps),
    ("quiet_hours", None, _quiet_hours),
)
"""The steps before the budget: each looks at actions, or at channels."""


def feasible(catalogue: Sequence[Action], at: Circumstances, *, config: PolicyConfig) -> Feasible:
    """Split `catalogue` (with or without `none`) by STEPS. `none` is never masked."""
    candidates = [action for action in catalogue if action.name != NONE.name]
    open_channels = dict.fromkeys(config.channels, at.time)
    masks: list[Mask] = []
    closed: list[Mask] = []
    for step, of_action, of_channel in STEPS:
        if of_action is not None:
            kept = []
            for action in candidates:
                verdict = of_action(action, at, config)
                if verdict is None:
                    kept.append(action)
                else:
                    masks.append(Mask(action.name, step, *verdict))
            candidates = kept
        if of_channel is not None:
            shut = _shut(open_channels, step, of_channel, at, config)
            closed += shut
            candidates, lost = _reachable(candidates, open_channels, shut, step)
            masks += lost
    routes = {action.name: _route(action, open_channels) for action in candidates}
    return Feasible((NONE, *candidates), tuple(masks), {NONE.name: Route(None, at.time), **routes}, tuple(closed))


def _shut(
    open_channels: dict[str, int], step: str, of_channel: ChannelStep, at: Circumstances, config: PolicyConfig
) -> list[Mask]:
    """Close channels in place, or set from when they may be used."""
    shut = []
    for channel in list(open_channels):
        verdict = of_channel(channel, at, config)
        if isinstance(verdict, int):
            open_channels[channel] = max(open_channels[channel], verdict)
        else:
            del open_channels[channel]
            shut.append(Mask(channel, step, *verdict))
    return shut


def _reachable(
    candidates: list[Action], open_channels: Mapping[str, int], shut: Sequence[Mask], step: str
) -> tuple[list[Action], list[Mask]]:
    why = {mask.name: mask for mask in shut}
    kept, masks = [], []
    for action in candidates:
        if any(channel in open_channels for channel in action.channels):
            kept.append(action)
        else:  # some channel of it was closed in this very step, or it would be gone already
            last = next(why[channel] for channel in action.channels if channel in why)
            masks.append(Mask(action.name, step, last.rule, last.reason))
    return kept, masks


def _route(action: Action, open_channels: Mapping[str, int]) -> Route:
    """The first channel by which it can go at once, else the one that opens first."""
    channels = [channel for channel in action.channels if channel in open_channels]
    best = min(channels, key=lambda channel: open_channels[channel])
    return Route(best, open_channels[best])


def mask_unaffordable(left: Feasible, *, cost: float) -> Feasible:
    """Drop every action that costs at least `cost`, the amount that the budget refused."""
    dropped = [action for action in left.actions if action.cost >= cost > 0]
    masks = [Mask(a.name, BUDGET, BUDGET, f"the budget has no {a.cost:g} left to reserve") for a in dropped]
    return replace(left, actions=tuple(a for a in left.actions if a not in dropped), masks=(*left.masks, *masks))


def keep_required(left: Feasible, at: Circumstances, *, config: PolicyConfig) -> Feasible:
    """Narrow what is left to what rules require, rule by rule; a rule none of whose actions is left asks for nothing.

    The kill switch and the holdout go before: where only `none` is left, there is nothing to require."""
    for rule in requiring(config.rules, at.known):
        wanted = [action for action in left.actions if action.name in rule.require_actions]
        if not wanted:
            continue
        named = ", ".join(action.name for action in wanted)
        masks = [
            Mask(action.name, "required", PREFIX + rule.name, f"{named} is required: {rule.reason}")
            for action in left.actions
            if action not in wanted
        ]
        left = replace(left, actions=tuple(wanted), masks=(*left.masks, *masks))
    return left
