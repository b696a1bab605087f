"""Dated item statistics: what was known of an item at the end of the day before.

As-of rule: a lookup at time t uses rows of days strictly before t's UTC day. Row 0 holds the totals over all items.

Shape letters: K statistics rows, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.schema import DAY_US

_DAYS = 1 << 20
"""More days than any date has; makes (item, day) one sortable integer."""


def day_of(time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days since 1970 of UTC microseconds."""
    return time // DAY_US


STATISTICS = ("item", "day", "events", "positives", "total", "ratings", "rating_total")
"""Names of the columns, in the order of the fields."""


@dataclass(frozen=True)
class ItemStatistics:
    """Cumulative counts, one row per item and day with an event, sorted by (item, day); see schema.ITEM_STATISTICS."""

    item_K: NDArray[np.int32]
    day_K: NDArray[np.int32]
    events_K: NDArray[np.float32]
    positives_K: NDArray[np.float32]
    total_K: NDArray[np.float64]
    ratings_K: NDArray[np.float32]
    rating_total_K: NDArray[np.float64]
    until: int = _DAYS - 1
    """Windows of later days are those of this day: what came in after the table was made is not in it, and is no decline."""

    @staticmethod
    def from_daily(
        item: NDArray[np.int32],
        day: NDArray[np.int32],
        events: NDArray[np.float64],
        positives: NDArray[np.float64],
        total: NDArray[np.float64],
        ratings: NDArray[np.float64] | None = None,
        rating_total: NDArray[np.float64] | None = None,
    ) -> ItemStatistics:
        """Accumulate daily sums (any order, items ≥ 1) and add the totals as row 0. No ratings: all 0."""
        none = np.zeros(len(item))
        rated = (none if ratings is None else ratings, none if rating_total is None else rating_total)
        sums = (events, positives, total, *rated)
        days, where = np.unique(day, return_inverse=True)
        item = np.concatenate([np.zeros(len(days), np.int32), item])
        values = [np.concatenate([np.bincount(where, v, minlength=len(days)), v.astype(np.float64)]) for v in sums]
        day = np.concatenate([days.astype(np.int32), day])
        order = np.lexsort((day, item))
        item, day = item[order], day[order]
        edges = np.flatnonzero(np.diff(item, prepend=-1, append=-1)).tolist()
        cumulative = [v[order] for v in values]
        # Item by item: a sum that runs on through all items would carry the rounding of one item's days into another's.
        for start, stop in pairwise(edges):
            for v in cumulative:
                np.cumsum(v[start:stop], out=v[start:stop])
        events, positives, total, ratings, rating_total = cumulative
        single = [c.astype(np.float32) for c in (events, positives, ratings)]
        return ItemStatistics(item, day, single[0], single[1], total, single[2], rating_total)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of schema.ITEM_STATISTICS."""
        return {name: getattr(self, f"{name}_K") for name in STATISTICS}

    def as_released(self) -> ItemStatistics:
        """These statistics for serving at later times: their windows end with their last day."""
        return replace(self, until=int(self.day_K.max(initial=0)) + 1)

    @cached_property
    def _key_K(self) -> NDArray[np.int64]:
        return self.item_K.astype(np.int64) * _DAYS + self.day_K

    def place(self, item_Q: NDArray[np.int32]) -> NDArray[np.int32]:
        """Column of each item in what `of_all` gives."""
        return np.minimum(item_Q, self._items).astype(np.int32)

    @cached_property
    def _items(self) -> int:
        return int(self.item_K.max(initial=0)) + 1

    def of_all(
        self, features: Callable[..., list[NDArray[np.float64]]], day: int, *, prior: float
    ) -> NDArray[np.float64]:
        """[F, items + 1]: `features` of every item as of `day`, which `is_late`; computed once. The last column is that of items that are not in the table.

        The endpoint asks for hardly anything else, and a look-up costs a hundredth of the searches.
        """
        key = features, min(day, self.until), prior
        if (found := self._of_all.get(key)) is None:
            item_I = np.arange(self._items + 1, dtype=np.int32)
            found = np.stack(features(item_I, np.full(len(item_I), key[1], np.int64), statistics=self, prior=prior))
            self._of_all[key] = found
        return found

    @cached_property
    def _of_all(self) -> dict[tuple[Callable[..., list[NDArray[np.float64]]], int, float], NDArray[np.float64]]:
        return {}

    def is_late(self, day: int) -> bool:
        """Whether `day` is the last one of statistics that are complete (the demo's clock starts there), or a later one."""
        return day >= self.until - 1

    def _find(self, item_Q: NDArray[np.int32], day_Q: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if not len(self.item_K):
            return np.zeros(len(item_Q), np.int64), np.zeros(len(item_Q), bool)
        row = np.searchsorted(self._key_K, item_Q.astype(np.int64) * _DAYS + day_Q, side="left") - 1
        known = (row >= 0) & (self.item_K[np.maximum(row, 0)] == item_Q)
        return np.maximum(row, 0), known

    def events(self, item_Q: NDArray[np.int32], day_Q: NDArray[np.int64]) -> NDArray[np.float64]:
        """Events of the item on days < day_Q."""
        row, known = self._find(item_Q, day_Q)
        return np.where(known, self.events_K[row], 0.0) if len(self.item_K) else np.zeros(len(item_Q))

    def positives(self, item_Q: NDArray[np.int32], day_Q: NDArray[np.int64]) -> NDArray[np.float64]:
        """Positive events of the item on days < day_Q (item 0: of all items)."""
        row, known = self._find(item_Q, day_Q)
        return np.where(known, self.positives_K[row], 0.0) if len(self.item_K) else np.zeros(len(item_Q))

    def window(self, item_Q: NDArray[np.int32], day_Q: NDArray[np.int64], *, days: int) -> NDArray[np.float64]:
        """Events of the item on the `days` days before day_Q (before `until` where day_Q is later)."""
        day_Q = np.minimum(day_Q, self.until)
        return self.events(item_Q, day_Q) - self.events(item_Q, day_Q - days)

    def like_rate(self, item_Q: NDArray[np.int32], day_Q: NDArray[np.int64], *, prior: float) -> NDArray[np.float64]:
        """Share of positive events, shrunk towards the share over all items with `prior` pseudo-events."""
        if not len(self.item_K):
            return np.full(len(item_Q), 0.5)
        row, known = self._find(item_Q, day_Q)
        all_row, all_known = self._find(np.zeros(len(item_Q), np.int32), day_Q)
        overall = np.where(all_known, (self.positives_K[all_row] + 1.0) / (self.events_K[all_row] + 2.0), 0.5)
        events = np.where(known, self.events_K[row], 0.0)
        positives = np.where(known, self.positives_K[row], 0.0)
        return (positives + prior * overall) / (events + prior)

    def mean_total(self, item_Q: NDArray[np.int32], day_Q: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean rating or spend per event, 0 where nothing is known."""
        if not len(self.item_K):
            return np.zeros(len(item_Q))
        row, known = self._find(item_Q, day_Q)
        return np.where(known, self.total_K[row] / np.maximum(self.events_K[row], 1.0), 0.0)

    def mean_rating(self, item_Q: NDArray[np.int32], day_Q: NDArray[np.int64], *, prior: float) -> NDArray[np.float64]:
        """Mean rating on days < day_Q, shrunk towards the mean over all items with `prior` pseudo-ratings; 0 where there is none."""
        if not len(self.item_K):
            return np.zeros(len(item_Q))
        row, known = self._find(item_Q, day_Q)
        all_row, all_known = self._find(np.zeros(len(item_Q), np.int32), day_Q)
        mean = self.rating_total_K[all_row] / np.maximum(self.ratings_K[all_row], 1.0)
        ratings = np.where(known, self.ratings_K[row], 0.0)
        total = np.where(known, self.rating_total_K[row], 0.0)
        return (total + prior * np.where(all_known, mean, 0.0)) / (ratings + prior)
