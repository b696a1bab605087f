"""Item-to-item collaborative filtering: what the user thought of the neighbours of an item.

Neighbours are built per slice of time (`data/neighbours.py`); a query at time t reads the last slice that closed at or before t, which
holds events strictly before its end. The user's own events are those strictly before t.

Shape letters: S slices, E (slice, item, neighbour) entries, N events of all users, Q questions, H hits (question, neighbour the user knows).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.asked import Asked
from clm_ray.features.event_index import EventIndex
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History

RELATIONS = ("surprise", "choice")
"""surprise: items that make the same users happier (or less happy) than expected. choice: items that the same users choose (or reject)."""

NEIGHBOUR_FEATURES = (
    "neighbour_surprise",
    "neighbour_surprise_sum",
    "neighbour_surprise_log_weight",
    "neighbour_choice",
    "neighbour_choice_log_weight",
    "neighbour_choice_recent",
)
"""Names of the columns of `neighbour_features`."""

_HALF_LIFE_DAYS = 28.0
"""Age at which a chosen neighbour counts half in `neighbour_choice_recent`."""
_ITEM_BITS = 32


@dataclass(frozen=True)
class Neighbours:
    """Entries of one relation, sorted by (slice, item, neighbour)."""

    slice_E: NDArray[np.int32]
    item_E: NDArray[np.int32]
    neighbour_E: NDArray[np.int32]
    similarity_E: NDArray[np.float32]

    @property
    def is_sorted(self) -> bool:
        """Whether the entries are in the order of (slice, item, neighbour)."""
        step_E = np.diff(self._key_E)
        within_E = np.diff(self.neighbour_E) > 0
        return bool(((step_E > 0) | ((step_E == 0) & within_E)).all())

    def take(self, order_E: NDArray[np.int64]) -> Neighbours:
        """The entries in another order."""
        return Neighbours(
            self.slice_E[order_E], self.item_E[order_E], self.neighbour_E[order_E], self.similarity_E[order_E]
        )

    @cached_property
    def _key_E(self) -> NDArray[np.int64]:
        return (self.slice_E.astype(np.int64) << _ITEM_BITS) | self.item_E

    def explode(
        self, slice_Q: NDArray[np.int64], item_Q: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """(query, neighbour, similarity) of every neighbour of every query's item in its slice; no slice (-1) has none."""
        key_Q = (slice_Q << _ITEM_BITS) | item_Q
        low = np.searchsorted(self._key_E, key_Q, side="left")
        count = np.where(slice_Q >= 0, np.searchsorted(self._key_E, key_Q, side="right") - low, 0)
        query = np.repeat(np.arange(len(item_Q)), count)
        first = np.cumsum(count) - count
        at = np.arange(len(query)) - np.repeat(first - low, count)
        return query, self.neighbour_E[at], self.similarity_E[at]


@dataclass(frozen=True)
class ItemNeighbours:
    """Both relations. `end_S`: when each slice closed, UTC microseconds, rising."""

    end_S: NDArray[np.int64]
    surprise: Neighbours
    choice: Neighbours

    @staticmethod
    def from_rows(
        relation: NDArray[np.int8],
        end: NDArray[np.int64],
        item: NDArray[np.int32],
        neighbour: NDArray[np.int32],
        similarity: NDArray[np.float32],
    ) -> ItemNeighbours:
        """From the columns of schema.NEIGHBOURS, in any order (fast where they are sorted, as datasets have them). `relation`: position in
        RELATIONS."""
        ends = np.unique(end[np.flatnonzero(np.diff(end, prepend=end[:1] - 1))])  # of each run of equal ones the first

        def of(which: int) -> Neighbours:
            mine = np.flatnonzero(relation == which)
            found = Neighbours(
                np.searchsorted(ends, end[mine]).astype(np.int32), item[mine], neighbour[mine], similarity[mine]
            )
            return (
                found if found.is_sorted else found.take(np.lexsort((found.neighbour_E, found.item_E, found.slice_E)))
            )

        return ItemNeighbours(ends, of(0), of(1))

    def slice_of(self, time_Q: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position of the last slice closed at or before each moment; -1 where there is none."""
        return np.searchsorted(self.end_S, time_Q, side="right") - 1


_NONE = np.empty(0, np.int32)
NO_NEIGHBOURS = ItemNeighbours.from_rows(
    _NONE.astype(np.int8), _NONE.astype(np.int64), _NONE, _NONE, _NONE.astype(np.float32)
)
"""No slice at all: every feature is 0."""


def tastes(choice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Likes less dislikes of an item, damped: the tenth purchase says less than the first."""
    return np.sign(choice) * np.log2(1.0 + np.abs(choice))


def choices(history: History, *, vocabulary: EventVocabulary) -> NDArray[np.float32]:
    """float32_N: 1 for a positive event, -1 for a negative one, 0 without a label."""
    return np.nan_to_num(2.0 * vocabulary.labels(history) - 1.0)


def neighbour_features(
    asked: Asked,
    item_Q: NDArray[np.int32],
    *,
    neighbours: ItemNeighbours,
    vocabulary: EventVocabulary,
    surprise_N: NDArray[np.float32],
) -> NDArray[np.float32]:
    """float32 [Q, len(NEIGHBOUR_FEATURES)]; `surprise_N` from `tokens.surprises`.

    The similarity-weighted mean of the user's opinions of the item's neighbours (Sarwar et al., 2001), over residuals as in
    Koren (2010), and over choices as in item-based top-N recommendation (Deshpande & Karypis, 2004).
    """
    out = np.zeros((len(item_Q), len(NEIGHBOUR_FEATURES)), np.float32)
    history = asked.history
    position = np.flatnonzero(~np.isnan(vocabulary.labels(history)))
    if not len(neighbours.end_S) or not len(position) or not len(item_Q):
        return out
    opinions = _Opinions.build(asked, position, surprise_N, choices(history, vocabulary=vocabulary))
    slice_Q = neighbours.slice_of(asked.time_Q)
    query, similarity, count, sums, _ = opinions.hits(neighbours.surprise, asked, item_Q, slice_Q)
    weight = np.bincount(query, np.abs(similarity), len(item_Q))
    opinion = np.bincount(query, similarity * sums[:, 0] / count, len(item_Q))
    out[:, 0], out[:, 1], out[:, 2] = opinion / (weight + 1.0), opinion, np.log1p(weight)
    query, similarity, _, sums, since = opinions.hits(neighbours.choice, asked, item_Q, slice_Q)
    taste = similarity * tastes(sums[:, 1])
    weight = np.bincount(query, np.abs(similarity), len(item_Q))
    out[:, 3] = np.bincount(query, taste, len(item_Q)) / (weight + 1.0)
    out[:, 4] = np.log1p(weight)
    out[:, 5] = np.bincount(query, taste * 0.5 ** (since / _HALF_LIFE_DAYS), len(item_Q))
    return out


@dataclass(frozen=True)
class _Opinions:
    """What users thought of items. ever: (user, item) as one number → whether there is an opinion at all."""

    index: EventIndex
    items: int
    ever: NDArray[np.bool_]

    @staticmethod
    def build(
        asked: Asked, position: NDArray[np.int64], surprise_N: NDArray[np.float32], choice_N: NDArray[np.float32]
    ) -> _Opinions:
        history, owner = asked.history, asked.joined.owner_N[position]
        known = history.item_N[position]
        items = int(known.max(initial=0)) + 2
        ever = np.zeros(asked.joined.users * items, bool)
        ever[owner * items + known] = True
        return _Opinions(EventIndex.build(owner, known, position, history.time_N, surprise_N, choice_N), items, ever)

    def hits(
        self, relation: Neighbours, asked: Asked, item_Q: NDArray[np.int32], slice_Q: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """(question, similarity, events, sums, days since the last one) of the neighbours that the user had an opinion of by then."""
        query, neighbour, similarity = relation.explode(slice_Q, item_Q)
        keep = self.ever[asked.owner_Q[query] * self.items + np.minimum(neighbour, self.items - 1)]
        query, neighbour, similarity = query[keep], neighbour[keep], similarity[keep]
        found = self.index.query(asked.owner_Q[query], neighbour, asked.before_Q[query], asked.time_Q[query])
        keep = found.count > 0
        return query[keep], similarity[keep], found.count[keep], found.sums[keep], found.since_days[keep]
