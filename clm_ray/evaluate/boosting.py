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
_LEAF, _LEAVES_AT_LEAST = 100, 20
"""Rows of a leaf at least, fewer where a table would not fill so many leaves."""
_PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "lambda_l2": 1.0,
    "feature_fraction": 0.8,
    "seed": 0,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,  # threads that wait for each other stand still where other work has the cores
    "verbosity": -1,
}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Boosted:
    """Trees for the end of each bin, as the text that LightGBM writes: plain data that travels between processes; a rate where training
    knew one outcome only."""

    text_B: tuple[str | float, ...]

    def active_within(self, x_RF: Floats) -> Floats:
        """float64 [R, B]: P(active again by the end of each bin), never falling with the days."""
        if not len(x_RF):
            return np.empty((0, len(self.text_B)))
        columns = [
            np.full(len(x_RF), tree) if isinstance(tree, float) else tree.predict(x_RF, num_threads=1)
            for tree in self._tree_B
        ]
        return np.maximum.accumulate(np.column_stack(columns), axis=1)

    @cached_property
    def _tree_B(self) -> list[Any]:
        library = _library()
        assert library is not None
        return [text if isinstance(text, float) else library.Booster(model_str=text) for text in self.text_B]


def fit_boosted(x_RF: Floats, *, bin_R: NDArray[np.int32], seen_R: NDArray[np.int32], bins: int) -> Boosted | None:
    """Trees on the references that the log covers so far, for each horizon; None where `lightgbm` is not installed.

    Friedman, Annals of Statistics 2001; Ke et al., NeurIPS 2017. Seeded and deterministic. Its settings were chosen once, for tables of
    some ten thousand rows and ten columns, and are the same everywhere.
    """
    library = _library()
    if library is None:
        return None
    texts: list[str | float] = []
    for horizon in range(bins):
        at = survival.outcome(bin_R, seen=seen_R, horizon=horizon)
        label_K = at.active_R[at.known_R]
        if not 0 < label_K.sum() < len(label_K):
            texts.append(float((label_K.sum() + 0.5) / (len(label_K) + 1)))
            continue
        leaf = {"min_data_in_leaf": max(1, min(_LEAF, len(label_K) // _LEAVES_AT_LEAST))}
        table = library.Dataset(x_RF[at.known_R], label=label_K)
        texts.append(library.train(_PARAMETERS | leaf, table, num_boost_round=_ROUNDS).model_to_string())
    return Boosted(tuple(texts))


def _library() -> Any | None:
    try:
        import lightgbm
    except ImportError:
        return None
    return lightgbm
