"""Dense features of users at moments, from the arrays of their histories.

As-of rule: a query at time t sees events strictly before t. Changing events at or after t changes nothing.

Shape letters: N events of all users, A activity events, Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.asked import Asked
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.schema import DAY_US

NEVER_DAYS = 400.0
"""Stands for "never" where days since something are asked."""

_DAYS = 1 << 20
"""More days than any date has; makes (user, day) one sortable integer."""


@dataclass(frozen=True)
class Rfm:
    """Recency, frequency, monetary value and tenure at a moment. None: no activity yet."""

    recency_days: float | None
    frequency: dict[int, int]
    monetary: dict[int, float]
    tenure_days: float | None


def _sums_between(
    values_N: NDArray[np.float64], begin_Q: NDArray[np.int64], end_Q: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of whole numbers, whose running sums are exact."""
    sums = np.concatenate([[0.0], np.cumsum(values_N)])
    return sums[end_Q] - sums[begin_Q]


CUMULATIVE = ("user_log_tenure_days", "user_log_events", "user_log_active_days")
"""Features that grow as long as a user stays: tomorrow's values lie beyond those of the training period."""


def user_feature_names(windows_days: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the columns of `user_features`."""
    names = ["log_days_since_active", "log_days_since_event", "log_tenure_days", "log_mean_gap_days", "log_sd_gap_days"]
    names += ["log_overdue", "log_events", "log_active_days"]
    for days in windows_days:
        names += [f"log_active_days_{days}d", f"log_spend_{days}d"]
    names += ["log_passive_28d", "bias", "bias_recent_10", "bias_recent_30", "weekday_sin", "weekday_cos"]
    return tuple("user_" + name for name in names)


def user_features(
    asked: Asked,
    *,
    vocabulary: EventVocabulary,
    residual_N: NDArray[np.float32],
    windows_days: tuple[int, ...],
    prior: float,
) -> NDArray[np.float32]:
    """float32 [Q, F], named by `user_feature_names`; `residual_N` from `tokens.residuals`."""
    history, time_Q, first_Q, before_Q = asked.history, asked.time_Q, asked.first_Q, asked.before_Q
    active = vocabulary.is_activity(history)
    alive_A = np.concatenate([[0], np.cumsum(active)])
    act_time = history.time_N[active]
    act_day = np.unique(asked.joined.owner_N[active] * _DAYS + act_time // DAY_US)
    amount_N = vocabulary.amounts(history).astype(np.float64)
    labelled = (~np.isnan(vocabulary.labels(history))).astype(np.float64)
    passive = (vocabulary.is_context(history) & ~active).astype(np.float64)

    first_A, before_A = alive_A[first_Q], alive_A[before_Q]
    today_Q = asked.owner_Q * _DAYS + time_Q // DAY_US
    first_day = np.searchsorted(act_day, asked.owner_Q * _DAYS, side="left")
    # A day counts once its last event lies before t; the day of t itself counts if it had an earlier event.
    days_before = np.searchsorted(act_day, today_Q, side="left") - first_day
    started_today = np.zeros(len(time_Q), bool)
    if len(act_time):
        started_today = (before_A > first_A) & (act_time[before_A - 1] // DAY_US == time_Q // DAY_US)
    active_days = days_before + started_today

    def since(times: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.float64]:
        if not len(times):
            return np.full(len(time_Q), NEVER_DAYS)
        return np.where(end > begin, (time_Q - times[end - 1]) / DAY_US, NEVER_DAYS)

    recency = since(act_time, first_A, before_A)
    start = act_time[np.minimum(first_A, len(act_time) - 1)] if len(act_time) else 0
    tenure = np.where(before_A > first_A, (time_Q - start) / DAY_US, 0.0)
    gap = np.diff(act_day).astype(np.float64)
    gap[np.diff(act_day // _DAYS) > 0] = 0.0  # from one user to the next
    gaps_known = np.maximum(active_days - 1, 0)
    begin = np.minimum(first_day, len(gap))
    end = np.minimum(begin + gaps_known, len(gap))
    gap_mean = _sums_between(gap, begin, end) / np.maximum(gaps_known, 1)
    gap_square = _sums_between(gap**2, begin, end) / np.maximum(gaps_known, 1)
    gap_sd = np.sqrt(np.maximum(gap_square - gap_mean**2, 0.0))

    columns = [np.log1p(recency), np.log1p(since(history.time_N, first_Q, before_Q)), np.log1p(tenure)]
    columns += [np.log1p(gap_mean), np.log1p(gap_sd), np.log1p(recency / np.maximum(gap_mean, 1.0))]
    columns += [np.log1p(before_Q - first_Q), np.log1p(active_days)]
    for days in windows_days:
        from_day = np.maximum(np.searchsorted(act_day, today_Q - days, side="left") - first_day, 0)
        columns += [
            np.log1p(np.maximum(active_days - from_day, 0)),
            np.log1p(np.maximum(asked.sums(amount_N, asked.since(days), before_Q), 0.0)),
        ]
    columns.append(np.log1p(_sums_between(passive, asked.since(28), before_Q)))
    beyond_N = residual_N.astype(np.float64)
    columns.append(asked.sums(beyond_N, first_Q, before_Q) / (_sums_between(labelled, first_Q, before_Q) + prior))
    for recent in (10, 30):
        lately = np.maximum(before_Q - recent, first_Q)
        columns.append(asked.sums(beyond_N, lately, before_Q) / (_sums_between(labelled, lately, before_Q) + 3.0))
    week = 2 * np.pi * ((time_Q / DAY_US) % 7) / 7
    columns += [np.sin(week), np.cos(week)]
    return np.stack(columns, axis=1).astype(np.float32)


def rfm(
    history: History, time: int, *, vocabulary: EventVocabulary, windows_days: tuple[int, ...] = (7, 28, 91)
) -> Rfm:
    """Recency, frequency (active days), monetary value and tenure as of `time`."""
    seen = history.before(time)
    act_time = seen.time_N[vocabulary.is_activity(seen)]
    if not len(act_time):
        return Rfm(None, dict.fromkeys(windows_days, 0), dict.fromkeys(windows_days, 0.0), None)
    amount_N = vocabulary.amounts(seen)
    frequency = {d: len(np.unique(act_time[act_time >= time - d * DAY_US] // DAY_US)) for d in windows_days}
    monetary = {d: float(amount_N[seen.time_N >= time - d * DAY_US].sum(dtype=np.float64)) for d in windows_days}
    return Rfm(
        recency_days=float((time - act_time[-1]) / DAY_US),
        frequency=frequency,
        monetary=monetary,
        tenure_days=float((time - act_time[0]) / DAY_US),
    )
