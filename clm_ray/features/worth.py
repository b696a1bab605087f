"""What a user would spend if they stayed, from their own past.

As-of rule: an answer at time t sees events strictly before t.

Shape letters: N activities of one user, oldest first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clm_ray.schema import DAY_US

LEAST_DAYS = 28.0
"""A rate is over at least so many days: one purchase on one day is no rate."""


def spend_at_own_rate(
    time_N: NDArray[np.int64], amount_N: NDArray[np.float32], *, at: int, days: float
) -> float | None:
    """Spend within `days` at the rate of the user's own active life: total before `at` (µs) / days from first to last activity × days.

    The silence since the last activity is left out: the question is what a user is worth who stays, which is what an action is for. How likely
    that is, is another question. None where there was no activity before `at`.
    """
    past = int(np.searchsorted(time_N, at, side="left"))
    if not past:
        return None
    lived = max(float(time_N[past - 1] - time_N[0]) / DAY_US, LEAST_DAYS)
    return float(amount_N[:past].sum(dtype=np.float64)) / lived * days
