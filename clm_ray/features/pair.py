"""Dense features of (user, item) at a moment: what this user did with this item and its categories, and how the item does.

As-of rule: the user's part sees events strictly before t, the item's part the dated statistics of the days before t's day.

Shape letters: N events, E (event, category) entries, Q queries, X (query, category) entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.statistics import ItemStatistics, day_of
from clm_ray.features.user import NEVER_DAYS
from clm_ray.schema import DAY_US

PAIR_FEATURES = (
    "pair_log_count",
    "pair_log_days_since",
    "pair_log_cycle",
    "pair_residual",
    "category_log_count_max",
    "category_log_count_min",
    "category_share_max",
    "category_share_min",
    "category_log_days_since_max",
    "category_log_days_since_min",
    "category_residual_mean",
    "category_residual_min",
    "category_residual_max",
    "item_log_events",
    "item_log_events_28d",
    "item_log_events_7d",
    "item_trend",
    "item_like_rate",
    "item_mean_value",
    "both_like_rate",
)
"""Names of the columns of `pair_features`."""


@dataclass(frozen=True)
class _Index:
    """Entries (code, position in the history) sorted so that "how many of this code before position p" is one search."""

    key: NDArray[np.int64]
    time: NDArray[np.int64]
    residual_sum: NDArray[np.float64]
    span: int

    @staticmethod
    def build(
        code: NDArray[np.int32], position: NDArray[np.int64], history: History, residual_N: NDArray[np.float32]
    ) -> _Index:
        span = len(history) + 1
        key = code.astype(np.int64) * span + position
        order = np.argsort(key, kind="stable")
        time = history.time_N[position[order]]
        sums = np.concatenate([[0.0], np.cumsum(residual_N[position[order]].astype(np.float64))])
        return _Index(key[order], time, sums, span)

    def query(
        self, code_Q: NDArray[np.int32], before_Q: NDArray[np.int64], time_Q: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(count, days since last, mean days between, residual sum) of the code's entries before each position."""
        base = code_Q.astype(np.int64) * self.span
        low = np.searchsorted(self.key, base)
        high = np.searchsorted(self.key, base + before_Q)
        count = high - low
        if not len(self.key):
            return count, np.full(len(code_Q), NEVER_DAYS), np.zeros(len(code_Q)), np.zeros(len(code_Q))
        last = self.time[np.maximum(high - 1, 0)]
        first = self.time[np.minimum(low, len(self.time) - 1)]
        since = np.where(count > 0, (time_Q - last) / DAY_US, NEVER_DAYS)
        between = np.where(count > 1, (last - first) / DAY_US / np.maximum(count - 1, 1), 0.0)
        return count, since, between, self.residual_sum[high] - self.residual_sum[low]


def pair_features(
    history: History,
    item_Q: NDArray[np.int32],
    time_Q: NDArray[np.int64],
    *,
    catalogue: Catalogue,
    statistics: ItemStatistics,
    vocabulary: EventVocabulary,
    residual_N: NDArray[np.float32],
    prior: float,
) -> NDArray[np.float32]:
    """float32 [Q, len(PAIR_FEATURES)]; `residual_N` from `tokens.residuals`."""
    before_Q = np.searchsorted(history.time_N, time_Q, side="left")
    position = np.flatnonzero(vocabulary.is_context(history) & (history.item_N > 0))
    items = history.item_N[position]
    with_events = np.concatenate([[0], np.cumsum(vocabulary.is_context(history) & (history.item_N > 0))])[before_Q]

    pair = _Index.build(items, position, history, residual_N)
    count, since, between, residual = pair.query(item_Q, before_Q, time_Q)
    columns = [
        np.log1p(count),
        np.log1p(since),
        np.where(between > 0, np.log1p(since / np.maximum(between, 0.5)), 0.0),
        residual / (count + 1.0),
    ]

    which, code, _ = catalogue.explode(items)
    by_category = _Index.build(code, position[which], history, residual_N)
    query_X, code_X, segment = catalogue.explode(item_Q)
    count_X, since_X, _, residual_X = by_category.query(code_X, before_Q[query_X], time_Q[query_X])
    share_X = count_X / (with_events[query_X] + prior)
    liked_X = residual_X / (count_X + prior / 2)
    if len(item_Q):
        columns += [np.log1p(np.maximum.reduceat(count_X, segment)), np.log1p(np.minimum.reduceat(count_X, segment))]
        columns += [np.maximum.reduceat(share_X, segment), np.minimum.reduceat(share_X, segment)]
        columns += [np.log1p(np.maximum.reduceat(since_X, segment)), np.log1p(np.minimum.reduceat(since_X, segment))]
        sizes = np.diff(np.r_[segment, len(query_X)])
        columns += [np.add.reduceat(liked_X, segment) / sizes]
        columns += [np.minimum.reduceat(liked_X, segment), np.maximum.reduceat(liked_X, segment)]
    else:
        columns += [np.empty(0)] * 9
    columns += _item_features(item_Q, day_of(time_Q), statistics=statistics, prior=prior)
    bias = np.concatenate([[0.0], np.cumsum(residual_N, dtype=np.float64)])[before_Q]
    labelled = np.concatenate([[0], np.cumsum(~np.isnan(vocabulary.labels(history)))])[before_Q]
    columns.append(columns[-2] + bias / (labelled + prior))
    return np.stack(columns, axis=1).astype(np.float32)


def _item_features(
    item_Q: NDArray[np.int32], day_Q: NDArray[np.int64], *, statistics: ItemStatistics, prior: float
) -> list[NDArray[np.float64]]:
    total = statistics.events(item_Q, day_Q)
    month = statistics.window(item_Q, day_Q, days=28)
    week = statistics.window(item_Q, day_Q, days=7)
    return [
        np.log1p(total),
        np.log1p(month),
        np.log1p(week),
        np.log((week + 1.0) / (month / 4.0 + 1.0)),
        statistics.like_rate(item_Q, day_Q, prior=prior),
        np.log1p(np.maximum(statistics.mean_total(item_Q, day_Q), 0.0)),
    ]
