"""The whole histories of users, from the events of a dataset, a bucket at a time; windows in the order of their files need each bucket once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from clm_ray.config.recipe import Recipe
from clm_ray.data.buckets import hash_of, part
from clm_ray.data.user_events import HISTORY, histories_of
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import EMPTY, History

_BUCKETS_KEPT = 4


@dataclass
class Histories:
    """Of the folder `events` of a dataset. Keeps the buckets that were asked last."""

    events: Path
    buckets: int
    vocabulary: EventVocabulary
    _kept: dict[int, dict[str, History]] = field(default_factory=dict)

    @staticmethod
    def of(dataset: Path, recipe: Recipe) -> Histories:
        """Of an opened dataset."""
        return Histories(dataset / "events", recipe.sequences.buckets, EventVocabulary(recipe.event_types))

    def of_user(self, user: str) -> History:
        """Everything in the log about a user, oldest first."""
        bucket = hash_of(user) % self.buckets
        if bucket not in self._kept:
            if len(self._kept) >= _BUCKETS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            events = pq.read_table(self.events / part(bucket), columns=HISTORY)
            self._kept[bucket] = histories_of(events, self.vocabulary)
        return self._kept[bucket].get(user, EMPTY)
