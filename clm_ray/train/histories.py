"""The whole histories of users, from the events of a dataset, a bucket at a time; windows in the order of their files need each bucket once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clm_ray.config.recipe import Recipe
from clm_ray.data.buckets import bucket_of, part
from clm_ray.data.columns import encoded
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import EMPTY, History

_BUCKETS_KEPT = 4


@dataclass
class Histories:
    """Of the folder `events` of a dataset. Keeps the buckets that were asked last."""

    events: Path
    buckets: int
    vocabulary: EventVocabulary
    _kept: dict[int, dict[str, History]] = field(default_factory=dict)

    @staticmethod
    def of(dataset: Path, recipe: Recipe) -> Histories:
        """Of an opened dataset."""
        return Histories(dataset / "events", recipe.sequences.buckets, EventVocabulary(recipe.event_types))

    def of_user(self, user: str) -> History:
        """Everything in the log about a user, oldest first."""
        (bucket,) = bucket_of([user], self.buckets).tolist()
        if bucket not in self._kept:
            if len(self._kept) >= _BUCKETS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[bucket] = self._read(self.events / part(bucket))
        return self._kept[bucket].get(user, EMPTY)

    def _read(self, path: Path) -> dict[str, History]:
        table = pq.read_table(path, columns=["user_id", "item", "event_type", "timestamp", "value"])
        if not table.num_rows:
            return {}
        code_N = pc.index_in(table.column("event_type"), value_set=pa.array(self.vocabulary.names)).to_numpy()
        whole = History(
            table.column("item").to_numpy().astype(np.int32),
            code_N.astype(np.int16),
            table.column("value").to_numpy(zero_copy_only=False).astype(np.float32),
            table.column("timestamp").cast(pa.int64()).to_numpy(),
        )
        users = encoded(table.column("user_id"))
        user_N = users.indices.to_numpy()
        order_N = np.lexsort((whole.time_N, user_N))  # stable: events of one moment keep their order
        starts = np.flatnonzero(np.r_[True, np.diff(user_N[order_N]) > 0])
        names = users.dictionary.take(pa.array(user_N[order_N[starts]])).to_pylist()
        cuts = np.split(order_N, starts[1:])
        return {name: whole.select(rows) for name, rows in zip(names, cuts, strict=True)}
