"""How well expected spend tells the big spenders from the others.

Shape letters: N users at a moment, D tenths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from clm_ray.metrics.click import Floats


@dataclass(frozen=True)
class Tenth:
    """One tenth of the rows by rising prediction: how many, mean predicted, mean actual spend."""

    rows: int
    predicted: float
    actual: float


def tenths(actual: ArrayLike, *, predicted: ArrayLike, parts: int = 10) -> list[Tenth]:
    """The rows cut into `parts` of about equal size by rising prediction, equal predictions in the order of the rows."""
    y_N, p_N = np.asarray(actual, np.float64), np.asarray(predicted, np.float64)
    order_N = np.argsort(p_N, kind="stable")
    cuts = [part for part in np.array_split(order_N, parts) if len(part)]
    return [Tenth(len(part), float(p_N[part].mean()), float(y_N[part].mean())) for part in cuts]


def top_share(actual: ArrayLike, *, predicted: ArrayLike, share: float = 0.1) -> float:
    """Share of all actual spend that falls on the `share` of rows with the highest prediction; rows tied at the edge count in part. NaN
    where nothing was spent."""
    y_N, p_N = np.asarray(actual, np.float64), np.asarray(predicted, np.float64)
    if not y_N.sum() > 0:
        return float("nan")
    wanted = share * len(y_N)
    edge = np.sort(p_N)[::-1][min(int(np.ceil(wanted)) - 1, len(p_N) - 1)]
    above_N, at_N = p_N > edge, p_N == edge
    part = (wanted - above_N.sum()) / at_N.sum()
    return float((y_N[above_N].sum() + part * y_N[at_N].sum()) / y_N.sum())


def gini(actual: ArrayLike, *, predicted: ArrayLike) -> float:
    """Gini coefficient of the actual spend in the order of the predictions, by that in its own order: 1 is the right order, 0 is none.

    Concentration C = 2 Σ y R / (n Σ y) - (n + 1) / n with the mean ranks R of the predictions (Kakwani, Econometrica 1977). NaN where
    every row spent the same.
    """
    y_N = np.asarray(actual, np.float64)
    own = _concentration(y_N, y_N)
    return _concentration(y_N, np.asarray(predicted, np.float64)) / own if own > 0 else float("nan")


def _concentration(y_N: Floats, by_N: Floats) -> float:
    n, total = len(y_N), float(y_N.sum())
    if not n or not total > 0:
        return 0.0
    return float(2 * (y_N @ rankdata(by_N)) / (n * total) - (n + 1) / n)
