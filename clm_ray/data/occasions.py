"""Click targets of one user: which items were shown at which moment, and which were taken.

An occasion is one user at one moment. Where it comes from decides its candidates:

- explicit: every labelled event is a target; an impression is positive when it was answered in time (`attribution`).
- availability: the candidates are what was on offer in the events' slot; taken = positive. Negatives are sampled.
- popularity: only positives are known; the candidates are the items with an event on a day before, of which negatives are drawn
  by popularity^alpha. A positive that no draw could have given is no target: it would teach that new items are always taken.
- decision: a slate that the endpoint served; every item of it is a target as of the slate's moment, taken in time or not.

The number of sampled negatives does not depend on the outcome, so the offset -log(kept share) corrects the logits exactly.

Shape letters: N events of one user, T targets, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.data import ImpressionsConfig
from clm_ray.data.attribution import attribute
from clm_ray.data.buckets import hash_of
from clm_ray.data.popularity import PopularityDraw
from clm_ray.data.slots import SlotTable, members
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.schema import HOUR_US, slate_slot


@dataclass(frozen=True)
class Occasion:
    """One user at one moment. `shown_C`: every candidate (rows), None where the log does not say; `taken`: positive rows among
    them; `chosen`: all positive rows of the moment, on offer or not (the basket as it was); `slot`: where the candidates stand;
    `labels_C`, `weights_C`, `ratings_C` (NaN: none): of each candidate, where the log has them (negatives explicit)."""

    time: int
    kind: str
    taken: NDArray[np.int32]
    chosen: NDArray[np.int32]
    shown_C: NDArray[np.int32] | None
    weight: float
    labels_C: NDArray[np.float32] | None = None
    weights_C: NDArray[np.float32] | None = None
    ratings_C: NDArray[np.float32] | None = None
    slot: str | None = None
    final_C: NDArray[np.int64] | None = None
    """The moment from which the label of each candidate is known, µs; None: from `time` on."""


@dataclass(frozen=True)
class Targets:
    """Train and valid targets of one user, in time order. `rating_T`: NaN where the target has none."""

    item_T: NDArray[np.int32]
    label_T: NDArray[np.float32]
    weight_T: NDArray[np.float32]
    offset_T: NDArray[np.float32]
    time_T: NDArray[np.int64]
    rating_T: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.item_T)


TARGET_FIELDS = tuple(field.name for field in fields(Targets))
"""Names of the arrays of `Targets`."""


@dataclass(frozen=True)
class UserEvents:
    """One user's rows as the occasions need them; the string columns are object arrays with None for null."""

    user_id: str
    history: History
    slot_N: NDArray[np.object_]
    decision_N: NDArray[np.object_]


@dataclass(frozen=True)
class OccasionSource:
    """Finds the occasions of a user and samples their targets."""

    config: ImpressionsConfig
    vocabulary: EventVocabulary
    slots: SlotTable
    popularity: PopularityDraw
    impression_code: int | None
    seed: int

    def occasions(self, user: UserEvents) -> list[Occasion]:
        """All occasions in time order."""
        history = user.history
        label_N = self.vocabulary.labels(history)
        answers_N = self._answers(user)
        found = list(self._decisions(user, np.where(answers_N, label_N, np.nan)))
        label_N = np.where(answers_N, np.float32(np.nan), label_N)
        if self.config.negatives == "explicit":
            found += self._explicit(history, label_N)
        else:
            found += self._positive(user, label_N)
        return sorted(found, key=lambda o: (o.time, o.kind))

    @property
    def window_us(self) -> int:
        """How long after a slate or an impression an answer counts, µs; 0: however late."""
        return int((self.config.attribution_hours or 0.0) * HOUR_US)

    def _answers(self, user: UserEvents) -> NDArray[np.bool_]:
        """bool_N: the event answers a slate that the log has, in time. One that comes later stands for itself."""
        named = np.flatnonzero([d is not None and self.slots.items(slate_slot(d)) is not None for d in user.decision_N])
        time_N = user.history.time_N
        shown = {user.decision_N[n]: int(time_N[n]) for n in named if user.history.event_N[n] == self.impression_code}
        answers_N = np.zeros(len(user.history), bool)
        for n in named.tolist():
            since = int(time_N[n]) - shown.get(user.decision_N[n], int(time_N[n]))
            answers_N[n] = since >= 0 and (not self.window_us or since < self.window_us)
        return answers_N

    def _decisions(self, user: UserEvents, label_N: NDArray[np.float32]) -> Iterator[Occasion]:
        history = user.history
        if self.impression_code is None:
            return
        for n in np.flatnonzero(history.event_N == self.impression_code):
            decision = user.decision_N[n]
            slate = self.slots.items(slate_slot(decision)) if decision is not None else None
            if slate is None or not len(slate):
                continue
            answers = (user.decision_N == decision) & (label_N == 1.0)
            taken = np.unique(history.item_N[answers])
            taken = taken[members(taken, slate)]
            time = int(history.time_N[n])
            final_C = np.full(len(slate), time + self.window_us)
            found = Occasion(time, "decision", taken, taken, slate, 1.0, slot=slate_slot(decision), final_C=final_C)
            if self.config.negatives == "explicit":
                # Every row of the log is a target then, and each has a split of its own.
                labels = np.isin(slate, taken).astype(np.float32)
                found = replace(found, labels_C=labels, weights_C=np.ones(len(slate), np.float32))
            yield found

    def _explicit(self, history: History, label_N: NDArray[np.float32]) -> Iterator[Occasion]:
        attributed = attribute(history, label_N, self.vocabulary, window_us=self.window_us)
        label_N, weight_N = attributed.label_N, attributed.weight_N
        where = np.flatnonzero(~np.isnan(label_N))
        rating_N = self.vocabulary.ratings(history)
        for group in _runs(history.time_N[where]):
            at = where[group]
            items, labels, weights = history.item_N[at], label_N[at], weight_N[at]
            taken = items[labels == 1]
            yield Occasion(
                int(history.time_N[at[0]]),
                "explicit",
                taken,
                taken,
                items,
                float(weights[0]),
                labels,
                weights,
                rating_N[at],
                final_C=attributed.final_N[at],
            )

    def _positive(self, user: UserEvents, label_N: NDArray[np.float32]) -> Iterator[Occasion]:
        history = user.history
        where = np.flatnonzero(label_N == 1.0)
        for group in _runs(history.time_N[where]):
            at = where[group]
            items = np.unique(history.item_N[at])
            weight = float(self.vocabulary.weights[history.event_N[at[0]]])
            time = int(history.time_N[at[0]])
            if self.config.negatives == "popularity":
                taken = items[members(items, self.popularity.known(time))]
                yield Occasion(time, "popularity", taken, items, None, weight)
                continue
            shown = self.slots.items(user.slot_N[at[0]])
            if shown is not None and len(shown):
                yield Occasion(
                    time, "availability", items[members(items, shown)], items, shown, weight, slot=user.slot_N[at[0]]
                )

    def targets(self, user: UserEvents, occasions: Sequence[Occasion]) -> Targets:
        """Sampled targets of the occasions (train and valid)."""
        parts = [self.sampled(user.user_id, occasion) for occasion in occasions]
        parts = [p for p in parts if len(p)]
        if not parts:
            empty = np.empty(0, np.float32)
            return Targets(np.empty(0, np.int32), empty, empty, empty, np.empty(0, np.int64), empty)
        return Targets(*(np.concatenate([getattr(p, name) for p in parts]) for name in TARGET_FIELDS))

    def sampled(self, user_id: str, occasion: Occasion) -> Targets:
        """Sampled targets of one occasion."""
        if occasion.labels_C is not None and occasion.weights_C is not None and occasion.shown_C is not None:
            return _targets(
                occasion.time, occasion.shown_C, occasion.labels_C, occasion.weights_C, 0.0, occasion.ratings_C
            )
        rng = np.random.default_rng([self.seed, hash_of(user_id), occasion.time])
        taken, weight = occasion.taken, occasion.weight
        scale = 1.0
        if occasion.kind != "decision" and len(taken) > self.config.positives_per_occasion:
            scale = len(taken) / self.config.positives_per_occasion
            taken = rng.choice(taken, self.config.positives_per_occasion, replace=False)
        if occasion.shown_C is None:
            others, offset = self.drawn(occasion, count=self.config.per_occasion, rng=rng), 0.0
        else:
            others = np.delete(occasion.shown_C, np.searchsorted(occasion.shown_C, occasion.taken))
            offset = 0.0
            if occasion.kind != "decision" and len(others) > self.config.per_occasion:
                offset = -float(np.log(self.config.per_occasion / len(others)))
                others = rng.choice(others, self.config.per_occasion, replace=False)
        items = np.concatenate([taken, others]).astype(np.int32)
        labels = np.concatenate([np.ones(len(taken)), np.zeros(len(others))]).astype(np.float32)
        weights = np.where(labels == 1, weight * scale, weight)
        return _targets(occasion.time, items, labels, weights, offset)

    def drawn(self, occasion: Occasion, *, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """`count` distinct items not taken, by popularity^alpha as of the day before (fewer where fewer are known)."""
        return self.popularity.draw(occasion.time, count=count, but=occasion.taken, rng=rng)

    def positives(self, user: UserEvents) -> int:
        """Positive (moment, item) pairs in the user's log: what the occasions ask about at most."""
        history = user.history
        liked = self.vocabulary.labels(history) == 1.0
        return len(set(zip(history.time_N[liked].tolist(), history.item_N[liked].tolist(), strict=True)))


def _targets(
    time: int,
    items: NDArray[np.int32],
    labels: NDArray[np.float32],
    weight: NDArray[np.float64] | NDArray[np.float32],
    offset: float,
    rating: NDArray[np.float32] | None = None,
) -> Targets:
    count = len(items)
    return Targets(
        items.astype(np.int32),
        labels.astype(np.float32),
        weight.astype(np.float32),
        np.full(count, offset, np.float32),
        np.full(count, time, np.int64),
        np.full(count, np.nan, np.float32) if rating is None else rating.astype(np.float32),
    )


def _runs(times: NDArray[np.int64]) -> Iterator[slice]:
    edges = np.flatnonzero(np.diff(times)) + 1
    starts, stops = np.r_[0, edges], np.r_[edges, len(times)]
    if len(times):
        for start, stop in zip(starts, stops, strict=True):
            yield slice(int(start), int(stop))
