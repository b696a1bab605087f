"""What the build must know of the whole log before it can look at users: dated item sums, the rows that fix the cuts, its ends."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from clm_ray.data.user_events import history_of_all
from clm_ray.errors import DataError
from clm_ray.features.events import EventVocabulary
from clm_ray.features.statistics import STATISTICS, ItemStatistics
from clm_ray.schema import DAY_US

_TOGETHER = 4_000_000
"""Rows of parts that are held before they are added up."""


@dataclass(frozen=True)
class FirstPass:
    statistics: ItemStatistics
    labelled: pa.Table
    first_activity: int
    last_activity: int
    log_end: int


def summarise_log(events: ray.data.Dataset, vocabulary: EventVocabulary, *, rows: bool) -> FirstPass:
    """`rows`: whether the labelled rows are needed for the cuts."""

    def summarise(block: pa.Table) -> pa.Table:
        summary = _summarise(block, vocabulary, rows=rows)
        return pa.table({"summary": pa.array([pickle.dumps(summary)], pa.binary())})

    summaries = events.map_batches(summarise, batch_format="pyarrow", batch_size=None)
    daily, parts = _Daily(), []
    for row in summaries.iter_rows():
        part = pickle.loads(row["summary"])
        if part["rows"]:
            daily.add(part.pop("daily"))
            parts.append(part)
    if not parts:
        raise DataError("no event is left after cleaning", field="source", fix="look into the quarantine folder")
    statistics = _statistics_of(daily.sums())
    if not len(statistics.item_K):
        raise DataError(
            "no event carries a label", field="event_types", fix="give a type the role positive, or positive_from"
        )
    active = [p["activity"] for p in parts if p["activity"] is not None]
    return FirstPass(
        statistics,
        pa.concat_tables([p["labelled"] for p in parts]),
        min((first for first, _ in active), default=0),
        max((last for _, last in active), default=0),
        max(p["last"] for p in parts),
    )


class _Daily:
    """Adds up the daily sums of blocks a few at a time: an item is bought by users of every bucket, so that together the parts have many times the rows
    of their sum."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._rows = 0

    @staticmethod
    def of(part: pa.Table) -> _Daily:
        """Of one part."""
        found = _Daily()
        found.add(part)
        return found

    def add(self, part: pa.Table) -> None:
        """Rows of item, day and the sums of STATISTICS."""
        self._parts.append(part)
        self._rows += part.num_rows
        if self._rows > _TOGETHER + self._parts[0].num_rows:
            self._parts = [self.sums()]
            self._rows = self._parts[0].num_rows

    def sums(self) -> pa.Table:
        """One row per item and day."""
        names = list(STATISTICS[2:])
        found = pa.concat_tables(self._parts).group_by(["item", "day"]).aggregate([(name, "sum") for name in names])
        return found.rename_columns([name.removesuffix("_sum") for name in found.column_names]).combine_chunks()


def _statistics_of(daily: pa.Table) -> ItemStatistics:
    item, day, *sums = (daily.column(name).to_numpy() for name in STATISTICS)
    return ItemStatistics.from_daily(item, day, *sums)


def _summarise(block: pa.Table, vocabulary: EventVocabulary, *, rows: bool) -> dict[str, Any]:
    """Daily sums per item, labelled rows (where `rows`), first and last activity and last event of one block."""
    if not block.num_rows:
        return {"rows": 0}
    history = history_of_all(block, vocabulary)
    time = history.time_N
    label = vocabulary.labels(history)
    known = ~np.isnan(label)
    rating = vocabulary.ratings(history)[known].astype(np.float64)
    daily = pa.table(
        {
            "item": history.item_N[known],
            "day": (time[known] // DAY_US).astype(np.int32),
            "events": np.ones(int(known.sum())),
            "positives": label[known].astype(np.float64),
            "total": vocabulary.numbers(history)[known],
            "ratings": (~np.isnan(rating)).astype(np.float64),
            "rating_total": np.nan_to_num(rating),
        }
    )
    active = time[vocabulary.is_activity(history)]
    # Not a slice of no rows, which travels with all that it is a slice of.
    labelled = block.filter(pa.array(known)) if rows else block.schema.empty_table()
    return {
        "rows": block.num_rows,
        "daily": _Daily.of(daily).sums(),
        "labelled": labelled.select(["timestamp", "user_id", "item_id"]),
        "activity": (int(active.min()), int(active.max())) if len(active) else None,
        "last": int(time.max()),
    }
