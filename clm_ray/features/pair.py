"""Dense features of (user, item) at a moment: what this user did with this item and its categories, and how the item does.

As-of rule: the user's part sees events strictly before t, the item's part the dated statistics of the days before t's day.

Shape letters: N events of all users, Q questions, X (question, category) entries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.asked import Asked
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.event_index import EventIndex
from clm_ray.features.events import EventVocabulary
from clm_ray.features.statistics import ItemStatistics, day_of
from clm_ray.features.tokens import user_means

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
    "category_surprise_mean",
    "category_surprise_min",
    "category_surprise_max",
    "item_log_events",
    "item_log_events_28d",
    "item_log_events_7d",
    "item_trend",
    "item_like_rate",
    "item_mean_value",
    "both_like_rate",
    "item_mean_rating",
    "both_mean_rating",
)
"""Names of the columns of `pair_features`."""


def pair_features(
    asked: Asked,
    item_Q: NDArray[np.int32],
    *,
    catalogue: Catalogue,
    statistics: ItemStatistics,
    vocabulary: EventVocabulary,
    residual_N: NDArray[np.float32],
    surprise_N: NDArray[np.float32],
    prior: float,
) -> NDArray[np.float32]:
    """float32 [Q, len(PAIR_FEATURES)]; `residual_N` and `surprise_N` from `tokens`."""
    history, owner_N = asked.history, asked.joined.owner_N
    seen_N = vocabulary.is_context(history) & (history.item_N > 0)
    position = np.flatnonzero(seen_N)
    items = history.item_N[position]

    found = EventIndex.build(owner_N[position], items, position, history.time_N, residual_N)
    pair = found.query(asked.owner_Q, item_Q, asked.before_Q, asked.time_Q)
    columns = [
        np.log1p(pair.count),
        np.log1p(pair.since_days),
        np.where(pair.between_days > 0, np.log1p(pair.since_days / np.maximum(pair.between_days, 0.5)), 0.0),
        pair.sums[:, 0] / (pair.count + 1.0),
    ]
    which, code, _ = catalogue.explode(items)
    at = position[which]
    by_category = EventIndex.build(owner_N[at], code, at, history.time_N, residual_N, surprise_N)
    columns += _category_features(
        by_category, asked, item_Q, catalogue=catalogue, events_Q=_counts(seen_N, asked), prior=prior
    )
    columns += _item_features(item_Q, day_of(asked.time_Q), statistics=statistics, prior=prior)
    bias_Q = asked.sums(residual_N.astype(np.float64), asked.first_Q, asked.before_Q)
    columns.append(columns[-2] + bias_Q / (_counts(~np.isnan(vocabulary.labels(history)), asked) + prior))
    columns += mean_ratings(asked, item_Q, statistics=statistics, vocabulary=vocabulary, prior=prior)
    return np.stack(columns, axis=1).astype(np.float32)


def _counts(which_N: NDArray[np.bool_], asked: Asked) -> NDArray[np.int64]:
    """Events of the question's user before it, of those marked."""
    counted = np.concatenate([[0], np.cumsum(which_N)])
    return counted[asked.before_Q] - counted[asked.first_Q]


def _category_features(
    by_category: EventIndex,
    asked: Asked,
    item_Q: NDArray[np.int32],
    *,
    catalogue: Catalogue,
    events_Q: NDArray[np.int64],
    prior: float,
) -> list[NDArray[np.float64]]:
    if not len(item_Q):
        return [np.empty(0)] * 12
    query_X, code_X, segment = catalogue.explode(item_Q)
    found = by_category.query(asked.owner_Q[query_X], code_X, asked.before_Q[query_X], asked.time_Q[query_X])
    share_X = found.count / (events_Q[query_X] + prior)
    liked_X, surprise_X = (found.sums / (found.count + prior / 2)[:, None]).T
    columns = []
    for value_X in (np.log1p(found.count), share_X, np.log1p(found.since_days)):
        columns += [np.maximum.reduceat(value_X, segment), np.minimum.reduceat(value_X, segment)]
    sizes = np.diff(np.r_[segment, len(query_X)])
    for value_X in (liked_X, surprise_X):
        columns += [np.add.reduceat(value_X, segment) / sizes]
        columns += [np.minimum.reduceat(value_X, segment), np.maximum.reduceat(value_X, segment)]
    return columns


def mean_ratings(
    asked: Asked,
    item_Q: NDArray[np.int32],
    *,
    statistics: ItemStatistics,
    vocabulary: EventVocabulary,
    prior: float,
) -> list[NDArray[np.float64]]:
    """[of the item, of item and user], each float64_Q: the item's mean rating, and that plus the user's own mean deviation, as of each
    moment; 0 where the log has no ratings."""
    if not vocabulary.rated:
        return [np.zeros(len(item_Q))] * 2
    of_item = statistics.mean_rating(item_Q, day_of(asked.time_Q), prior=prior)
    of_user = user_means(asked, statistics=statistics, vocabulary=vocabulary, prior=prior)
    return [of_item, of_item + of_user]


def _item_features(
    item_Q: NDArray[np.int32], day_Q: NDArray[np.int64], *, statistics: ItemStatistics, prior: float
) -> list[NDArray[np.float64]]:
    if len(day_Q) and statistics.is_late(int(day_Q.min())):
        first, last = np.minimum([day_Q.min(), day_Q.max()], statistics.until).tolist()
        if first == last:
            return list(statistics.of_all(_of_items, first, prior=prior)[:, statistics.place(item_Q)])
    return _of_items(item_Q, day_Q, statistics=statistics, prior=prior)


def _of_items(
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
