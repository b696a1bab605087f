"""The matrix factorisation of a run: fitted once on the ratings of its training targets, before the workers start; and what it expects of
validation targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.buckets import stable_hash128
from clm_ray.data.columns import ragged
from clm_ray.errors import TrainError
from clm_ray.features.history import EMPTY
from clm_ray.model.factors import PRIOR, Factors, Ratings, factorise
from clm_ray.model.inference import taste_of
from clm_ray.schema import TRAIN
from clm_ray.train.histories import Histories
from clm_ray.train.windows import Windows

FOLDER = "factors"
"""In a run's folder."""


def fit_factors(recipe: Recipe, dataset: Path, run: Path, *, say: Callable[[str], None]) -> None:
    """Leave the factors in the run's folder, where the recipe asks for them and they are not there yet.

    Raises TrainError where no training target has a rating.
    """
    if recipe.model.factors is None or (run / FOLDER / PRIOR).is_file():
        return
    started = time.monotonic()
    ratings = training_ratings(dataset, user_share=recipe.train.user_share)
    say(f"factorising {len(ratings.rating_N):,} ratings of {ratings.users:,} users")
    found = factorise(ratings, recipe.model.factors, seed=recipe.train.seed)
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    found.save(run / FOLDER)
    say(f"factorised in {time.monotonic() - started:.0f} s")


def training_ratings(dataset: Path, *, user_share: float = 1.0) -> Ratings:
    """Explicit ratings of the training targets; `user_share` as in clm_ray.train.windows. Raises TrainError where there are none."""
    users: list[pa.Array] = []
    counts: list[NDArray[np.int64]] = []
    items: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float64]] = []
    for path in sorted((dataset / "sequences").glob("part-*.parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["user_id", "tgt_item", "tgt_rating", "tgt_split"])
            if user_share < 1.0:
                inside = stable_hash128(table.column("user_id"))[:, 0] / 2.0**64 < user_share
                table = table.filter(pa.array(inside))
            rating_T, start = ragged(table.column("tgt_rating"))
            kept_T = (ragged(table.column("tgt_split"))[0] == TRAIN) & ~np.isnan(rating_T)
            users.append(table.column("user_id").combine_chunks().cast(pa.string()))
            counts.append(np.diff(np.concatenate([[0], np.cumsum(kept_T)])[start]))
            items.append(ragged(table.column("tgt_item"))[0][kept_T].astype(np.int64))
            values.append(rating_T[kept_T].astype(np.float64))
    rating_N = np.concatenate(values) if values else np.empty(0)
    if not len(rating_N):
        raise TrainError(
            "nothing to factorise: no training target has a rating",
            field="model.factors",
            value=str(dataset),
            fix="leave it out, or give an event type `value: rating` and positive_from, with impressions.negatives: explicit",
        )
    code = pc.dictionary_encode(pa.concat_arrays(users)).indices.to_numpy().astype(np.int64)
    rated, user_N = np.unique(np.repeat(code, np.concatenate(counts)), return_inverse=True)
    catalogue = pq.ParquetFile(dataset / "items.parquet").metadata.num_rows
    return Ratings(len(rated), catalogue, user_N, np.concatenate(items), rating_N)


@dataclass
class ExpectedRatings:
    """What the factors expect of the targets of windows, each from what its user rated strictly before, as the endpoint does."""

    factors: Factors
    histories: Histories
    most: int
    _found: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)

    @staticmethod
    def of(run: Path, recipe: Recipe, histories: Histories) -> ExpectedRatings | None:
        """With the factors of a run; None where the recipe asks for none."""
        factors = Factors.open(run / FOLDER) if recipe.model.factors is not None else None
        if factors is None:
            return None
        return ExpectedRatings(factors, histories, recipe.features.max_history)

    def at(self, windows: Windows) -> NDArray[np.float64]:
        """float64: for each target of the windows, one window after the other; NaN where there is none. Found once per window: it asks for the same
        targets each time."""
        found = [np.empty(0)]
        for user, number, target in zip(windows.user, windows.number, windows.target, strict=True):
            if (user, number) not in self._found:
                self._found[user, number] = self._window(user, target["time"], target["item"])
            found.append(self._found[user, number])
        return np.concatenate(found)

    def _window(self, user: str, time_T: NDArray[np.int64], item_T: NDArray[np.int32]) -> NDArray[np.float64]:
        expected_T = np.full(len(item_T), np.nan)
        whole = self.histories.of_user(user) if len(item_T) else EMPTY
        vocabulary = self.histories.vocabulary
        known = whole.select(vocabulary.counts(whole))
        for moment in np.unique(time_T):
            at = time_T == moment
            taste = taste_of(self.factors, known.within_reach(int(moment), self.most), vocabulary=vocabulary)
            expected_T[at] = self.factors.expected(taste, item_T[at])
        return expected_T
