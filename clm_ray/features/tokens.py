"""Values of the context tokens: what the user tower is told about each event beside its item and type.

As-of rule: an event's residual is taken against the item's like rate of the day before the event.

Shape letters: N events, V values per token.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.statistics import ItemStatistics, day_of
from clm_ray.schema import DAY_US

TOKEN_VALUES = ("residual", "has_label", "log_amount", "log_gap_days", "same_moment")
"""Names of the V values."""


def residuals(
    history: History, *, statistics: ItemStatistics, vocabulary: EventVocabulary, prior: float
) -> NDArray[np.float32]:
    """float32_N: label minus the item's like rate as of the day before; 0 where the event has no label."""
    label = vocabulary.labels(history)
    expected = statistics.like_rate(history.item_N, day_of(history.time_N), prior=prior)
    return np.where(np.isnan(label), 0.0, label - expected).astype(np.float32)


def token_values(
    history: History, *, statistics: ItemStatistics, vocabulary: EventVocabulary, prior: float
) -> NDArray[np.float32]:
    """float32 [N, V], named by TOKEN_VALUES. The first event's gap is 0."""
    label = vocabulary.labels(history)
    gap_days = np.diff(history.time_N, prepend=history.time_N[:1]) / DAY_US
    return np.stack(
        [
            residuals(history, statistics=statistics, vocabulary=vocabulary, prior=prior),
            (~np.isnan(label)).astype(np.float32),
            np.log1p(np.maximum(vocabulary.amounts(history), 0.0)) / 3.0,
            np.log1p(np.maximum(gap_days, 0.0)) / 3.0,
            (gap_days == 0).astype(np.float32),
        ],
        axis=1,
    ).astype(np.float32)
