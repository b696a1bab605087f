"""Groups: what the policy meant to do is compared, chance is allowed for, small groups are not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clm_ray.config.guards import FairnessConfig
from clm_ray.policy.fairness import Treated, exposures, figures, findings, gaps, hide_small
from clm_ray.policy.uplift import Outcome

CONFIG = FairnessConfig(columns=("town",), min_users=50)


def row(
    n: int,
    town: str | None,
    *,
    p: float = 0.5,
    holdout: bool = False,
    active: bool = False,
    forecast: float | None = None,
) -> Treated:
    action = "none" if holdout or n % 2 else "coupon"
    outcome = Outcome(
        str(n), "at_risk", holdout, frozenset({"none", "coupon"}), action, 1.0 if holdout else 0.5, active
    )
    return Treated(
        user_id=str(n),
        stage="at_risk",
        holdout=holdout,
        columns={} if town is None else {"town": town},
        probabilities={"none": 1.0} if holdout else {"none": 1 - p, "coupon": p},
        forecast=forecast,
        outcome=outcome,
    )


def test_the_rate_is_that_of_the_distribution_outside_the_holdout() -> None:
    rows = [row(n, "a", p=0.6) for n in range(60)] + [row(100 + n, "b", p=0.4, holdout=n < 30) for n in range(90)]
    found = figures(rows, config=CONFIG)
    rates = {one.group: one.value for one in found if one.metric == "action_rate"}
    assert rates == pytest.approx({"a": 0.6, "b": 0.4})
    (gap,) = [one for one in gaps(found, config=CONFIG) if one.metric == "action_rate"]
    assert (gap.low_group, gap.high_group, gap.stage) == ("b", "a", "at_risk")
    assert gap.broken
    (stop,) = findings([gap])
    assert (stop.guardrail, stop.action, stop.stops) == ("fairness_town", "coupon", True)
    assert not [g for g in gaps(found, config=CONFIG.model_copy(update={"max_action_gap": 0.3})) if g.broken]


def test_small_groups_are_reported_and_not_compared_and_hidden_where_asked() -> None:
    rows = [row(n, "a") for n in range(60)] + [row(100 + n, "b", p=0.0) for n in range(49)] + [row(200, None)]
    found = figures(rows, config=CONFIG)
    assert {one.group for one in found} == {"a", "b", "(unknown)"}
    assert gaps(found, config=CONFIG) == []
    shown = {one.group: math.isnan(one.value) for one in hide_small(found, least=10) if one.metric == "action_rate"}
    assert shown == {"a": False, "b": False, "(unknown)": True}


@pytest.mark.parametrize(("bias", "broken"), [(0.0, False), (0.3, True)])
def test_calibration_is_of_who_was_left_alone(bias: float, broken: bool) -> None:
    rng = np.random.default_rng(4)
    rows = []
    for n in range(2000):
        town, p = ("a", 0.3) if n % 4 < 2 else ("b", 0.6)
        forecast = p + (bias if town == "a" else 0.0)
        active = bool(
            rng.random() < (p if n % 2 else 1.0)
        )  # who got a coupon always came: that is no error of the forecast
        rows.append(row(n, town, active=active, forecast=forecast))
    (gap,) = [one for one in gaps(figures(rows, config=CONFIG), config=CONFIG) if one.metric == "calibration"]
    assert gap.broken is broken
    if broken:
        assert findings([gap])[0].action == "*"


@pytest.mark.parametrize(("gain", "broken"), [(0.0, False), (0.4, True)])
def test_uplift_gaps_count_beyond_chance(gain: float, broken: bool) -> None:
    rng = np.random.default_rng(9)
    rows = []
    for n in range(3000):
        town, holdout = "a" if n % 4 < 2 else "b", n % 3 == 0
        treated = not holdout and n % 2 == 0
        chance = 0.3 + (gain if treated and town == "a" else 0.0)
        rows.append(row(n, town, holdout=holdout, active=bool(rng.random() < chance)))
    (gap,) = [one for one in gaps(figures(rows, config=CONFIG), config=CONFIG) if one.metric == "uplift"]
    assert gap.broken is broken
    assert gap.beyond < gap.difference


def test_exposure_is_by_place_and_split_over_an_items_categories() -> None:
    groups = {"1": {"town": "a"}, "2": {"town": "b"}}
    shown = [("1", [["bread"], ["wine"]]), ("2", [["bread", "wine"]]), ("stranger", [["wine"]])]
    a, b = exposures(shown, groups=groups, config=CONFIG)
    second = 1 / math.log2(3)
    assert a.shares == pytest.approx({"bread": 1 / (1 + second), "wine": second / (1 + second)})
    assert b.shares == {"bread": 0.5, "wine": 0.5}
    assert (a.users, b.users) == (1, 1)
    together = (1 + 0.5) / (2 + second)
    assert b.distance == pytest.approx(together - 0.5)
    assert exposures([], groups=groups, config=CONFIG) == []
