"""A replay of the life cycle of one bucket: who went from which stage to which on what day, and what RFM is made of.

Days and moments are those of the calendar: nothing here depends on where the log begins or ends, so that it holds until the bucket's events or the
thresholds change. Nothing here names a user.

Shape letters: N events, U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clm_ray.data.columns import encoded
from clm_ray.data.tally import NOTHING, Ints, Tally
from clm_ray.data.user_events import history_of_all
from clm_ray.features.events import EventVocabulary
from clm_ray.lifecycle.flows import first_moves, moves_of
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.schema import DAY_US

COLUMNS = ("user_id", "event_type", "timestamp", "value")
"""Of schema.EVENTS: what a replay reads."""


@dataclass(frozen=True)
class BucketLives:
    """moves, firsts: users by `flows.moves_of` and by `flows.first_moves`. Of each user with activity: last_U, the moment of the last one (µs);
    days_U, active days; spend_U."""

    moves: Tally
    firsts: Tally
    last_U: Ints
    days_U: Ints
    spend_U: NDArray[np.float64]


def bucket_lives(events: pa.Table, vocabulary: EventVocabulary, thresholds: Thresholds) -> BucketLives:
    """`events`: COLUMNS of whole users, sorted by user and time."""
    user_N = encoded(events.column("user_id")).indices.to_numpy()
    no_item_N = pa.array(np.zeros(len(user_N), np.int32))  # which item it was does not matter here, and is not read
    whole = history_of_all(events.select(COLUMNS).append_column("item", no_item_N), vocabulary)
    time_N = whole.time_N
    amount_N, active_N = vocabulary.amounts(whole).astype(np.float64), vocabulary.is_activity(whole)
    moves, rfm = [NOTHING.key_N], []
    for start, stop in pairwise(np.flatnonzero(np.diff(user_N, prepend=-1, append=-1)).tolist()):
        activity = time_N[start:stop][active_N[start:stop]]
        moves.append(moves_of(activity, known_from=int(time_N[start]), thresholds=thresholds))
        if len(activity):
            days = 1 + np.count_nonzero(np.diff(activity // DAY_US))
            rfm.append((activity[-1], days, amount_N[start:stop].sum()))
    move_M = np.concatenate(moves)
    user_M = np.repeat(np.arange(len(moves)), [len(one) for one in moves])
    last_U, days_U, spend_U = zip(*rfm, strict=True) if rfm else ((), (), ())
    return BucketLives(
        Tally.of(move_M),
        Tally.of(first_moves(move_M, user_M=user_M)),
        np.array(last_U, np.int64),
        np.array(days_U, np.int64),
        np.array(spend_U, np.float64),
    )
