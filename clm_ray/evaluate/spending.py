"""Expected spend within the horizon: figures of every method, and the baseline by least squares on recency, frequency and spend.

Shape letters: R references, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clm_ray.evaluate.outputs import SPENDS, NumberFigures, known_numbers, number_figures
from clm_ray.metrics.worth import Tenth, gini, tenths, top_share

Floats = NDArray[np.float64]
_RIDGE = 1.0
_LOGGED_FROM = 5
"""The first columns are recency, tenure and gaps, logarithms as they stand; those after them become days and money again."""


@dataclass(frozen=True)
class SpendFigures(NumberFigures):
    """gini: 1 where spenders are in the right order, 0 where the order says nothing. top_share: share of the spend that falls on the tenth
    of references with the highest prediction. tenths: predicted beside actual, by rising prediction."""

    gini: float
    top_share: float
    tenths: Sequence[Tenth]


def spend_report(table: pa.Table | None) -> dict[str, SpendFigures]:
    """Figures by method over the references whose horizon the log covers; empty where the model has no value head."""
    return {name: _figures(y_R, p_R) for name, y_R, p_R in known_numbers(table, actual="spend", methods=SPENDS)}


def _figures(actual_R: Floats, predicted_R: Floats) -> SpendFigures:
    return SpendFigures(
        **asdict(number_figures(actual_R, predicted_R)),
        gini=gini(actual_R, predicted=predicted_R),
        top_share=top_share(actual_R, predicted=predicted_R),
        tenths=tenths(actual_R, predicted=predicted_R),
    )


@dataclass(frozen=True)
class SpendLine:
    """Spend as a weighted sum of what `retention_columns` holds, never below 0."""

    weight_F: Floats
    bias: float

    def expected(self, x_RF: Floats) -> Floats:
        """float64 [R]: spend within the horizon."""
        return np.maximum(_plain(x_RF) @ self.weight_F + self.bias, 0.0)


def fit_spend(x_RF: Floats, value_R: NDArray[np.floating]) -> SpendLine | None:
    """Least squares with a small ridge on standardised columns; None without references whose spend is known (finite)."""
    known_R = np.isfinite(value_R)
    if not known_R.any():
        return None
    x, y = _plain(x_RF[known_R]), value_R[known_R].astype(np.float64)
    mean_F, scale_F = x.mean(0), x.std(0)
    scale_F[scale_F < 1e-12] = 1.0
    z = (x - mean_F) / scale_F
    weight_F = np.linalg.solve(z.T @ z + _RIDGE * np.eye(z.shape[1]), z.T @ (y - y.mean())) / scale_F
    return SpendLine(weight_F, float(y.mean() - mean_F @ weight_F))


def _plain(x_RF: Floats) -> Floats:
    return np.column_stack([x_RF[:, :_LOGGED_FROM], np.expm1(x_RF[:, _LOGGED_FROM:])])
