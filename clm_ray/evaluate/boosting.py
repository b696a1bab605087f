"""The retention baseline of gradient boosted trees on recency, frequency and spend, by the library LightGBM (the extra `boosting`).

Shape letters: R references, F features, B hazard bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.metrics import survival

MISSING = "No gradient boosting: the package lightgbm is not installed; pip install 'clm-ray[boosting]' brings it."
_ROUNDS = 150
_PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "lambda_l2": 1.0,
    "feature_fraction": 0.8,
    "seed": 0,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Boosted:
    """Trees for the end of each bin, as the text that LightGBM writes: plain data that travels between processes."""

    text_B: tuple[str, ...]

    def active_within(self, x_RF: Floats) -> Floats:
        """float64 [R, B]: P(active again by the end of each bin), never falling with the days."""
        columns = [tree.predict(x_RF, num_threads=1) for tree in self._tree_B] if len(x_RF) else []
        if not columns:
            return np.empty((0, len(self.text_B)))
        return np.maximum.accumulate(np.column_stack(columns), axis=1)

    @cached_property
    def _tree_B(self) -> list[Any]:
        library = _library()
        assert library is not None
        return [library.Booster(model_str=text) for text in self.text_B]


def fit_boosted(x_RF: Floats, *, bin_R: NDArray[np.int32], seen_R: NDArray[np.int32], bins: int) -> Boosted | None:
    """Trees on the references that the log covers so far, for each horizon; None where `lightgbm` is not installed or a horizon has
    no two outcomes.

    Friedman, Annals of Statistics 2001; Ke et al., NeurIPS 2017. Seeded and deterministic. Its settings were chosen once, for tables of
    some ten thousand rows and ten columns, and are the same everywhere.
    """
    library = _library()
    if library is None:
        return None
    texts = []
    for horizon in range(bins):
        at = survival.outcome(bin_R, seen=seen_R, horizon=horizon)
        label_K = at.active_R[at.known_R]
        if not 0 < label_K.sum() < len(label_K):
            return None
        table = library.Dataset(x_RF[at.known_R], label=label_K, free_raw_data=True)
        texts.append(library.train(dict(_PARAMETERS), table, num_boost_round=_ROUNDS).model_to_string())
    return Boosted(tuple(texts))


def left_out() -> str:
    """Why there are no trees, for a report without them."""
    return MISSING if _library() is None else "No gradient boosting: a horizon has no two outcomes in training."


def _library() -> Any | None:
    try:
        import lightgbm
    except ImportError:
        return None
    return lightgbm
