"""Candidates where the log does not say what was shown: items drawn by popularity^alpha as of the day before.

Shape letters: K items known on a day.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.statistics import ItemStatistics, day_of

_CACHED_ENTRIES = 1 << 25
"""Items of all remembered days together: bounds memory (12 bytes each)."""

Day = tuple[NDArray[np.int32], NDArray[np.float64]]
"""Known items K, ascending, and the running sum of their weights."""


@dataclass(frozen=True)
class PopularityDraw:
    """Draws items by popularity^alpha as of the day before. Days are remembered, the longest unused are forgotten first."""

    statistics: ItemStatistics
    alpha: float
    _days: OrderedDict[int, Day] = field(default_factory=OrderedDict, repr=False)

    def known(self, time: int) -> NDArray[np.int32]:
        """The items that could be drawn at `time` (UTC microseconds): those with an event on a day before, ascending."""
        return self._day(time)[0]

    def draw(self, time: int, *, count: int, but: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
        """`count` distinct known items that are not in `but` (fewer where fewer are known)."""
        items, cumulative = self._day(time)
        if not len(items):
            return np.empty(0, np.int32)
        drawn = items[np.searchsorted(cumulative, rng.random(count * 3) * cumulative[-1], side="right")]
        # A handful of numbers: Python's own containers are several times faster than arrays.
        taken = set(but.tolist())
        fresh = np.array([n for n in dict.fromkeys(drawn.tolist()) if n not in taken][:count], np.int32)
        if len(fresh) == count:
            return fresh
        # A few items had most of the draws: the same draw goes on among the rest.
        rest = ~np.isin(items, np.concatenate([fresh, but]))
        weight = np.diff(cumulative, prepend=0.0)[rest]
        missing = min(count - len(fresh), len(weight))
        more = rng.choice(items[rest], missing, replace=False, p=weight / weight.sum()) if missing else fresh[:0]
        return np.concatenate([fresh, more])

    @cached_property
    def _items(self) -> NDArray[np.int32]:
        # The table is sorted by item, and has millions of rows for a long log: sorting it again for each day took longer than all the rest.
        item_K = self.statistics.item_K
        distinct = item_K[np.flatnonzero(np.diff(item_K, prepend=-1))]
        return distinct[distinct > 0]

    def _day(self, time: int) -> Day:
        day = int(day_of(np.array([time]))[0])
        if day not in self._days:
            items = self._items
            events = self.statistics.events(items, np.full(len(items), day, np.int64))
            known = events > 0
            self._days[day] = (items[known], np.cumsum(events[known] ** self.alpha))
            while len(self._days) > 1 and len(self._days) * len(items) > _CACHED_ENTRIES:
                self._days.popitem(last=False)
        self._days.move_to_end(day)
        return self._days[day]
