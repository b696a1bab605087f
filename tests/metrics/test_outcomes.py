"""Figures of what was shown: by hand, and intervals that cover what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clm_ray.metrics.outcomes import RATIOS, Shown, differences, figures


def simulated(users: int, *, rate: float, claimed: float | None = None, seed: int = 0, slates: int = 3) -> Shown:
    """Users with their own leaning, three items a slate."""
    random = np.random.default_rng(seed)
    lean_U = random.beta(rate * 20, (1 - rate) * 20, users)
    user_S = np.repeat(np.arange(users), slates)
    slate_N = np.repeat(np.arange(len(user_S)), 3)
    p_N = lean_U[user_S][slate_N]
    label_N = random.random(len(p_N)) < p_N
    return Shown.of(
        user_S,
        revenue=np.bincount(slate_N, label_N * 2.0, len(user_S)),
        slate=slate_N,
        probability=p_N if claimed is None else np.full(len(p_N), claimed),
        label=label_N,
    )


def test_figures_by_hand() -> None:
    nan = float("nan")
    shown = Shown.of(
        ["a", "a", "b"],
        revenue=[3.0, 0.0, 1.0],
        slate=[0, 0, 1, 2],
        probability=[0.5, 0.25, 0.5, nan],
        label=[1, 0, 0, 1],
    )
    found = figures(shown)
    assert (found.slates, found.users, found.items, found.scored) == (3, 2, 4, 3)
    assert found.ctr.value == pytest.approx(2 / 4)
    assert found.answered.value == pytest.approx(2 / 3)
    assert found.revenue.value == pytest.approx(4 / 3)
    assert found.calibration.value == pytest.approx(1 / 1.25)
    assert found.log_loss.value == pytest.approx((2 * math.log(2) - math.log(0.75)) / 3)


def test_nothing_shown_has_no_figures() -> None:
    found = figures(Shown.of([], revenue=[], slate=[], probability=[], label=[]))
    assert found.slates == 0
    assert math.isnan(found.ctr.value)
    assert math.isnan(found.log_loss.low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = [
        (ctr := figures(simulated(150, rate=0.2, seed=seed), resamples=200).ctr).low <= 0.2 <= ctr.high
        for seed in range(60)
    ]
    assert 0.85 <= np.mean(covered) <= 1.0


def test_users_not_rows_are_drawn() -> None:
    once = simulated(100, rate=0.3, slates=1)
    same = Shown.of(
        np.tile(once.user_S, 9),
        revenue=np.tile(once.revenue_S, 9),
        slate=np.concatenate([once.slate_N + n * len(once.user_S) for n in range(9)]),
        probability=np.tile(once.probability_N, 9),
        label=np.tile(once.label_N, 9),
    )
    narrow, wide = figures(same).ctr, figures(once).ctr
    assert narrow.high - narrow.low == pytest.approx(wide.high - wide.low, rel=0.05), "copies are no news"


def test_a_version_that_claims_too_much_is_out_of_calibration() -> None:
    right, wrong = simulated(500, rate=0.2), simulated(500, rate=0.2, claimed=0.4)
    assert figures(right).calibration.low < 1 < figures(right).calibration.high
    assert figures(wrong).calibration.high < 0.7
    assert figures(wrong).ece == pytest.approx(0.2, abs=0.03)


def test_a_real_difference_is_found_and_none_is_not_made_up() -> None:
    one, other = simulated(400, rate=0.1, seed=1), simulated(400, rate=0.2, seed=2)
    gap = differences(one, other=other, paired=False)
    assert set(gap) == set(RATIOS)
    assert gap["ctr"].low > 0.05
    assert gap["revenue"].low > 0
    holds = []
    for seed in range(40):
        one, other = simulated(200, rate=0.1, seed=seed), simulated(200, rate=0.1, seed=1000 + seed)
        gap = differences(one, other=other, paired=False, resamples=200)
        holds.append(gap["ctr"].low <= 0 <= gap["ctr"].high)
    assert 0.85 <= np.mean(holds) <= 1.0


def test_two_versions_of_the_same_slates_are_compared_on_the_same_draws() -> None:
    one = simulated(200, rate=0.3, seed=4)
    worse = Shown(one.user_S, one.revenue_S, one.slate_N, np.clip(one.probability_N + 0.05, 0, 1), one.label_N)
    paired = differences(one, other=worse, paired=True)["log_loss"]
    apart = differences(one, other=worse, paired=False)["log_loss"]
    assert paired.low > 0
    assert paired.high - paired.low < (apart.high - apart.low) / 2
    ctr = differences(one, other=worse, paired=True)["ctr"]
    assert (ctr.value, ctr.low, ctr.high) == (0, 0, 0), "what was shown is the same"
