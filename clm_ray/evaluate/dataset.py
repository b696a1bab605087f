"""A dataset folder opened for evaluation: whole users, with the moments that are asked about.

Shape letters: P candidates (user, moment, item), Q moments, R references. The candidates of moment q are start_Q[q] ≤ p < start_Q[q + 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe, load_recipe
from clm_ray.data.buckets import part
from clm_ray.data.build import catalogue_of, statistics_of
from clm_ray.data.columns import ragged
from clm_ray.data.manifest import read_manifest
from clm_ray.data.neighbours import neighbours_of
from clm_ray.data.user_events import HISTORY, histories_of
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import EMPTY, History
from clm_ray.features.neighbours import ItemNeighbours
from clm_ray.features.spec import FeatureSource
from clm_ray.features.statistics import ItemStatistics
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.schema import TEST, TRAIN

_TARGET = ("tgt_time", "tgt_item", "tgt_label", "tgt_weight", "tgt_offset", "tgt_split")
_ASKED = ("time", "bin", "censored", "value")
_REFERENCE = (*(f"ref_{name}" for name in _ASKED), "ref_split")


@dataclass(frozen=True)
class Occasions:
    """Moments of one user with their candidates. `offset_P`: logit offset of the negative sampling."""

    time_Q: NDArray[np.int64]
    start_Q: NDArray[np.int64]
    item_P: NDArray[np.int32]
    label_P: NDArray[np.float32]
    weight_P: NDArray[np.float32]
    offset_P: NDArray[np.float32]

    @staticmethod
    def none() -> Occasions:
        """No moments."""
        nothing = np.empty(0, np.float32)
        return Occasions(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int32), nothing, nothing, nothing)

    @cached_property
    def moment_P(self) -> NDArray[np.int64]:
        """Moment of each candidate."""
        return np.repeat(np.arange(len(self.time_Q)), np.diff(self.start_Q))

    @property
    def time_P(self) -> NDArray[np.int64]:
        """Time of each candidate's moment, µs."""
        return self.time_Q[self.moment_P]

    def items(self, q: int) -> NDArray[np.int32]:
        """Candidates of one moment."""
        return self.item_P[self.start_Q[q] : self.start_Q[q + 1]]

    def select(self, keep_Q: NDArray[np.bool_]) -> Occasions:
        """The moments where `keep_Q` is true."""
        keep_P = keep_Q[self.moment_P]
        start = np.concatenate([[0], np.cumsum(np.diff(self.start_Q)[keep_Q])])
        return Occasions(
            self.time_Q[keep_Q],
            start.astype(np.int64),
            self.item_P[keep_P],
            self.label_P[keep_P],
            self.weight_P[keep_P],
            self.offset_P[keep_P],
        )


@dataclass(frozen=True)
class References:
    """Retention references of one user; `bin_R` and `seen_R` as in clm_ray.metrics.survival; `value_R`: spend within the longest
    reported horizon, NaN where the log ends before.
    """

    time_R: NDArray[np.int64]
    bin_R: NDArray[np.int32]
    seen_R: NDArray[np.int32]
    value_R: NDArray[np.float32]

    @staticmethod
    def none() -> References:
        """No references."""
        none = np.empty(0, np.int32)
        return References(np.empty(0, np.int64), none, none, np.empty(0, np.float32))


@dataclass(frozen=True)
class Case:
    """One user: everything in the log about them, and what is asked. Only events strictly before a moment may answer it."""

    user_id: str
    history: History
    shown: Occasions
    catalogue: Occasions
    references: References


@dataclass(frozen=True)
class Dataset:
    """One finished dataset folder. `recipe` is the one that it was built with."""

    folder: Path
    recipe: Recipe
    manifest: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> Dataset:
        """Raises DataError where the folder is not a finished dataset."""
        manifest = read_manifest(folder)
        return Dataset(folder, load_recipe(str(folder / "recipe.yaml")), manifest)

    @property
    def buckets(self) -> list[int]:
        """Numbers of the buckets."""
        return list(range(self.recipe.sequences.buckets))

    @property
    def thresholds(self) -> Thresholds:
        """Life-cycle thresholds learned from the training period."""
        return Thresholds.from_dict(self.manifest["thresholds"])

    @cached_property
    def items(self) -> pa.Table:
        """The catalogue's table."""
        return pq.read_table(self.folder / "items.parquet")

    @cached_property
    def catalogue(self) -> Catalogue:
        """The catalogue's arrays."""
        return catalogue_of(self.items)

    @cached_property
    def statistics(self) -> ItemStatistics:
        """Dated item statistics."""
        return statistics_of(pq.read_table(self.folder / "item_statistics.parquet"))

    @cached_property
    def neighbours(self) -> ItemNeighbours:
        """Item neighbours."""
        return neighbours_of(pq.read_table(self.folder / "neighbours.parquet"))

    @cached_property
    def vocabulary(self) -> EventVocabulary:
        """Event types."""
        return EventVocabulary(self.recipe.event_types)

    @cached_property
    def source(self) -> FeatureSource:
        """What features are computed from."""
        return FeatureSource(self.recipe, self.vocabulary, self.catalogue, self.statistics, self.neighbours)

    @cached_property
    def training_events_I(self) -> NDArray[np.int64]:
        """Training events of each item that a click model learns from: the train targets where every answer is logged, else the
        positive ones.
        """
        events_I = np.zeros(self.items.num_rows, np.int64)
        for bucket in self.buckets:
            if self.recipe.impressions.negatives == "explicit":
                targets = self._part("sequences", bucket, columns=["tgt_item", "tgt_split"])
                item_T, split_T = (ragged(targets.column(name))[0] for name in ("tgt_item", "tgt_split"))
                events_I += np.bincount(item_T[split_T == TRAIN], minlength=len(events_I))
                continue
            table = self._part("interactions", bucket, columns=["item", "events"])
            events_I += np.bincount(
                table.column("item").to_numpy(), table.column("events").to_numpy(), len(events_I)
            ).astype(np.int64)
        return events_I

    def training_targets(self) -> int:
        """Number of training targets."""
        return self.targets(TRAIN)

    def targets(self, split: int) -> int:
        """Number of targets of a split (train or valid)."""
        total = 0
        for bucket in self.buckets:
            split_T, _ = ragged(self._part("sequences", bucket, columns=["tgt_split"]).column("tgt_split"))
            total += int((split_T == split).sum())
        return total

    def test_cases(self, bucket: int) -> Iterator[Case]:
        """The users of a bucket with test occasions or references."""
        impressions = self._part("impressions", bucket)
        impressions = impressions.filter(pc.equal(impressions.column("split"), TEST))
        references = self._part("references", bucket, columns=["user_id", *_ASKED, "split"])
        references = references.filter(pc.equal(references.column("split"), TEST))
        rows_of, rows_of_reference = _rows_by_user(impressions), _rows_by_user(references)
        histories = self.histories(bucket)
        kind = impressions.column("kind").to_numpy(zero_copy_only=False)
        for user in sorted({*rows_of, *rows_of_reference}):
            rows = rows_of.get(user, np.empty(0, np.int64))
            asked = references.take(pa.array(rows_of_reference.get(user, np.empty(0, np.int64))))
            yield Case(
                user,
                histories.get(user, EMPTY),
                shown=_occasions(impressions.take(pa.array(rows[kind[rows] == "shown"]))),
                catalogue=_occasions(impressions.take(pa.array(rows[kind[rows] == "catalogue"]))),
                references=References(*(asked.column(name).to_numpy() for name in _ASKED)),
            )

    def train_cases(self, bucket: int) -> Iterator[Case]:
        """The users of a bucket with their training targets as `shown` and their training references."""
        return self.target_cases(bucket, split=TRAIN)

    def target_cases(self, bucket: int, *, split: int) -> Iterator[Case]:
        """The users of a bucket with the targets of a split (train or valid) as `shown`, and the references of that split."""
        table = self._part("sequences", bucket, columns=["user_id", *_TARGET, *_REFERENCE])
        histories = self.histories(bucket)
        for user, rows in sorted(_rows_by_user(table).items()):
            windows = table.take(pa.array(rows))
            target = {name: ragged(windows.column(name))[0] for name in _TARGET}
            reference = {name: ragged(windows.column(name))[0] for name in _REFERENCE}
            early_R = reference["ref_split"] == split
            kept = (reference[f"ref_{name}"][early_R] for name in _ASKED)
            yield Case(
                user,
                histories.get(user, EMPTY),
                shown=_group({name: values[target["tgt_split"] == split] for name, values in target.items()}),
                catalogue=Occasions.none(),
                references=References(*kept),
            )

    def histories(self, bucket: int) -> dict[str, History]:
        """The whole history of each user of a bucket."""
        return histories_of(self._part("events", bucket, columns=HISTORY), self.vocabulary)

    def _part(self, name: str, bucket: int, *, columns: Sequence[str] | None = None) -> pa.Table:
        return pq.read_table(self.folder / name / part(bucket), columns=columns)


def _rows_by_user(table: pa.Table) -> dict[str, NDArray[np.int64]]:
    """Row numbers of each user, in the order of the table."""
    if not table.num_rows:
        return {}
    encoded = pc.dictionary_encode(table.column("user_id")).unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    user_N = encoded.indices.to_numpy()
    order_N = np.argsort(user_N, kind="stable")
    edge = np.flatnonzero(np.diff(user_N[order_N])) + 1
    names = encoded.dictionary.to_pylist()
    return {names[user_N[rows[0]]]: rows for rows in np.split(order_N, edge)}


def _occasions(table: pa.Table) -> Occasions:
    """Rows of schema.IMPRESSIONS, each a moment."""
    if not table.num_rows:
        return Occasions.none()
    item_P, start_Q = ragged(table.column("item"))
    label_P, weight_P = ragged(table.column("label"))[0], ragged(table.column("weight"))[0]
    offset_P = np.repeat(table.column("offset").to_numpy(), np.diff(start_Q))
    return Occasions(table.column("time").to_numpy(), start_Q, item_P, label_P, weight_P, offset_P)


def _group(target: dict[str, NDArray[Any]]) -> Occasions:
    """Targets of one user, those of one time being one moment."""
    if not len(target["tgt_time"]):
        return Occasions.none()
    order_P = np.argsort(target["tgt_time"], kind="stable")
    time_P = target["tgt_time"][order_P]
    first = np.flatnonzero(np.r_[True, np.diff(time_P) != 0])
    values = (target[name][order_P] for name in ("tgt_item", "tgt_label", "tgt_weight", "tgt_offset"))
    return Occasions(time_P[first], np.r_[first, len(time_P)].astype(np.int64), *values)
