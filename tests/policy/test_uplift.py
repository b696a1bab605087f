"""Uplift: the observation recovers a known truth, the prior gives way to it, scores are uplift × worth - price."""

from __future__ import annotations

import numpy as np
import pytest

from clm_ray.config.policy import PolicyConfig, UpliftPrior
from clm_ray.policy.catalogue import catalogue_of
from clm_ray.policy.uplift import Estimate, Outcome, estimates_of, observe, posterior, prior_of, score, weights_of

PRIOR = UpliftPrior(mean=0.02, low=-0.02, high=0.06)


def world(seed: int, users: int, *, effect: float, repeats: int = 1) -> list[Outcome]:
    """Loyal users are treated more often: without the propensities the action would look far better than it is."""
    rng = np.random.default_rng(seed)
    outcomes = []
    for user in range(users):
        loyal = rng.random() < 0.5
        holdout = rng.random() < 0.2
        for _ in range(repeats):
            p = 0.8 if loyal else 0.1
            treated = not holdout and rng.random() < p
            chance = (0.6 if loyal else 0.2) + (effect if treated else 0.0)
            outcomes.append(
                Outcome(
                    user_id=str(user),
                    stage="at_risk",
                    holdout=holdout,
                    feasible=frozenset({"none", "coupon"}),
                    action="coupon" if treated else "none",
                    propensity=1.0 if holdout else (p if treated else 1 - p),
                    active=bool(rng.random() < chance),
                )
            )
    return outcomes


def test_the_interval_covers_the_truth_where_treatment_depends_on_the_user() -> None:
    covered, naive_far = 0, 0
    for seed in range(30):
        outcomes = world(seed, 900, effect=0.10, repeats=2)
        seen = observe(outcomes, action="coupon")
        assert seen is not None
        covered += abs(seen.difference - 0.10) < 1.96 * seen.variance**0.5
        treated = [o.active for o in outcomes if o.action == "coupon"]
        control = [o.active for o in outcomes if o.holdout]
        naive_far += abs(np.mean(treated) - np.mean(control) - 0.10) > 0.08
    assert covered >= 25  # 28.5 expected
    assert naive_far >= 25


def test_only_comparable_decisions_count() -> None:
    outcomes = world(1, 300, effect=0.0)
    others = [Outcome("x", "at_risk", True, frozenset({"none"}), "none", 1.0, True)] * 50
    assert observe(outcomes + others, action="coupon") == observe(outcomes, action="coupon")
    assert observe(outcomes, action="letter") is None
    assert observe([o for o in outcomes if not o.holdout], action="coupon") is None


def test_equal_outcomes_are_no_certainty() -> None:
    three = [
        Outcome(str(n), "new", n == 0, frozenset({"none", "a"}), "none" if n == 0 else "a", 1.0, True) for n in range(3)
    ]
    seen = observe(three, action="a")
    assert seen is not None
    assert seen.variance > 0.04


def test_the_prior_gives_way_to_many_decisions() -> None:
    few, many = (posterior(PRIOR, observe(world(3, n, effect=0.15), action="coupon")) for n in (30, 20_000))
    assert posterior(PRIOR, None) == prior_of(PRIOR)
    assert abs(few.mean - 0.02) < abs(many.mean - 0.02)
    assert many.low < 0.15 < many.high
    assert many.high - many.low < few.high - few.low < PRIOR.high - PRIOR.low
    assert "prior: nothing observed" in prior_of(PRIOR).source
    assert "decisions against" in many.source


def test_users_are_scored_by_gain_and_not_by_risk() -> None:
    some, none = Estimate(0.05, 0, 0.1), Estimate(0.0, -0.05, 0.05)
    assert score(some, worth=100.0, cost=2.0, price=0.0) == pytest.approx(3.0)
    assert score(some, worth=100.0, cost=2.0, price=1.5) == pytest.approx(0.0)
    assert score(none, worth=1000.0, cost=2.0, price=0.0) < 0
    weights = weights_of({"none": 0.0, "a": 0.5, "b": -1e9}, temperature=0.25)
    assert (weights["a"], weights["b"]) == (1.0, 0.0)
    assert weights["none"] == pytest.approx(np.exp(-2))


def test_what_was_learned_goes_before_the_catalogue_and_a_stage_without_a_prior_has_no_gain() -> None:
    actions = catalogue_of(PolicyConfig())
    learned = {"reminder": {"at_risk": Estimate(0.5, 0.4, 0.6, 10, 10)}}
    at_risk = estimates_of(actions, stage="at_risk", learned=learned)  # type: ignore[arg-type]
    assert at_risk["reminder"].mean == 0.5
    assert (at_risk["coupon_small"].mean, at_risk["coupon_small"].treated) == (0.04, 0)
    assert at_risk["none"] == Estimate(0.0, 0.0, 0.0)
    assert estimates_of(actions, stage="prospect", learned={})["win_back"] == Estimate(0.0, -0.02, 0.02)
