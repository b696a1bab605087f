"""A replay of the life cycle, bucket by bucket: users in each stage on each day, who went where, and what RFM is made of.

It runs once the thresholds are learned, which is after all buckets are built, over three columns of their events. Nothing here names a user.

Shape letters: N events, U users, D days, S states (see lifecycle.flows).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from clm_ray.data.bucket_figures import Frame
from clm_ray.data.buckets import part
from clm_ray.data.columns import encoded
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.lifecycle.flows import STATES, daily_states, transition_keys
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.schema import DAY_US

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LifeCounts:
    """count_DSS, flat: users by state of a day and of the next, see `flows.transition_keys`; users_SS: distinct users who ever went from one
    state to another (or stayed). rfm_U3: days since the last activity up to the log's end, active days and spend of each user with
    activity."""

    count: NDArray[np.int64]
    users_SS: NDArray[np.int64]
    rfm_U3: Floats

    @staticmethod
    def nothing(frame: Frame) -> LifeCounts:
        """Of no users."""
        return LifeCounts(
            np.zeros(frame.days * STATES * STATES, np.int64), np.zeros((STATES, STATES), np.int64), np.empty((0, 3))
        )

    @staticmethod
    def total(parts: Sequence[LifeCounts], frame: Frame) -> LifeCounts:
        """Of all buckets, the same in any order."""
        every = [LifeCounts.nothing(frame), *parts]
        rfm = np.concatenate([one.rfm_U3 for one in every])
        return LifeCounts(
            np.sum([one.count for one in every], axis=0),
            np.sum([one.users_SS for one in every], axis=0),
            rfm[np.lexsort(rfm.T)],
        )


def count_lives(
    building: Path, buckets: int, vocabulary: EventVocabulary, thresholds: Thresholds, *, frame: Frame
) -> LifeCounts:
    """Of the events that the buckets' part files below `building` hold."""

    def one(batch: pa.Table) -> pa.Table:
        found = []
        for bucket in batch.column("item").to_pylist():
            events = pq.read_table(
                building / "events" / part(bucket), columns=["user_id", "event_type", "timestamp", "value"]
            )
            found.append(pickle.dumps(bucket_lives(events, vocabulary, thresholds, frame=frame)))
        return pa.table({"counts": pa.array(found, pa.binary())})

    asked = ray.data.from_items(list(range(buckets)), override_num_blocks=buckets)
    rows = asked.map_batches(one, batch_format="pyarrow", batch_size=1).take_all()
    return LifeCounts.total([pickle.loads(row["counts"]) for row in rows], frame)


def bucket_lives(events: pa.Table, vocabulary: EventVocabulary, thresholds: Thresholds, *, frame: Frame) -> LifeCounts:
    """`events`: whole users, sorted by user and time. States are those at 00:00 UTC of the frame's days and of the day after them."""
    result = LifeCounts.nothing(frame)
    if not events.num_rows:
        return result
    user_N = encoded(events.column("user_id")).indices.to_numpy()
    type_N = pc.index_in(events.column("event_type"), value_set=pa.array(frame.types)).to_numpy().astype(np.int16)
    time_N = events.column("timestamp").cast(pa.int64()).to_numpy()
    value_N = events.column("value").to_numpy(zero_copy_only=False).astype(np.float32)
    whole = History(np.zeros(len(user_N), np.int32), type_N, value_N, time_N)
    amount_N = vocabulary.amounts(whole).astype(np.float64)
    active_N = np.array(frame.activity)[type_N]
    start_U = np.flatnonzero(np.r_[True, np.diff(user_N) != 0])
    end = (frame.last_day + 1) * DAY_US
    rfm = []
    for start, stop in zip(start_U.tolist(), np.r_[start_U[1:], len(user_N)].tolist(), strict=True):
        active = time_N[start:stop][active_N[start:stop]]
        state_D = daily_states(
            active,
            known_from=int(time_N[start]),
            first_day=frame.first_day,
            days=frame.days + 1,
            thresholds=thresholds,
        )
        key_D = transition_keys(state_D)
        result.count[key_D] += 1
        result.users_SS.reshape(-1)[np.unique(key_D % STATES**2)] += 1
        if len(active):
            days = len(np.unique(active // DAY_US))
            rfm.append(((end - active[-1]) / DAY_US, days, amount_N[start:stop].sum()))
    return LifeCounts(result.count, result.users_SS, np.array(rfm, np.float64).reshape(-1, 3))
