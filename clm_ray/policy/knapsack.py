"""The price of budget: offline from the dual of the multiple-choice knapsack, online by dual descent.

Offline. Each user gets at most one action (`none` has value and cost 0): maximise Σ_u Σ_a x_ua v_ua subject to Σ x_ua c_ua ≤ B,
Σ_a x_ua ≤ 1, x ≥ 0. Its Lagrangian dual over the price λ ≥ 0 of one unit of budget is

    g(λ) = λ B + Σ_u max(0, max_a (v_ua - λ c_ua))

convex and piecewise linear; its least value is that of the linear programme (Sinha & Zoltners, The multiple-choice knapsack problem,
Operations Research 27, 1979; Kellerer, Pferschy & Pisinger, Knapsack Problems, 2004, chapter 11). g falls while the choices at λ cost more than
B: the least λ at which they no longer do is found by bisection between breakpoints.

Online. λ moves by the subgradient of g as decisions come in: up while spending is ahead of the plan, down while it is behind, never
below 0 (Balseiro, Lu & Mirrokni, The best of many worlds: dual mirror descent for online allocation problems, Operations Research 71, 2023).

Shape letters: U users, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEPS = 200
_ROUNDING = 1e-12
"""Net values closer than this share of the largest gain are equal."""


@dataclass(frozen=True)
class Dual:
    """price λ; bound: g(λ), what no choice within the budget can exceed; cost of the choices at λ."""

    price: float
    bound: float
    cost: float


def dual_price(value_UA: NDArray[np.float64], *, cost_UA: NDArray[np.float64], budget: float) -> Dual:
    """The least price at which the best choices cost no more than `budget`; 0 where money is not short.

    `value_UA`: worth of each action net of its cost; `cost_UA` ≥ 0. An action that may not be taken has value -inf. Ties at the price are
    broken towards the cheaper action.
    """
    gain_UA = np.where(value_UA > 0, value_UA, 0.0)  # what brings nothing is never taken
    paid_UA = np.where(value_UA > 0, cost_UA, 0.0)
    free = _choice(gain_UA, paid_UA, 0.0)[1]
    if free <= budget:
        return Dual(0.0, _bound(gain_UA, paid_UA, 0.0, budget), free)
    costly = paid_UA > 0
    low, high = 0.0, float((gain_UA[costly] / paid_UA[costly]).max())
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _choice(gain_UA, paid_UA, middle)[1] > budget:
            low = middle
        else:
            high = middle
    return Dual(high, _bound(gain_UA, paid_UA, high, budget), _choice(gain_UA, paid_UA, high)[1])


def _choice(gain_UA: NDArray[np.float64], paid_UA: NDArray[np.float64], price: float) -> tuple[float, float]:
    """(Σ max(0, gain - price × paid), Σ paid of what is chosen, the cheapest of equals)."""
    if not gain_UA.size:
        return 0.0, 0.0
    net_UA = gain_UA - price * paid_UA
    best_U = np.maximum(net_UA.max(1), 0.0)
    equal = _ROUNDING * float(gain_UA.max())
    cheapest_U = np.where(net_UA >= best_U[:, None] - equal, paid_UA, np.inf).min(1)
    taken_U = np.where(best_U > equal, cheapest_U, 0.0)
    return float(best_U.sum()), float(taken_U.sum())


def _bound(gain_UA: NDArray[np.float64], paid_UA: NDArray[np.float64], price: float, budget: float) -> float:
    return price * budget + _choice(gain_UA, paid_UA, price)[0]


@dataclass(frozen=True)
class Pace:
    """Where pacing stands. price λ; since: when the budget's time began; at: when the price last moved; spent: by then. µs, currency."""

    price: float
    since: int
    at: int
    spent: float


def paced(pace: Pace, *, now: int, spent: float, cap: float, budget_us: int, step: float, max_price: float) -> Pace:
    """One step of dual descent: the plan spends `cap` evenly over `budget_us` from `since` on.

    λ ← clip(λ + step × (spent since - planned since) / (cap / 10), 0, max_price). Time that runs backwards moves nothing. After the planned
    time is over nothing more is planned, and further spending raises the price.
    """
    if now <= pace.at or cap <= 0:
        return pace
    planned = cap * (_share(now - pace.since, budget_us) - _share(pace.at - pace.since, budget_us))
    ahead = (spent - pace.spent) - planned
    price = min(max(pace.price + step * ahead / (cap / 10), 0.0), max_price)
    return Pace(price, pace.since, now, spent)


def _share(passed: int, whole: int) -> float:
    return min(max(passed / whole, 0.0), 1.0)
