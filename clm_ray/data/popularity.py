"""Candidates where the log does not say what was shown: items drawn by popularity^alpha as of the day before.

An item comes out of a draw with a share that is known exactly: in proportion to its weight, at most 1, all of them together `count`. Such
draws without repetition are made by systematic sampling (Madow, 1949): the shares are laid end to end, and of `count` points that lie one
apart, from a random start, each takes the item that it falls on. What was taken is left out afterwards, not drawn around: so the share of
every other item is the same whatever was taken.

Shape letters: K items known on a day, C candidates.
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
"""Known items K, ascending, and the running sum of their shares."""


@dataclass(frozen=True)
class PopularityDraw:
    """Draws `count` items by popularity^alpha as of the day before. Days are remembered, the longest unused are forgotten first."""

    statistics: ItemStatistics
    alpha: float
    count: int
    _days: OrderedDict[int, Day] = field(default_factory=OrderedDict, repr=False)

    def known(self, time: int) -> NDArray[np.int32]:
        """The items that could be drawn at `time` (UTC microseconds): those with an event on a day before, ascending."""
        return self._day(time)[0]

    def draw(self, time: int, *, but: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
        """`count` distinct known items (all, where fewer are known) less those in `but`."""
        items, cumulative = self._day(time)
        points = rng.random() + np.arange(min(self.count, len(items)))
        # Rounding may leave the last share short of the last point.
        drawn = items[np.minimum(np.searchsorted(cumulative, points, side="right"), len(items) - 1)]
        # A handful of numbers: Python's own containers are several times faster than arrays.
        taken = set(but.tolist())
        return np.array([n for n in dict.fromkeys(drawn.tolist()) if n not in taken], np.int32)

    def shares(self, time: int, items_C: NDArray[np.int32]) -> NDArray[np.float64]:
        """The share of the draws at `time` that each of these known items is in."""
        items, cumulative = self._day(time)
        at = np.searchsorted(items, items_C)
        return np.asarray(cumulative[at] - np.where(at > 0, cumulative[at - 1], 0.0), np.float64)

    def even_share(self, time: int) -> float:
        """The share of the draws at `time` that each known item would be in, were they even."""
        return min(1.0, self.count / max(1, len(self.known(time))))

    def offsets(self, time: int, items_C: NDArray[np.int32]) -> NDArray[np.float64]:
        """Logit offset of known items, taken or not: log(even share / share). With it, the rest of the logit is one relative to `count`
        negatives drawn evenly, and orders items by how likely they are taken; without it, by how much likelier than they are drawn."""
        return np.asarray(np.log(self.even_share(time) / self.shares(time, items_C)), np.float64)

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
            self._days[day] = (items[known], np.cumsum(_shares(events[known] ** self.alpha, count=self.count)))
            while len(self._days) > 1 and len(self._days) * len(items) > _CACHED_ENTRIES:
                self._days.popitem(last=False)
        self._days.move_to_end(day)
        return self._days[day]


def _shares(weight_K: NDArray[np.float64], *, count: int) -> NDArray[np.float64]:
    """In proportion to the weights, at most 1, `count` together (all 1 where there are no more)."""
    always_K = np.full(len(weight_K), count >= len(weight_K))
    share_K = always_K.astype(np.float64)
    while not always_K.all():
        rest = weight_K[~always_K]
        share_K[~always_K] = rest * ((count - int(always_K.sum())) / rest.sum())
        if not (over_K := share_K > 1.0).any():
            break
        share_K[over_K] = 1.0
        always_K |= over_K
    return share_K
