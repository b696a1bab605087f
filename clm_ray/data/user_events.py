"""A bucket's events, one user after the other.

Shape letters: N events of one user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.data.columns import encoded, map_value
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSource


@dataclass(frozen=True)
class UserEvents:
    """One user's rows as the occasions need them; the string columns are object arrays with None for null."""

    user_id: str
    history: History
    slot_N: NDArray[np.object_]
    decision_N: NDArray[np.object_]


def history_of_all(events: pa.Table, vocabulary: EventVocabulary) -> History:
    """What is in the events of all users, in their order."""
    names = pa.array(vocabulary.names)
    codes = pc.index_in(events.column("event_type"), value_set=names).to_numpy().astype(np.int16)
    items = events.column("item").to_numpy().astype(np.int32)
    values = events.column("value").to_numpy(zero_copy_only=False).astype(np.float32)
    times = events.column("timestamp").cast(pa.int64()).to_numpy()
    return History(items, codes, values, times)


HISTORY = ["user_id", "item", "event_type", "timestamp", "value"]
"""Columns that `histories_of` reads."""


def users_of(events: pa.Table, source: FeatureSource) -> Iterator[UserEvents]:
    """One UserEvents per user of a table sorted by user, time, event id."""
    if not events.num_rows:
        return
    history = history_of_all(events, source.vocabulary)
    slots = map_value(events.column("context"), "slot")
    decisions = events.column("decision_id").to_numpy(zero_copy_only=False)
    for user_id, start, stop in _users(events):
        cut = slice(start, stop)
        yield UserEvents(user_id, history.slice(start, stop), slots[cut], decisions[cut])


def histories_of(events: pa.Table, vocabulary: EventVocabulary) -> dict[str, History]:
    """The history of each user of a table sorted by user, time, event id."""
    if not events.num_rows:
        return {}
    history = history_of_all(events, vocabulary)
    return {user_id: history.slice(start, stop) for user_id, start, stop in _users(events)}


def _users(events: pa.Table) -> Iterator[tuple[str, int, int]]:
    """(user, first row, row after the last) of a table that is not empty."""
    users = encoded(events.column("user_id"))
    user = users.indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    names = users.dictionary.take(pa.array(user[starts])).to_pylist()
    yield from zip(names, starts.tolist(), [*starts[1:].tolist(), len(user)], strict=True)
