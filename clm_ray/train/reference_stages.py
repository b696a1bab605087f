"""The life-cycle stage of each reference of a batch of windows, from the users' whole activity.

Windows hold no stages: the thresholds are learned once all windows are there. They are read from the dataset's events, a bucket at a time;
windows in the order of their files need each bucket once.

Shape letters: N events, R references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.buckets import bucket_of, part
from clm_ray.data.columns import encoded
from clm_ray.lifecycle.stages import Thresholds, stages_at
from clm_ray.train.windows import Windows

_BUCKETS_KEPT = 4
_NO_ACTIVITY = np.empty(0, np.int64)


@dataclass
class ReferenceStages:
    """Finds stages in the folder `events` of a dataset. Keeps the activity of the buckets that were asked last."""

    events: Path
    activity: Sequence[str]
    buckets: int
    thresholds: Thresholds
    _kept: dict[int, dict[str, NDArray[np.int64]]] = field(default_factory=dict)

    @staticmethod
    def of(dataset: Path, recipe: Recipe, manifest: Mapping[str, Any]) -> ReferenceStages:
        """Of an opened dataset."""
        activity = [name for name, kind in recipe.event_types.items() if "activity" in kind.roles]
        thresholds = Thresholds.from_dict(manifest["thresholds"])
        return ReferenceStages(dataset / "events", activity, recipe.sequences.buckets, thresholds)

    def at(self, windows: Windows) -> NDArray[np.int8]:
        """int8 [R]: the stage at each reference of the windows, one window after the other."""
        bucket_B = bucket_of(windows.user, self.buckets).tolist() if len(windows) else []
        found = [np.empty(0, np.int8)]
        for user, bucket, reference in zip(windows.user, bucket_B, windows.reference, strict=True):
            if len(reference["time"]):
                active_N = self._bucket(bucket).get(user, _NO_ACTIVITY)
                found.append(stages_at(active_N, reference["time"], thresholds=self.thresholds))
        return np.concatenate(found)

    def _bucket(self, bucket: int) -> dict[str, NDArray[np.int64]]:
        if bucket not in self._kept:
            if len(self._kept) >= _BUCKETS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[bucket] = self._read(self.events / part(bucket))
        return self._kept[bucket]

    def _read(self, path: Path) -> dict[str, NDArray[np.int64]]:
        """Activity times of each user, sorted."""
        table = pq.read_table(path, columns=["user_id", "event_type", "timestamp"])
        table = table.filter(pc.is_in(table.column("event_type"), value_set=pa.array(self.activity, pa.string())))
        if not table.num_rows:
            return {}
        users = encoded(table.column("user_id"))
        time_N, user_N = table.column("timestamp").cast(pa.int64()).to_numpy(), users.indices.to_numpy()
        order_N = np.lexsort((time_N, user_N))
        starts = np.flatnonzero(np.r_[True, np.diff(user_N[order_N]) > 0])
        names = users.dictionary.take(pa.array(user_N[order_N[starts]])).to_pylist()
        return dict(zip(names, np.split(time_N[order_N], starts[1:]), strict=True))
