"""One user's history as arrays: the only thing that features are computed from, offline and online alike.

Shape letters: N events of one user, oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clm_ray.schema import DAY_US


@dataclass(frozen=True)
class History:
    """Events of one user, sorted by (time, event id).

    item_N: int32 rows of the item table, 0 = no item or unknown. event_N: int16 positions in the event vocabulary.
    value_N: float32 as in the log, NaN where the log has none. time_N: int64, UTC microseconds.
    """

    item_N: NDArray[np.int32]
    event_N: NDArray[np.int16]
    value_N: NDArray[np.float32]
    time_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_N)

    def before(self, time: int) -> History:
        """The events strictly before `time` (µs)."""
        return self.slice(0, int(np.searchsorted(self.time_N, time, side="left")))

    def tail(self, count: int) -> History:
        """The `count` most recent events."""
        return self.slice(max(0, len(self) - count), len(self))

    def within_reach(self, time: int, count: int) -> History:
        """What features look at as of `time` (µs): the events of its day (UTC) before it, and the `count` most recent ones before that day."""
        start = int(reach_of(self.time_N, np.array([time]), count)[0])
        return self.slice(start, int(np.searchsorted(self.time_N, time, side="left")))

    def slice(self, start: int, stop: int) -> History:
        """Events start ≤ n < stop."""
        cut = slice(start, stop)
        return History(self.item_N[cut], self.event_N[cut], self.value_N[cut], self.time_N[cut])

    def select(self, keep_N: NDArray[np.bool_]) -> History:
        """The events where `keep_N` is true."""
        return History(self.item_N[keep_N], self.event_N[keep_N], self.value_N[keep_N], self.time_N[keep_N])

    def of_first(self, items: int) -> History:
        """The same events; items whose row is not below `items` are unknown ones (0)."""
        newer_N = self.item_N >= items
        return replace(self, item_N=np.where(newer_N, np.int32(0), self.item_N)) if newer_N.any() else self


def reach_of(time_N: NDArray[np.int64], time_Q: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """int64 [Q]: index of the oldest event within reach of each moment. It moves once a day, not with every event, so that questions about a long
    history can be answered a day at a time."""
    before_Q = np.searchsorted(time_N, time_Q // DAY_US * DAY_US, side="left")
    return np.maximum(before_Q - count, 0)


EMPTY = History(np.empty(0, np.int32), np.empty(0, np.int16), np.empty(0, np.float32), np.empty(0, np.int64))
"""The history of a user never seen."""
