"""Values of the context tokens: what the user tower is told about each event beside its item and type.

As-of rule: an event's residual is taken against the item's like rate of the day before the event, its surprise against the item's
mean rating of the day before and the user's events strictly before.

Shape letters: N events of all users, V values per token, Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.asked import Asked, Joined
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.statistics import ItemStatistics, day_of
from clm_ray.schema import DAY_US

TOKEN_VALUES = ("residual", "surprise", "has_label", "log_amount", "log_gap_days", "same_moment")
"""Names of the V values."""

USER_MEAN_EVENTS = 100
"""Events before a moment that a user's mean deviation is taken over: bounded, so that it does not depend on where a history begins."""
_USER_PRIOR = 5.0
"""Pseudo-events that shrink a user's mean deviation towards 0."""
_FARTHEST = 1e6
"""Largest deviation of a rating, beyond any scale that is in use: a model makes no number of 3e38."""


def residuals(
    history: History, *, statistics: ItemStatistics, vocabulary: EventVocabulary, prior: float
) -> NDArray[np.float32]:
    """float32_N: label minus the item's like rate as of the day before; 0 where the event has no label."""
    label = vocabulary.labels(history)
    expected = statistics.like_rate(history.item_N, day_of(history.time_N), prior=prior)
    return np.where(np.isnan(label), 0.0, label - expected).astype(np.float32)


def surprises(
    joined: Joined, *, statistics: ItemStatistics, vocabulary: EventVocabulary, prior: float, deviations: float = 0.0
) -> NDArray[np.float32]:
    """float32_N: what an event says beyond the item's mean and the user's: deviation less the user's mean deviation before it.

    The deviation is that of the rating, or of the label where the event has none; 0 where it has neither. Residuals against
    both baselines: Koren, "Factor in the neighbors" (2010).

    `deviations`: `deviations_until` the first of the events, which are those of one user's later time: then from the event on that has more than
    USER_MEAN_EVENTS of them before it all is to the last bit what it is of the whole history.
    """
    deviation_N, known_N = _deviations(joined.history, statistics=statistics, vocabulary=vocabulary, prior=prior)
    mean_N = _mean_before(joined, deviation_N, known_N, joined.first_N, joined.before_N(), deviations=deviations)
    return np.where(known_N, deviation_N - mean_N, 0.0).astype(np.float32)


def deviations_until(
    history: History, places: Sequence[int], *, statistics: ItemStatistics, vocabulary: EventVocabulary, prior: float
) -> list[float]:
    """The sum of a user's deviations before each place (rising), added up event by event as `surprises` does, in memory for the longest way between two
    places."""
    total, start, found = 0.0, 0, []
    for stop in places:
        part = history.slice(start, stop)
        deviation_N, known_N = _deviations(part, statistics=statistics, vocabulary=vocabulary, prior=prior)
        total, start = float(np.cumsum(np.r_[total, np.where(known_N, deviation_N, 0.0)])[-1]), stop
        found.append(total)
    return found


def user_means(
    asked: Asked, *, statistics: ItemStatistics, vocabulary: EventVocabulary, prior: float
) -> NDArray[np.float64]:
    """float64_Q: the user's mean deviation from the items' means in the USER_MEAN_EVENTS events before each moment, shrunk towards 0."""
    deviation_N, known_N = _deviations(asked.history, statistics=statistics, vocabulary=vocabulary, prior=prior)
    return _mean_before(asked.joined, deviation_N, known_N, asked.first_Q, asked.before_Q)


def _deviations(
    history: History, *, statistics: ItemStatistics, vocabulary: EventVocabulary, prior: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    residual_N = residuals(history, statistics=statistics, vocabulary=vocabulary, prior=prior).astype(np.float64)
    known_N = ~np.isnan(vocabulary.labels(history))
    if not vocabulary.rated:
        return residual_N, known_N
    rating_N = vocabulary.ratings(history)
    expected = statistics.mean_rating(history.item_N, day_of(history.time_N), prior=prior)
    rated_N = ~np.isnan(rating_N)
    beyond_N = np.clip(rating_N - expected, -_FARTHEST, _FARTHEST)
    return np.where(rated_N, beyond_N, residual_N), known_N | rated_N


def _mean_before(
    joined: Joined,
    deviation_N: NDArray[np.float64],
    known_N: NDArray[np.bool_],
    first_Q: NDArray[np.int64],
    before_Q: NDArray[np.int64],
    *,
    deviations: float = 0.0,
) -> NDArray[np.float64]:
    start = np.maximum(before_Q - USER_MEAN_EVENTS, first_Q)
    value_N = np.where(known_N, deviation_N, 0.0)
    value_N[:1] += deviations
    total = joined.sums(value_N, first_Q, start, before_Q)
    count = np.concatenate([[0], np.cumsum(known_N)])
    return total / (count[before_Q] - count[start] + _USER_PRIOR)


def token_values(
    joined: Joined, *, statistics: ItemStatistics, vocabulary: EventVocabulary, prior: float, deviations: float = 0.0
) -> NDArray[np.float32]:
    """float32 [N, V], named by TOKEN_VALUES. The gap of a user's first event is 0. `deviations`: see `surprises`."""
    history = joined.history
    label = vocabulary.labels(history)
    gap_days = np.diff(history.time_N, prepend=history.time_N[:1]) / DAY_US
    gap_days[joined.first_B[joined.first_B < len(history)]] = 0.0
    return np.stack(
        [
            residuals(history, statistics=statistics, vocabulary=vocabulary, prior=prior),
            surprises(joined, statistics=statistics, vocabulary=vocabulary, prior=prior, deviations=deviations),
            (~np.isnan(label)).astype(np.float32),
            np.log1p(np.maximum(vocabulary.amounts(history), 0.0)) / 3.0,
            np.log1p(np.maximum(gap_days, 0.0)) / 3.0,
            (gap_days == 0).astype(np.float32),
        ],
        axis=1,
    ).astype(np.float32)
