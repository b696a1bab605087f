"""Dense features of a user at a moment, from the arrays of one history.

As-of rule: a query at time t sees events strictly before t. Changing events at or after t changes nothing.

Shape letters: N events, A distinct activity times, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.schema import DAY_US

NEVER_DAYS = 400.0
"""Stands for "never" where days since something are asked."""


@dataclass(frozen=True)
class Rfm:
    """Recency, frequency, monetary value and tenure at a moment. None: no activity yet."""

    recency_days: float | None
    frequency: dict[int, int]
    monetary: dict[int, float]
    tenure_days: float | None


def _sums_before(values_N: NDArray[np.float64], position_Q: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values_N)])[position_Q]


def user_feature_names(windows_days: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the columns of `user_features`."""
    names = ["log_days_since_active", "log_days_since_event", "log_tenure_days", "log_mean_gap_days", "log_sd_gap_days"]
    names += ["log_overdue", "log_events", "log_active_days"]
    for days in windows_days:
        names += [f"log_active_days_{days}d", f"log_spend_{days}d"]
    names += ["log_passive_28d", "bias", "bias_recent_10", "bias_recent_30", "weekday_sin", "weekday_cos"]
    return tuple("user_" + name for name in names)


def user_features(
    history: History,
    time_Q: NDArray[np.int64],
    *,
    vocabulary: EventVocabulary,
    residual_N: NDArray[np.float32],
    windows_days: tuple[int, ...],
    prior: float,
) -> NDArray[np.float32]:
    """float32 [Q, F], named by `user_feature_names`; `residual_N` from `tokens.residuals`."""
    active = vocabulary.is_activity(history)
    act_time = history.time_N[active]
    act_day = np.unique(act_time // DAY_US)
    amount_N = vocabulary.amounts(history).astype(np.float64)
    labelled = (~np.isnan(vocabulary.labels(history))).astype(np.float64)
    passive = (vocabulary.is_context(history) & ~active).astype(np.float64)

    before_N = np.searchsorted(history.time_N, time_Q, side="left")
    before_A = np.searchsorted(act_time, time_Q, side="left")
    today_Q = time_Q // DAY_US
    # A day counts once its last event lies before t; the day of t itself counts if it had an earlier event.
    days_before = np.searchsorted(act_day, today_Q, side="left")
    started_today = (
        (before_A > 0) & (act_time[np.maximum(before_A - 1, 0)] // DAY_US == today_Q)
        if len(act_time)
        else np.zeros(len(time_Q), bool)
    )
    active_days = days_before + started_today

    def since(times: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.float64]:
        if not len(times):
            return np.full(len(time_Q), NEVER_DAYS)
        return np.where(count > 0, (time_Q - times[np.maximum(count - 1, 0)]) / DAY_US, NEVER_DAYS)

    recency = since(act_time, before_A)
    tenure = np.where(before_A > 0, (time_Q - (act_time[0] if len(act_time) else 0)) / DAY_US, 0.0)
    gap = np.diff(act_day).astype(np.float64)
    gaps_known = np.maximum(active_days - 1, 0)
    gap_mean = _sums_before(gap, np.minimum(gaps_known, len(gap))) / np.maximum(gaps_known, 1)
    gap_square = _sums_before(gap**2, np.minimum(gaps_known, len(gap))) / np.maximum(gaps_known, 1)
    gap_sd = np.sqrt(np.maximum(gap_square - gap_mean**2, 0.0))

    columns = [np.log1p(recency), np.log1p(since(history.time_N, before_N)), np.log1p(tenure)]
    columns += [np.log1p(gap_mean), np.log1p(gap_sd), np.log1p(recency / np.maximum(gap_mean, 1.0))]
    columns += [np.log1p(before_N), np.log1p(active_days)]
    spend_before = _sums_before(amount_N, before_N)
    for days in windows_days:
        from_N = np.searchsorted(history.time_N, time_Q - days * DAY_US, side="left")
        from_day = np.searchsorted(act_day, today_Q - days, side="left")
        columns += [
            np.log1p(np.maximum(active_days - from_day, 0)),
            np.log1p(np.maximum(spend_before - _sums_before(amount_N, from_N), 0.0)),
        ]
    from_28 = np.searchsorted(history.time_N, time_Q - 28 * DAY_US, side="left")
    columns.append(np.log1p(_sums_before(passive, before_N) - _sums_before(passive, from_28)))
    residual_before = _sums_before(residual_N.astype(np.float64), before_N)
    labels_before = _sums_before(labelled, before_N)
    columns.append(residual_before / (labels_before + prior))
    for recent in (10, 30):
        start = np.maximum(before_N - recent, 0)
        count = labels_before - _sums_before(labelled, start)
        columns.append((residual_before - _sums_before(residual_N.astype(np.float64), start)) / (count + 3.0))
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
    monetary = {d: float(amount_N[seen.time_N >= time - d * DAY_US].sum()) for d in windows_days}
    return Rfm(
        recency_days=float((time - act_time[-1]) / DAY_US),
        frequency=frequency,
        monetary=monetary,
        tenure_days=float((time - act_time[0]) / DAY_US),
    )
