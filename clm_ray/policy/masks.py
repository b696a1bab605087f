"""What may not be done to this user now, and which rule says so.

The order is that of a decision: kill switch → consent → holdout → eligibility → cooldown. An action is masked by the
first rule that applies to it, and that rule is what the record names. Affordability comes after all of these and is the store's to
decide: `mask_unaffordable` takes its answer. A new rule is one function and one line in RULES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clm_ray.config.policy import Stage
from clm_ray.policy.catalogue import NONE, Action
from clm_ray.schema import DAY_US

BUDGET = "budget"
"""Name of the rule that masks what the budget refused."""


@dataclass(frozen=True)
class Circumstances:
    """Everything the rules look at. `epoch_start`: that of the decision (µs); `last_taken`: action → start of the epoch in which this
    user last got it (µs). When within an epoch somebody asked is not in it, so that it cannot matter."""

    enabled: bool
    consent: bool
    holdout: bool
    stage: Stage
    epoch_start: int
    last_taken: Mapping[str, int]


@dataclass(frozen=True)
class Mask:
    """One action that is excluded, the rule that excludes it, and why in words."""

    action: str
    rule: str
    reason: str


@dataclass(frozen=True)
class Feasible:
    """What is left (`none` is always in it, first) and what is not."""

    actions: tuple[Action, ...]
    masks: tuple[Mask, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(action.name for action in self.actions)


Rule = Callable[[Action, Circumstances], str | None]


def _kill_switch(_action: Action, at: Circumstances) -> str | None:
    return None if at.enabled else "the policy is switched off"


def _consent(action: Action, at: Circumstances) -> str | None:
    return "the user has not consented to being contacted" if action.needs_consent and not at.consent else None


def _holdout(_action: Action, at: Circumstances) -> str | None:
    return "the user is in the holdout, which never gets an action" if at.holdout else None


def _eligibility(action: Action, at: Circumstances) -> str | None:
    return None if at.stage in action.stages else f"only for stages {', '.join(action.stages)}, the user is {at.stage}"


def _cooldown(action: Action, at: Circumstances) -> str | None:
    last = at.last_taken.get(action.name)
    if last is None:
        return None
    days = round((at.epoch_start - last) / DAY_US)  # between local midnights: an hour more or less is daylight saving
    if days * DAY_US >= action.cooldown_us:
        return None
    return f"taken in the epoch that began {days} days before, again after {action.cooldown_us / DAY_US:g}"


RULES: tuple[tuple[str, Rule], ...] = (
    ("kill_switch", _kill_switch),
    ("consent", _consent),
    ("holdout", _holdout),
    ("eligibility", _eligibility),
    ("cooldown", _cooldown),
)
"""The rules in the order in which they are asked."""


def feasible(catalogue: Sequence[Action], circumstances: Circumstances) -> Feasible:
    """Split `catalogue` (with or without `none`) by RULES. `none` is never masked."""
    actions, masks = [NONE], []
    for action in catalogue:
        if action.name == NONE.name:
            continue
        for name, rule in RULES:
            if reason := rule(action, circumstances):
                masks.append(Mask(action.name, name, reason))
                break
        else:
            actions.append(action)
    return Feasible(tuple(actions), tuple(masks))


def mask_unaffordable(left: Feasible, *, cost: float) -> Feasible:
    """Drop every action that costs at least `cost`, the amount that the budget refused."""
    dropped = [action for action in left.actions if action.cost >= cost > 0]
    masks = [Mask(action.name, BUDGET, f"the budget has no {action.cost:g} left to reserve") for action in dropped]
    return Feasible(tuple(a for a in left.actions if a not in dropped), (*left.masks, *masks))
