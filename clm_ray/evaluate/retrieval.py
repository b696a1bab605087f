"""Retrieval baselines: fitted once on the interaction matrix, asked for the whole catalogue at a moment.

    X of the training period ─▶ fit (driver) ─▶ arrays in a folder ─▶ every scoring actor maps them into memory

All of them look at what the user took strictly before the moment, later than the end of training included, as the model does; what they
know of other users and of items is X, of training alone. Where they have nothing to say, popularity of the days before speaks: for a user who
took nothing before, and behind the items that neighbours recommend. What they give are scores, not probabilities.

Shape letters: P candidates, I items, K items that one user took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.evaluate import EvaluateConfig
from clm_ray.data.buckets import bucket_of, part
from clm_ray.evaluate.als import MISSING, AlsFactors, fit_als
from clm_ray.evaluate.baselines import PairFeatures
from clm_ray.evaluate.dataset import Dataset, Occasions
from clm_ray.evaluate.interactions import Interactions, taken_before
from clm_ray.evaluate.knn import Rows, UserNeighbours, damped, fit_item_knn
from clm_ray.features.history import History
from clm_ray.features.neighbours import tastes

FOLDER = "retrieval"
USER_NEIGHBOURS = "user_neighbours"
_ALS, _NEAR, _X, _USERS = "als.npy", "item_knn", "x", "users.parquet"


def fit_retrieval(dataset: Dataset, folder: Path, *, config: EvaluateConfig, say: Callable[[str], None]) -> list[str]:
    """Fit what the dataset and the installed packages allow and write it to `folder`; returns what the report should say about it."""
    if not dataset.recipe.impressions.catalogue_occasions:
        return []
    x = Interactions.read(dataset)
    if not x.count_UI.nnz:
        return ["No ALS and no item-kNN: the training period has no interaction."]
    folder.mkdir(parents=True)
    say(f"retrieval baselines: fitting on {x.count_UI.nnz:,} pairs of user and item")
    fitted = ["item-kNN"]
    _save(folder / _NEAR, fit_item_knn(x.count_UI, config.item_knn))
    if (als := fit_als(x.count_UI, config.als)) is not None:
        np.save(folder / _ALS, als.factor_IF)
        fitted.insert(0, "ALS")
    if (dataset.folder / USER_NEIGHBOURS).is_dir():
        _save(folder / _X, Rows.of(damped(x.count_UI)))
        pq.write_table(pa.table({"user_id": x.user_U}), folder / _USERS)
        fitted.append("user-kNN")
    notes = [
        f"{', '.join(fitted)}: fitted on the {x.count_UI.nnz:,} pairs of user and item of the training period, asked with what the user took before "
        "the moment; who took nothing before gets the popular items, which also fill the lists of the neighbours up."
    ]
    if als is None:
        say(MISSING)
        notes.append(MISSING)
    return notes


@dataclass
class RetrievalBaselines:
    """What `fit_retrieval` wrote, open. Holds the user neighbours of the bucket that was asked about last."""

    dataset: Dataset
    features: PairFeatures
    als: AlsFactors | None = None
    near_II: Rows | None = None
    x_UI: Rows | None = None
    user_U: pa.Array | None = None
    _gram: NDArray[np.float64] | None = None
    _neighbours: dict[int, UserNeighbours] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path, dataset: Dataset, features: PairFeatures, *, config: EvaluateConfig) -> RetrievalBaselines:
        """Nothing but an empty set of baselines where nothing was fitted."""
        result = RetrievalBaselines(dataset, features)
        if (folder / _NEAR).is_dir():
            result.near_II = _load(folder / _NEAR)
        if (folder / _ALS).is_file():
            factor_IF = np.load(folder / _ALS, mmap_mode="r")
            result.als = AlsFactors(factor_IF, config.als.alpha, config.als.regularisation)
            result._gram = result.als.gram()
        if (folder / _X).is_dir():
            result.x_UI = _load(folder / _X)
            result.user_U = pq.read_table(folder / _USERS).column("user_id").combine_chunks()
        return result

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the baselines that can be asked."""
        known = {"als": self.als, "item_knn": self.near_II, "user_knn": self.x_UI}
        return tuple(name for name, fitted in known.items() if fitted is not None)

    def scores(self, name: str, user_id: str, history: History, asked: Occasions) -> NDArray[np.float32]:
        """float32 [P]: higher is better, of the candidates of one moment."""
        time, item_P = int(asked.time_Q[0]), asked.item_P
        popularity_P = self.features.popularity(history, asked)[:, 0]
        item_K, count_K = taken_before(history, time, vocabulary=self.dataset.vocabulary)
        if name == "als":
            assert self.als is not None
            assert self._gram is not None
            found = self.als.scores(item_K, count_K, gram=self._gram)[item_P] if len(item_K) else popularity_P
            return found.astype(np.float32)
        own_K = tastes(count_K.astype(np.float64))
        score_I = self._item_knn(item_K, own_K) if name == "item_knn" else self._user_knn(user_id, time, item_K, own_K)
        # The logarithm of a share is below 0: what neighbours recommend stands before all that they do not.
        return np.where(score_I[item_P] > 0, score_I[item_P], popularity_P).astype(np.float32)

    def _item_knn(self, item_K: NDArray[np.int32], own_K: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [I]: the sum, over what the user took, of each item's similarity to it."""
        assert self.near_II is not None
        return self.near_II.weighted_sum(item_K.astype(np.int64), own_K, width=self.features.items)

    def _user_knn(
        self, user_id: str, time: int, item_K: NDArray[np.int32], own_K: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """float64 [I]: the sum, over the user's neighbours in the last slice closed by then, of similarity × what they took in training; the
        nearest one is the user, with similarity 1."""
        assert self.x_UI is not None
        row_H, similarity_H = self._neighbours_of(user_id).of(user_id, time)
        others_I = self.x_UI.weighted_sum(row_H, similarity_H, width=self.features.items)
        return others_I + np.bincount(item_K, own_K, self.features.items)

    def _neighbours_of(self, user_id: str) -> UserNeighbours:
        bucket = int(bucket_of([user_id], len(self.dataset.buckets))[0])
        if bucket not in self._neighbours:
            path = self.dataset.folder / USER_NEIGHBOURS / part(bucket)
            self._neighbours = {bucket: UserNeighbours.read(path, user_U=self.user_U)}
        return self._neighbours[bucket]


def _save(folder: Path, rows: Rows) -> None:
    folder.mkdir()
    for name in ("start", "column", "value"):
        np.save(folder / f"{name}.npy", getattr(rows, name))


def _load(folder: Path) -> Rows:
    return Rows(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("start", "column", "value")))
