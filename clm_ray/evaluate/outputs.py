"""The model's further heads on the test split: ratings beside the items' means, spend beside what was spent before.

Shape letters: P candidates, Q moments, R references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import spearmanr

from clm_ray.evaluate.dataset import Case, Occasions
from clm_ray.evaluate.figures import MODEL
from clm_ray.features.asked import Asked
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.pair import mean_ratings
from clm_ray.features.spec import FeatureSource
from clm_ray.schema import DAY_US, LARGEST_VALUE

RATINGS = {MODEL: "predicted_rating", "mean_rating": "mean_rating"}
"""Method → its column in the click predictions."""
SPENDS = {MODEL: "predicted_spend", "past_spend": "past_spend", "rfm_spend": "rfm_spend"}
"""Method → its column in the retention predictions."""


@dataclass(frozen=True)
class NumberFigures:
    """One method's predictions of ratings or of spend. `ratio`: predicted by actual sum; `rank`: Spearman's correlation."""

    rows: int
    rmse: float
    mae: float
    ratio: float
    rank: float


def rating_columns(
    source: FeatureSource, cases: Sequence[Case], predicted: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Columns of the click predictions: `rating` (NaN where the log has none), the model's, and the mean of item and user as of then."""
    actual = [_given(case.history, case.shown, vocabulary=source.vocabulary) for case in cases]
    mean = [_mean(source, case.history, case.shown) for case in cases]
    columns: dict[str, Sequence[NDArray[Any]]] = {
        "rating": actual,
        RATINGS[MODEL]: predicted,
        RATINGS["mean_rating"]: mean,
    }
    return {name: np.concatenate(parts).astype(np.float32) for name, parts in columns.items()}


def _given(history: History, shown: Occasions, *, vocabulary: EventVocabulary) -> NDArray[np.float32]:
    """float32_P: the last rating that the user gave the candidate at its moment."""
    rating_N = vocabulary.ratings(history)
    rated = history.select(~np.isnan(rating_N))
    pairs = zip(rated.time_N.tolist(), rated.item_N.tolist(), strict=True)
    given = dict(zip(pairs, rated.value_N.tolist(), strict=True))
    asked = zip(shown.time_P.tolist(), shown.item_P.tolist(), strict=True)
    return np.array([given.get(pair, np.nan) for pair in asked], np.float32)


def _mean(source: FeatureSource, history: History, shown: Occasions) -> NDArray[np.float64]:
    prior = source.recipe.features.prior_strength
    asked = Asked.one(history, shown.time_P)
    both = mean_ratings(asked, shown.item_P, statistics=source.statistics, vocabulary=source.vocabulary, prior=prior)
    return both[1]


def spend_columns(
    vocabulary: EventVocabulary, cases: Sequence[Case], predicted_R: NDArray[np.float32], *, days: int
) -> dict[str, NDArray[np.float32]]:
    """Columns by reference: `spend` within `days` (NaN where the log ends before), the model's expectation, and the spend in as many
    days before."""
    actual = [case.references.value_R for case in cases]
    before = [_spent(case.history, case.references.time_R, vocabulary=vocabulary, days=days) for case in cases]
    columns: dict[str, NDArray[Any]] = {
        "spend": np.concatenate(actual),
        SPENDS[MODEL]: predicted_R,
        SPENDS["past_spend"]: np.concatenate(before),
    }
    return {name: values.astype(np.float32) for name, values in columns.items()}


def _spent(
    history: History, time_R: NDArray[np.int64], *, vocabulary: EventVocabulary, days: int
) -> NDArray[np.float64]:
    """float64_R: spend in the `days` days strictly before each reference."""
    total = np.concatenate([[0.0], np.cumsum(vocabulary.amounts(history), dtype=np.float64)])
    until = np.searchsorted(history.time_N, time_R, side="left")
    since = np.searchsorted(history.time_N, time_R - days * DAY_US, side="left")
    return np.clip(total[until] - total[since], -LARGEST_VALUE, LARGEST_VALUE)


def number_report(table: pa.Table | None, *, actual: str, methods: Mapping[str, str]) -> dict[str, NumberFigures]:
    """Figures by method over the rows where `actual` is known; empty where the model has no such head."""
    return {name: number_figures(y, p) for name, y, p in known_numbers(table, actual=actual, methods=methods)}


def known_numbers(
    table: pa.Table | None, *, actual: str, methods: Mapping[str, str]
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """(method, actual, predicted) for each method that the table has, over the rows where `actual` is known."""
    if table is None or actual not in table.column_names:
        return
    known = table.filter(pc.is_finite(table.column(actual)))
    y = known.column(actual).to_numpy().astype(np.float64)
    for name, column in methods.items():
        if column in known.column_names:
            yield name, y, known.column(column).to_numpy().astype(np.float64)


def number_figures(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> NumberFigures:
    """Figures of one method."""
    if not len(actual):
        return NumberFigures(0, *[float("nan")] * 4)
    error, total = predicted - actual, float(actual.sum())
    varied = len(np.unique(actual)) > 1 and len(np.unique(predicted)) > 1
    found: Any = spearmanr(actual, predicted).statistic if varied else np.nan
    return NumberFigures(
        rows=len(actual),
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.abs(error).mean()),
        ratio=float(predicted.sum()) / total if total else float("nan"),
        rank=float(found),
    )
