"""Running sums of users' events by a code (item, category, neighbour): what was there before a moment, in two searches.

Shape letters: E entries (user, code, position among the events), N events of all users, Q questions, V summed values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.asked import Restarted, restarted
from clm_ray.features.user import NEVER_DAYS
from clm_ray.schema import DAY_US


@dataclass(frozen=True)
class Found:
    """Of each query's code before its position: entries, days since the last one (NEVER_DAYS: none), mean days between them, sums
    [Q, V] of the values."""

    count: NDArray[np.int64]
    since_days: NDArray[np.float64]
    between_days: NDArray[np.float64]
    sums: NDArray[np.float64]


@dataclass(frozen=True)
class EventIndex:
    """Entries sorted by (user, code, position). first: index of each user's first entry."""

    key: NDArray[np.int64]
    time: NDArray[np.int64]
    sums: tuple[Restarted, ...]
    first: NDArray[np.int64]
    span: int
    codes: int

    @staticmethod
    def build(
        owner_E: NDArray[np.int64],
        code_E: NDArray[np.int32],
        position_E: NDArray[np.int64],
        time_N: NDArray[np.int64],
        *values_N: NDArray[np.float32],
    ) -> EventIndex:
        """`time_N`, `values_N`: of all events, to which the positions point. owner_E: whose event it is."""
        span, codes = len(time_N) + 1, int(code_E.max(initial=0)) + 2
        key = (owner_E * codes + code_E) * span + position_E
        order = np.argsort(key, kind="stable")
        at = position_E[order]
        first = np.searchsorted(owner_E[order], np.arange(int(owner_E.max(initial=0)) + 2))
        sums = tuple(restarted(value_N[at], first) for value_N in values_N)
        return EventIndex(key[order], time_N[at], sums, first, span, codes)

    def query(
        self,
        owner_Q: NDArray[np.int64],
        code_Q: NDArray[np.int32],
        before_Q: NDArray[np.int64],
        time_Q: NDArray[np.int64],
    ) -> Found:
        """What each code of each user has before each position (exclusive)."""
        # Codes beyond those that occur are all the same: the last one, which nobody has.
        base = (owner_Q * self.codes + np.minimum(code_Q, self.codes - 1)) * self.span
        low = np.searchsorted(self.key, base)
        high = np.searchsorted(self.key, base + before_Q)
        count = high - low
        first = self.first[np.minimum(owner_Q, len(self.first) - 1)]
        sums = np.stack([of.between(first, low, high) for of in self.sums], axis=1)
        if not len(self.key):
            return Found(count, np.full(len(code_Q), NEVER_DAYS), np.zeros(len(code_Q)), sums)
        last = self.time[np.maximum(high - 1, 0)]
        first = self.time[np.minimum(low, len(self.time) - 1)]
        since = np.where(count > 0, (time_Q - last) / DAY_US, NEVER_DAYS)
        between = np.where(count > 1, (last - first) / DAY_US / np.maximum(count - 1, 1), 0.0)
        return Found(count, since, between, sums)
