"""What users choose at each stage of their life, counted over a whole log: what a user of whom nothing else is known is shown.

An event's stage is that of its user at its moment, from activity strictly before it; so the first visit of a user counts for `prospect`.

Shape letters: S stages (in the order of STAGES), I item rows, N events of one user, T their event types.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.policy import STAGES
from clm_ray.errors import StoreError
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.lifecycle.stages import Thresholds, stages_at
from clm_ray.schema import DAY_US
from clm_ray.store.load import histories_of

STAGE_CHOICES = "stage_choices.parquet"
LATELY_DAYS = 28
SCHEMA = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("lately", pa.int64(), nullable=False),
        pa.field("ever", pa.int64(), nullable=False),
    ]
)
"""Positive events of users in a stage, per item row: in the log's last days, and in all of it. Rows without any are left out."""


def stage_choices(
    dataset: Path, *, catalogue: Catalogue, vocabulary: EventVocabulary, thresholds: Thresholds
) -> pa.Table:
    """The counts (SCHEMA) of a prepared dataset. Raises StoreError where its events cannot be read."""
    parts = sorted((dataset / "events").glob("part-*.parquet"))
    if not parts:
        raise StoreError("there are no events", field="dataset", value=str(dataset / "events"), fix="prepare again")
    ever_SI = np.zeros((len(STAGES), len(catalogue)), np.int64)
    lately_SI = np.zeros_like(ever_SI)
    since = max(_last_us(path) for path in parts) - LATELY_DAYS * DAY_US
    for history in _histories(parts, catalogue=catalogue, vocabulary=vocabulary):
        chosen_N = vocabulary.labels(history) == 1
        item_N, time_N = history.item_N[chosen_N], history.time_N[chosen_N]
        activity_N = history.time_N[vocabulary.is_activity(history)]
        stage_N = stages_at(activity_N, time_N, thresholds=thresholds)
        np.add.at(ever_SI, (stage_N, item_N), 1)
        late_N = time_N >= since
        np.add.at(lately_SI, (stage_N[late_N], item_N[late_N]), 1)
    stage, item = np.nonzero(ever_SI)
    columns = [[STAGES[s] for s in stage], item.astype(np.int32), lately_SI[stage, item], ever_SI[stage, item]]
    return pa.table(columns, schema=SCHEMA)


def stage_orders(table: pa.Table, *, popular_I: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:
    """Stage → item rows, what its users chose lately first, then ever, then in the order of `popular_I`."""
    place_I = np.full(int(popular_I.max(initial=0)) + 1, len(popular_I), np.int64)
    place_I[popular_I] = np.arange(len(popular_I))
    orders: dict[str, NDArray[np.int32]] = {}
    for stage in STAGES:
        mine = table.filter(pc.equal(table.column("stage"), stage))
        lately_I, ever_I = np.zeros(len(place_I), np.int64), np.zeros(len(place_I), np.int64)
        rows = mine.column("item").to_numpy()
        known = rows < len(place_I)
        lately_I[rows[known]] = mine.column("lately").to_numpy()[known]
        ever_I[rows[known]] = mine.column("ever").to_numpy()[known]
        if len(rows):
            keys = (place_I[popular_I], -ever_I[popular_I], -lately_I[popular_I])
            orders[stage] = popular_I[np.lexsort(keys)]
    return orders


def _last_us(path: Path) -> int:
    last = pc.max(pq.read_table(path, columns=["timestamp"])["timestamp"]).cast(pa.int64()).as_py()
    return 0 if last is None else int(last)


def _histories(parts: list[Path], *, catalogue: Catalogue, vocabulary: EventVocabulary) -> Iterator[History]:
    for path in parts:
        for stored, _ in histories_of(path):
            yield stored.history(row_of=catalogue.row_of, event_of=vocabulary.index)
