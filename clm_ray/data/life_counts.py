"""The life cycle of the whole log: users in each stage on each day, who went where, and what RFM is made of.

It runs once the thresholds are learned, which is after all buckets are built. What is kept of a bucket under these thresholds is added up as it
is; of the others three columns of events, and the values, are read. Memory: a table of days and pairs of states, and 24 bytes for each user with activity.

Shape letters: U users, D days, S states (see lifecycle.flows).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from clm_ray.data.bucket_figures import Frame
from clm_ray.data.bucket_lives import COLUMNS, BucketLives, bucket_lives
from clm_ray.data.buckets import part
from clm_ray.data.kept_buckets import KeptBuckets
from clm_ray.data.tally import Tally
from clm_ray.features.events import EventVocabulary
from clm_ray.lifecycle.flows import STATES, Flows
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.schema import DAY_US

_PAIRS = STATES * STATES


@dataclass(frozen=True)
class LifeCounts:
    """flows: of the log's days. users_SS: distinct users who ever went from one state to another, or stayed in it for a day once they were known.
    rfm_U3: days since the last activity up to the log's end, active days and spend of each user with activity."""

    flows: Flows
    users_SS: NDArray[np.int64]
    rfm_U3: NDArray[np.float64]

    @staticmethod
    def of(parts: Iterable[BucketLives], frame: Frame) -> LifeCounts:
        """Of all buckets, the same in any order. What lies after the frame's last day is left out."""
        moves, users = np.zeros(frame.days * _PAIRS, np.int64), np.zeros(_PAIRS, np.int64)
        end, rfm = (frame.last_day + 1) * DAY_US, [np.empty((0, 3))]
        for one in parts:
            move, first = _within(one.moves, frame), _within(one.firsts, frame)
            moves[move.key_N] += move.count_N
            np.add.at(users, first.key_N % _PAIRS, first.count_N)
            rfm.append(np.stack([(end - one.last_U) / DAY_US, one.days_U, one.spend_U], axis=1))
        rfm_U3 = np.concatenate(rfm)
        return LifeCounts(
            Flows.of(moves.reshape(-1, STATES, STATES), first_day=frame.first_day),
            users.reshape(STATES, STATES),
            rfm_U3[np.lexsort(rfm_U3.T)],
        )


def _within(tally: Tally, frame: Frame) -> Tally:
    """Keys counted from the frame's first day instead of 1970, up to its last day."""
    key_N = tally.key_N - frame.first_day * _PAIRS
    inside_N = key_N < frame.days * _PAIRS
    return Tally(key_N[inside_N], tally.count_N[inside_N])


def count_lives(
    building: Path,
    keys: Mapping[int, str],
    kept: KeptBuckets,
    vocabulary: EventVocabulary,
    thresholds: Thresholds,
    *,
    frame: Frame,
) -> LifeCounts:
    """Of the buckets in `keys`: bucket → the key under which it is kept. Of those not replayed under these thresholds yet the part files below
    `building` are read, and what they give is kept."""
    return LifeCounts.of(_lives(building, keys, kept, vocabulary, thresholds), frame)


def _lives(
    building: Path, keys: Mapping[int, str], kept: KeptBuckets, vocabulary: EventVocabulary, thresholds: Thresholds
) -> Iterator[BucketLives]:
    missing = []
    for bucket, key in keys.items():
        if (found := kept.lives(key, thresholds)) is None:
            missing.append(bucket)
        else:
            yield found
    if not missing:
        return

    def replay(batch: pa.Table) -> pa.Table:
        found = []
        for bucket in batch.column("item").to_pylist():
            events = pq.read_table(building / "events" / part(bucket), columns=list(COLUMNS))
            lives = bucket_lives(events, vocabulary, thresholds)
            kept.keep_lives(keys[bucket], lives, thresholds)
            found.append(pickle.dumps(lives))
        return pa.table({"lives": pa.array(found, pa.binary())})

    asked = ray.data.from_items(missing, override_num_blocks=len(missing))
    for row in asked.map_batches(replay, batch_format="pyarrow", batch_size=1).iter_rows():
        yield pickle.loads(row["lives"])
