"""The price of budget: that of the linear programme offline, and one that keeps to the plan online."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from clm_ray.policy.knapsack import Pace, dual_price, paced

DAY = 86_400_000_000


def instance(seed: int, users: int, actions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    cost_UA = rng.choice([0.02, 1.0, 3.0, 5.0], (users, actions)) * rng.uniform(0.5, 1.5, (users, actions))
    uplift_UA = rng.normal(0.03, 0.04, (users, actions))
    worth_U = rng.lognormal(4, 1, users)
    return uplift_UA * worth_U[:, None] - cost_UA, cost_UA


def lp(value_UA: NDArray[np.float64], cost_UA: NDArray[np.float64], budget: float) -> tuple[float, float]:
    """(objective, price) of the linear relaxation, by scipy."""
    users, actions = value_UA.shape
    one_per_user = np.kron(np.eye(users), np.ones(actions))
    bounds = np.r_[budget, np.ones(users)]
    rows = np.vstack([cost_UA.ravel(), one_per_user])
    solved = linprog(-value_UA.ravel(), A_ub=rows, b_ub=bounds, bounds=(0, 1), method="highs")
    assert solved.success
    return -float(solved.fun), -float(solved.ineqlin.marginals[0])


def dual(price: float, value_UA: np.ndarray, cost_UA: np.ndarray, budget: float) -> float:
    """What the budget and the users' best choices are worth at a price of money, each of which may choose nothing."""
    return price * budget + float(np.maximum(value_UA - price * cost_UA, 0.0).max(axis=1).sum())


@settings(deadline=None, max_examples=40)
@example(seed=0, users=2, actions=4, share=1.0)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 4), st.floats(0.01, 1.2))
def test_the_dual_is_that_of_the_linear_programme(seed: int, users: int, actions: int, share: float) -> None:
    value_UA, cost_UA = instance(seed, users, actions)
    everything = dual_price(value_UA, cost_UA=cost_UA, budget=float("inf")).cost
    budget = share * everything
    found = dual_price(value_UA, cost_UA=cost_UA, budget=budget)
    objective, price = lp(value_UA, cost_UA, budget)
    assert found.bound == pytest.approx(objective, rel=1e-6, abs=1e-9)
    assert dual(found.price, value_UA, cost_UA, budget) == pytest.approx(objective, rel=1e-6, abs=1e-9)
    # The dual has one optimum except where the budget is used up exactly: then every price of a stretch is one of the programme.
    if dual((found.price + price) / 2, value_UA, cost_UA, budget) > objective * (1 + 1e-9) + 1e-9 or share != 1.0:
        assert found.price == pytest.approx(price, rel=0.01, abs=1e-9)
    assert found.cost <= budget + 1e-9


def test_free_and_worthless_actions_need_no_price() -> None:
    value_UA = np.array([[1.0, -1.0], [-np.inf, 2.0]])
    cost_UA = np.array([[0.0, 5.0], [1.0, 0.0]])
    assert dual_price(value_UA, cost_UA=cost_UA, budget=0.0) == dual_price(value_UA, cost_UA=cost_UA, budget=9.0)
    assert dual_price(np.empty((0, 2)), cost_UA=np.empty((0, 2)), budget=1.0).price == 0.0


def test_the_price_rises_ahead_of_the_plan_and_falls_behind_it() -> None:
    start = Pace(price=1.0, since=0, at=0, spent=0.0)

    def after(spent: float, day: int, before: Pace = start) -> Pace:
        return paced(before, now=day * DAY, spent=spent, cap=100.0, budget_us=100 * DAY, step=1.0, max_price=5.0)

    assert after(10.0, 10).price == 1.0  # on plan
    assert after(20.0, 10).price == pytest.approx(2.0)  # a tenth ahead
    assert after(0.0, 5).price == pytest.approx(0.5)
    assert after(0.0, 90).price == 0.0
    assert after(100.0, 1).price == 5.0
    assert after(50.0, 0) == start
    late = after(100.0, 200, after(100.0, 100))
    assert late.price == after(100.0, 100).price  # nothing is planned after the end, and nothing was spent


def test_pacing_makes_a_stream_keep_to_its_budget() -> None:
    """Users come evenly; without a price they would take four times the budget in the time."""
    rng = np.random.default_rng(5)
    pace = Pace(0.0, 0, 0, 0.0)
    spent, cap, days = 0.0, 300.0, 100
    by_half = 0.0
    for step in range(days * 24):
        gain = rng.exponential(1.0) * 2.0
        if gain - 1.0 * (1 + pace.price) > 0 and spent + 1.0 <= cap:
            spent += 1.0
        pace = paced(
            pace, now=step * DAY // 24 + 1, spent=spent, cap=cap, budget_us=days * DAY, step=10.0, max_price=50.0
        )
        if step == days * 12:
            by_half = spent
    assert 0.42 * cap < by_half < 0.58 * cap
    assert 0.9 * cap < spent <= cap
