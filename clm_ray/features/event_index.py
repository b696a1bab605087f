"""Running sums of one user's events by a code (item, category, neighbour): what was there before a moment, in two searches.

Shape letters: E entries (code, position in the history), Q queries, V summed values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Entries sorted by (code, position)."""

    key: NDArray[np.int64]
    time: NDArray[np.int64]
    sums: NDArray[np.float64]
    span: int

    @staticmethod
    def build(
        code_E: NDArray[np.int32],
        position_E: NDArray[np.int64],
        time_N: NDArray[np.int64],
        *values_N: NDArray[np.float32],
    ) -> EventIndex:
        """`time_N`, `values_N`: of all events of the history, to which the positions point."""
        span = len(time_N) + 1
        key = code_E.astype(np.int64) * span + position_E
        order = np.argsort(key, kind="stable")
        at = position_E[order]
        sums = np.zeros((len(at) + 1, len(values_N)))
        for v, value_N in enumerate(values_N):
            np.cumsum(value_N[at], out=sums[1:, v], dtype=np.float64)
        return EventIndex(key[order], time_N[at], sums, span)

    def query(self, code_Q: NDArray[np.int32], before_Q: NDArray[np.int64], time_Q: NDArray[np.int64]) -> Found:
        """What each code has before each position (exclusive)."""
        base = code_Q.astype(np.int64) * self.span
        low = np.searchsorted(self.key, base)
        high = np.searchsorted(self.key, base + before_Q)
        count = high - low
        sums = self.sums[high] - self.sums[low]
        if not len(self.key):
            return Found(count, np.full(len(code_Q), NEVER_DAYS), np.zeros(len(code_Q)), sums)
        last = self.time[np.maximum(high - 1, 0)]
        first = self.time[np.minimum(low, len(self.time) - 1)]
        since = np.where(count > 0, (time_Q - last) / DAY_US, NEVER_DAYS)
        between = np.where(count > 1, (last - first) / DAY_US / np.maximum(count - 1, 1), 0.0)
        return Found(count, since, between, sums)
