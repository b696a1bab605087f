"""Bounds that stop an action, or everything, by themselves: from logged decisions and what users did after them.

Each bound is asked only where there is enough to see, and stops only where chance does not explain what is seen: a guardrail that trips
on noise is switched off by the people whom it disturbs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import chdtrc

from clm_ray.config.guards import GuardrailsConfig
from clm_ray.config.policy import NO_ACTION, STAGES, Stage
from clm_ray.metrics.drift import index_by_chance, stability_index
from clm_ray.policy.uplift import Z95, Outcome, observe

EVERYTHING = "*"
"""Stands for all actions."""


@dataclass(frozen=True)
class Seen:
    """A logged decision and what came after. answer_due: enough time has passed for an unsubscription or complaint to count. outcome: None
    while it is not due. contact: a message was sent. current: decided by the policy of today, so with its share of holdout users."""

    user_id: str
    time: int
    stage: Stage
    holdout: bool
    action: str
    contact: bool
    cost: float
    answer_due: bool
    unsubscribed: bool
    complained: bool
    outcome: Outcome | None
    current: bool = True


@dataclass(frozen=True)
class Finding:
    """What one guardrail found. action: * for all; value: what was measured, None where there was not enough; stops: the bound is broken."""

    guardrail: str
    action: str
    value: float | None
    bound: float
    rows: int
    stops: bool
    text: str


def check(seen: Sequence[Seen], *, config: GuardrailsConfig, holdout_share: float) -> list[Finding]:
    """All guardrails that the recipe watches, fairness aside (`policy.fairness`)."""
    found: list[Finding] = []
    actions = sorted({one.action for one in seen} - {NO_ACTION})
    for action in actions:
        if config.max_unsubscribes is not None:
            found.append(_answers(seen, action, "unsubscribes", config.max_unsubscribes, config))
        if config.max_complaints is not None:
            found.append(_answers(seen, action, "complaints", config.max_complaints, config))
        if config.max_cost_per_user is not None:
            found.append(_cost_per_user(seen, action, config.max_cost_per_user, config))
    if config.max_stage_drift is not None:
        found.append(_stage_drift(seen, config.max_stage_drift, config))
    if config.min_holdout_p is not None and 0 < holdout_share < 1:
        found.append(_sample_ratio(seen, holdout_share, config.min_holdout_p, config))
    return found


def wilson(count: int, rows: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, Journal of the American Statistical Association 22, 1927); 0 to 1 without rows."""
    if not rows:
        return 0.0, 1.0
    share, z2 = count / rows, Z95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _answers(seen: Iterable[Seen], action: str, kind: str, bound: float, config: GuardrailsConfig) -> Finding:
    contacts = [one for one in seen if one.action == action and one.contact and one.answer_due]
    count = sum(one.unsubscribed if kind == "unsubscribes" else one.complained for one in contacts)
    rows = len(contacts)
    if rows < config.min_decisions:
        return _too_few(kind, action, bound, rows, config.min_decisions)
    low, high = wilson(count, rows)
    text = f"{count} {kind} after {rows} contacts ({count / rows:.2%}, 95 % interval {low:.2%} to {high:.2%}; bound {bound:.2%})"
    return Finding(kind, action, count / rows, bound, rows, low > bound, text)


def _cost_per_user(seen: Iterable[Seen], action: str, bound: float, config: GuardrailsConfig) -> Finding:
    name = "cost_per_user"
    due = [(one, one.outcome) for one in seen if one.outcome is not None]
    costs = [one.cost for one, _ in due if one.action == action]
    observed = observe([outcome for _, outcome in due], action=action)
    rows = 0 if observed is None else min(observed.treated, observed.control)
    if observed is None or rows < config.min_decisions:
        return _too_few(name, action, bound, rows, config.min_decisions)
    cost = sum(costs) / len(costs)
    best = observed.difference + Z95 * math.sqrt(observed.variance)
    least = cost / best if best > 0 else math.inf
    middle = cost / observed.difference if observed.difference > 0 else math.inf
    text = f"a user kept costs {middle:.2f} ({least:.2f} at the upper end of the uplift; bound {bound:g})"
    return Finding(name, action, middle, bound, rows, cost > 0 and least > bound, text)


def _stage_drift(seen: Sequence[Seen], bound: float, config: GuardrailsConfig) -> Finding:
    """The stages of the newer half of the time against those of the older half."""
    name = "stage_drift"
    if not seen:
        return _too_few(name, EVERYTHING, bound, 0, config.min_decisions)
    times = [one.time for one in seen]
    middle = (min(times) + max(times)) / 2
    old, new = (Counter(one.stage for one in seen if (one.time > middle) == late) for late in (False, True))
    rows = min(old.total(), new.total())
    if rows < config.min_decisions:
        return _too_few(name, EVERYTHING, bound, rows, config.min_decisions)
    index = stability_index([old[stage] for stage in STAGES], actual=[new[stage] for stage in STAGES])
    chance = index_by_chance(len(set(old) | set(new)), expected=old.total(), actual=new.total())
    text = f"stability index of the stage mix {index:.3f} between the halves of the window ({chance:.3f} by chance; bound {bound:g})"
    return Finding(name, EVERYTHING, index, bound, rows, index - chance > bound, text)


def _sample_ratio(seen: Iterable[Seen], share: float, bound: float, config: GuardrailsConfig) -> Finding:
    """Distinct users in and out of the holdout against the share that the hash gives (chi-square; Fabijan et al., Diagnosing sample ratio
    mismatch in online controlled experiments, KDD 2019)."""
    name = "sample_ratio"
    users: dict[bool, set[str]] = defaultdict(set)
    for one in seen:
        if one.current:
            users[one.holdout].add(one.user_id)
    inside, total = len(users[True]), len(users[True]) + len(users[False])
    if total * min(share, 1 - share) < 5 or total < config.min_decisions:
        return _too_few(name, EVERYTHING, bound, total, config.min_decisions)
    p = float(chdtrc(1, (inside - share * total) ** 2 / (share * (1 - share) * total)))
    text = f"{inside} of {total} users are in the holdout, {share:.1%} were to be (p = {p:.2g}; bound {bound:g})"
    return Finding(name, EVERYTHING, p, bound, total, p < bound, text)


def _too_few(name: str, action: str, bound: float, rows: int, least: int) -> Finding:
    return Finding(name, action, None, bound, rows, False, f"only {rows} to look at, {least} are needed")
