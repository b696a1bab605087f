"""Cohorts: users by the calendar week or month of their first activity, and who of them was active again in each later one.

A period counts for the table only when the log covers all of it: an unfinished week looks like a loss of users.

Shape letters: N activities, C cohorts, K periods since the first.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Period: TypeAlias = Literal["week", "month"]
LONGEST_BY_WEEK = 182
"""Logs of more days than this are cut into months."""
_MONDAY = 4
"""The first Monday, in days since 1970-01-01 (a Thursday)."""


def period_for(first_day: int, last_day: int) -> Period:
    """Weeks for a log of up to half a year, months for a longer one."""
    return "week" if last_day - first_day < LONGEST_BY_WEEK else "month"


def period_of(day_N: NDArray[np.int64], *, period: Period) -> NDArray[np.int64]:
    """int64 [N]: the week (from Monday) or month that each day (days since 1970, UTC) lies in, counted from 1970."""
    if period == "week":
        return (day_N - _MONDAY) // 7
    return day_N.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def begin_of(period_N: NDArray[np.int64], *, period: Period) -> NDArray[np.int64]:
    """int64 [N]: the first day of each period, days since 1970."""
    if period == "week":
        return period_N * 7 + _MONDAY
    return period_N.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def cohort_cells(user_N: NDArray[np.int64], period_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(cohort, periods since) of each user and period with activity, once each. `user_N`: any numbers, one per user.

    A user's cohort is the period of the first of these activities: give all of them.
    """
    pairs = np.unique(np.stack([user_N, period_N]), axis=1)
    user, period = pairs[0], pairs[1]
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]) if len(user) else np.empty(0, np.int64)
    cohort = np.repeat(period[first], np.diff(np.r_[first, len(user)]))
    return cohort, period - cohort


def active_share(active_CK: NDArray[np.int64], *, full: int, min_users: int = 1) -> NDArray[np.float64]:
    """float64 [C, K]: the share of each cohort active k periods after its first; NaN where that is not known.

    `active_CK`: users; column 0 is the cohort's size. Cohort c is that of period c, and the log covers the periods 0 to `full` - 1
    in full: cell (c, k) is known when c + k < `full`. Cohorts, and cells, of some but fewer than `min_users` users are NaN too.
    """
    size_C = active_CK[:, 0].astype(np.float64)
    known_CK = np.add.outer(np.arange(len(active_CK)), np.arange(active_CK.shape[1])) < full
    small_CK = (active_CK > 0) & (active_CK < min_users)
    shown_CK = known_CK & ~small_CK & (size_C >= max(min_users, 1))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(shown_CK, active_CK / size_C[:, None], np.nan)
