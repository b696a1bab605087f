"""Guardrails stop on evidence, not on noise, and say what they saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from clm_ray.config.guards import GuardrailsConfig
from clm_ray.config.policy import Stage
from clm_ray.policy.guardrails import Finding, Seen, check, wilson
from clm_ray.policy.uplift import Outcome

CONFIG = GuardrailsConfig(min_decisions=100)


def seen(
    number: int, *, action: str = "coupon", holdout: bool = False, stage: Stage = "at_risk", active: bool = False
) -> Seen:
    feasible = frozenset({"none", "coupon"})
    return Seen(
        user_id=str(number),
        time=number,
        stage=stage,
        holdout=holdout,
        action=action,
        contact=action != "none",
        cost=2.0 if action == "coupon" else 0.0,
        answer_due=True,
        unsubscribed=False,
        complained=False,
        outcome=Outcome(str(number), stage, holdout, feasible, action, 1.0 if holdout else 0.5, active),
    )


def found(rows: list[Seen], name: str, config: GuardrailsConfig = CONFIG, share: float = 0.05) -> Finding:
    (one,) = [one for one in check(rows, config=config, holdout_share=share) if one.guardrail == name]
    return one


@pytest.mark.parametrize(("left", "stops"), [(3, False), (6, False), (14, True)])
def test_unsubscriptions_stop_where_even_the_lower_bound_is_too_high(left: int, stops: bool) -> None:
    rows = [replace(seen(n), unsubscribed=n < left) for n in range(200)]
    one = found(rows, "unsubscribes")
    assert (one.stops, one.action, one.value) == (stops, "coupon", left / 200)
    assert not found(rows[:99], "unsubscribes").stops
    assert not found([replace(row, answer_due=False) for row in rows], "unsubscribes").stops


def test_the_interval_is_wilsons() -> None:
    for count, rows in [(0, 10), (3, 200), (10, 10)]:
        expected = stats.binomtest(count, rows).proportion_ci(method="wilson")
        assert wilson(count, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("gain", "stops"), [(0.0, True), (0.3, False)])
def test_an_action_whose_users_cost_too_much_is_stopped(gain: float, stops: bool) -> None:
    rng = np.random.default_rng(2)
    treated = [seen(n, active=bool(rng.random() < 0.3 + gain)) for n in range(2000)]
    held = [seen(n, action="none", holdout=True, active=bool(rng.random() < 0.3)) for n in range(2000, 4000)]
    one = found([*treated, *held], "cost_per_user", CONFIG.model_copy(update={"max_cost_per_user": 20.0}))
    assert one.stops is stops
    assert not found(treated, "cost_per_user").stops  # no holdout to compare with


def test_another_mix_of_stages_stops_everything() -> None:
    steady = [seen(n, stage="at_risk" if n % 2 else "new") for n in range(1000)]
    shifted = [*steady[:500], *(replace(row, stage="churned") for row in steady[500:])]
    assert not found(steady, "stage_drift").stops
    one = found(shifted, "stage_drift")
    assert (one.stops, one.action) == (True, "*")
    assert not found(shifted[450:550], "stage_drift").stops  # too few


def test_a_holdout_of_another_size_stops_everything() -> None:
    def rows(held: int) -> list[Seen]:
        return [seen(n, holdout=n < held, action="none") for n in range(4000)]

    assert not found(rows(200), "sample_ratio").stops
    assert not found(rows(225), "sample_ratio").stops
    one = found(rows(270), "sample_ratio")
    assert one.value == pytest.approx(stats.chisquare([270, 3730], [200, 3800]).pvalue)
    assert (one.stops, one.action) == (True, "*")
    twice = [row for row in rows(200) for _ in range(3 if row.holdout else 1)]
    assert not found(twice, "sample_ratio").stops  # users are counted, not decisions
    former = [replace(row, current=False) for row in rows(270)]
    assert found(former, "sample_ratio").value is None  # of a policy that may have held out another share


def test_what_is_not_watched_is_not_found() -> None:
    off = GuardrailsConfig(
        max_unsubscribes=None, max_complaints=None, max_cost_per_user=None, max_stage_drift=None, min_holdout_p=None
    )
    assert check([seen(1)], config=off, holdout_share=0.05) == []
    assert not any(one.stops for one in check([], config=CONFIG, holdout_share=0.05))
