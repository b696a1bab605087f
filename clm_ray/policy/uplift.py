"""What an action gains: a prior from the catalogue, moved by what was observed against the holdout.

An uplift is an absolute gain in the probability that the user is active within `policy.outcome_days` of the decision.

Prior: normal with the mean m0 and the 95 % interval of the catalogue, sd s0 = (high - low) / 3.92.

Observed, per action a and stage s, from decisions whose outcome is due:
    treated    decisions of users outside the holdout for which a was feasible; those that drew a, weighted by 1 / propensity:
               y1 = Σ w y / Σ w  (Hájek, in Särndal, Swensson & Wretman, Model Assisted Survey Sampling, 1992, section 5.7)
    control    decisions of holdout users for which a would have been feasible but for the holdout: y0 = mean y
    difference d = y1 - y0, with variance v = Σ_u (Σ_{i in u} w_i (y_i - y1))² / (Σ w)² + Σ_u (Σ_{i in u} (y_i - y0))² / n0²,
               sums over users u, because decisions of one user are not independent. Each of the two variances has a least
               value, .25 / (weighted or plain) number of users: a few equal outcomes do not make a certainty.
Posterior: precision-weighted mean of both (normal with normal; Gelman et al., Bayesian Data Analysis, 3rd ed., section 2.5).

The budget is part of feasibility and depends on time, not on the user; who asked late in a period that ran out of money is compared with
holdout users of all times. Where that matters, look at one stretch of time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clm_ray.config.policy import Stage, UpliftPrior
from clm_ray.policy.catalogue import Action

Z95 = 1.959963984540054
_MOST_VARIANCE = 0.25
"""Of a 0/1 outcome."""


@dataclass(frozen=True)
class Estimate:
    """An uplift with its 95 % interval. treated, control: decisions behind it, 0 for a prior alone."""

    mean: float
    low: float
    high: float
    treated: int = 0
    control: int = 0

    @property
    def source(self) -> str:
        """In words, for explanations."""
        if not self.treated or not self.control:
            return "a prior: nothing observed yet"
        return f"prior and {self.treated} decisions against {self.control} of the holdout"


@dataclass(frozen=True)
class Outcome:
    """What became of one decision. feasible: what could have been drawn (holdout: but for the holdout). active: within the outcome's days."""

    user_id: str
    stage: Stage
    holdout: bool
    feasible: frozenset[str]
    action: str
    propensity: float
    active: bool


@dataclass(frozen=True)
class Observed:
    """Difference to the holdout and its variance; users behind each side."""

    difference: float
    variance: float
    treated: int
    control: int


def prior_of(prior: UpliftPrior) -> Estimate:
    """The prior as an estimate."""
    return Estimate(prior.mean, prior.low, prior.high)


def observe(outcomes: Iterable[Outcome], *, action: str) -> Observed | None:
    """The difference of `action` to the holdout; None where either side is empty. See the head of this file."""
    treated: dict[str, list[tuple[float, float]]] = defaultdict(list)
    control: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in outcomes:
        if action not in one.feasible:
            continue
        if one.holdout:
            control[one.user_id].append((1.0, float(one.active)))
        elif one.action == action:
            treated[one.user_id].append((1 / one.propensity, float(one.active)))
    if not treated or not control:
        return None
    (mean1, variance1), (mean0, variance0) = _mean(treated), _mean(control)
    counts = (sum(len(rows) for rows in side.values()) for side in (treated, control))
    return Observed(mean1 - mean0, variance1 + variance0, *counts)


def _mean(side: Mapping[str, list[tuple[float, float]]]) -> tuple[float, float]:
    """Weighted mean of (weight, y) rows by user, and its variance clustered by user."""
    weights = [sum(w for w, _ in rows) for rows in side.values()]
    total = sum(weights)
    mean = sum(w * y for rows in side.values() for w, y in rows) / total
    squares = sum(sum(w * (y - mean) for w, y in rows) ** 2 for rows in side.values())
    users = total**2 / sum(w**2 for w in weights)  # effective number of users (Kish)
    return mean, max(squares / total**2, _MOST_VARIANCE / users**2, _MOST_VARIANCE / (users * (users + 1)))


def posterior(prior: UpliftPrior, observed: Observed | None) -> Estimate:
    """Prior and observation together."""
    if observed is None:
        return prior_of(prior)
    precision0 = 1 / ((prior.high - prior.low) / (2 * Z95)) ** 2
    precision1 = 1 / observed.variance
    mean = (precision0 * prior.mean + precision1 * observed.difference) / (precision0 + precision1)
    half = Z95 / math.sqrt(precision0 + precision1)
    return Estimate(mean, mean - half, mean + half, observed.treated, observed.control)


def score(estimate: Estimate, *, worth: float, cost: float, price: float) -> float:
    """What taking an action is expected to bring, in currency: uplift × worth - cost × (1 + price of budget)."""
    return estimate.mean * worth - cost * (1 + price)


def weights_of(scores: Mapping[str, float], *, temperature: float) -> dict[str, float]:
    """Action → exp((score - best) / temperature): the best has weight 1, none is ever 0 unless it is far behind."""
    best = max(scores.values())
    return {name: math.exp((value - best) / temperature) for name, value in scores.items()}


def estimates_of(
    actions: Iterable[Action], *, stage: Stage, learned: Mapping[str, Mapping[Stage, Estimate]]
) -> dict[str, Estimate]:
    """Action → what it is expected to gain in this stage: the learned estimate where there is one, else the prior. `none` gains nothing."""
    result = {}
    for action in actions:
        if action.channels:
            known = learned.get(action.name, {}).get(stage)
            result[action.name] = known if known is not None else prior_of(action.prior(stage))
        else:
            result[action.name] = Estimate(0.0, 0.0, 0.0)
    return result
