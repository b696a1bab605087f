"""Click targets of one user: which items were shown at which moment, and which were taken.

An occasion is one user at one moment. Where it comes from decides its candidates:

- explicit: every labelled event is a target; an impression is positive when it was answered in time (`attribution`).
- availability: the candidates are what was on offer in the events' slot; taken = positive. Negatives are sampled.
- popularity: only positives are known; the candidates are the items with an event on a day before, of which negatives are drawn
  by popularity^alpha (`PopularityDraw`). A positive that no draw could have given is no target: it would teach that new items are always taken.
  The offset is each item's own. Without it a popular item, which is drawn more often, would have to be taken more often for the same logit.
- decision: a slate that the endpoint served; every item of it is a target as of the slate's moment, taken in time or not.

The share of negatives that is kept does not depend on the outcome, so the offset -log(kept share) corrects the logits exactly.

An occasion is made of the events of its moment, so a part of a user's events gives the occasions of that part; what reaches further (answers, however late)
is settled before, in `Labelled`.

Shape letters: N events of one user, T targets, C candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.data import ImpressionsConfig
from clm_ray.data.attribution import attribute
from clm_ray.data.buckets import hash_of
from clm_ray.data.popularity import PopularityDraw
from clm_ray.data.slots import SlotTable, members
from clm_ray.data.user_events import UserEvents
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
    offset: float = 0.0
    """Logit offset of the candidates as they are ranked in the test split."""


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
_NO_ITEMS = np.empty(0, np.int32)
_NOTHING = np.empty(0, np.float32)
NO_TARGETS = Targets(_NO_ITEMS, _NOTHING, _NOTHING, _NOTHING, np.empty(0, np.int64), _NOTHING)


@dataclass(frozen=True)
class Taken:
    """Items taken in answer to a slate, rising; `time_A`: of the first answer with each of them, µs. A: items."""

    item_A: NDArray[np.int32]
    time_A: NDArray[np.int64]

    @staticmethod
    def of(item_N: NDArray[np.int32], time_N: NDArray[np.int64]) -> Taken:
        """From the answers, in time order."""
        item_A, first_A = np.unique(item_N, return_index=True)
        return Taken(item_A, time_N[first_A])

    def before(self, end_C: NDArray[np.int64], shown_C: NDArray[np.int32]) -> Taken:
        """What was taken of a slate before the end given for each of its items (which rise)."""
        kept = members(self.item_A, shown_C)
        kept[kept] = self.time_A[kept] < end_C[np.searchsorted(shown_C, self.item_A[kept])]
        return Taken(self.item_A[kept], self.time_A[kept])


@dataclass(frozen=True)
class Labelled:
    """Some of a user's events with all that their occasions are made of, as the user's whole history says it. `label_N`: NaN where the event
    is no target of its own; `weight_N`, `final_N`: see `Attributed`; `taken`: by slate, what was taken in answer to it."""

    user_id: str
    history: History
    slot_N: NDArray[np.object_]
    decision_N: NDArray[np.object_]
    label_N: NDArray[np.float32]
    weight_N: NDArray[np.float32]
    final_N: NDArray[np.int64]
    taken: Mapping[str, Taken]

    def slice(self, start: int, stop: int) -> Labelled:
        """Events start ≤ n < stop: of them come the occasions of these moments, if no moment is cut in two."""
        cut = slice(start, stop)
        slates = {decision for decision in self.decision_N[cut] if decision in self.taken} if self.taken else set()
        return Labelled(
            self.user_id,
            self.history.slice(start, stop),
            self.slot_N[cut],
            self.decision_N[cut],
            self.label_N[cut],
            self.weight_N[cut],
            self.final_N[cut],
            {decision: self.taken[decision] for decision in sorted(slates)},
        )


@dataclass(frozen=True)
class OccasionSource:
    """Finds the occasions of a user and samples their targets."""

    config: ImpressionsConfig
    vocabulary: EventVocabulary
    slots: SlotTable
    popularity: PopularityDraw
    impression_code: int | None
    seed: int

    def labelled(self, user: UserEvents) -> Labelled:
        """The user's events with their labels: answers belong to what was shown before, however long before."""
        history = user.history
        label_N = self.vocabulary.labels(history)
        answers_N = self._answers(user)
        taken = self._taken(user, answers_N & (label_N == 1.0))
        label_N = np.where(answers_N, np.float32(np.nan), label_N)
        weight_N, final_N = self.vocabulary.weights[history.event_N], history.time_N
        if self.config.negatives == "explicit":
            found = attribute(history, label_N, self.vocabulary, window_us=self.window_us)
            label_N, weight_N, final_N = found.label_N, found.weight_N, found.final_N
        return Labelled(user.user_id, history, user.slot_N, user.decision_N, label_N, weight_N, final_N, taken)

    def occasions(self, events: Labelled) -> list[Occasion]:
        """All occasions of these events, in time order."""
        found = list(self.slates(events))
        found += self._explicit(events) if self.config.negatives == "explicit" else self._positive(events)
        return sorted(found, key=lambda o: (o.time, o.kind))

    @property
    def window_us(self) -> int:
        """How long after a slate or an impression an answer counts, µs; 0: for slates until their split ends (`TargetSource.labelled`)."""
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

    @staticmethod
    def _taken(user: UserEvents, answers_N: NDArray[np.bool_]) -> dict[str, Taken]:
        """By slate, what the answers to it took."""
        found: dict[str, list[int]] = defaultdict(list)
        for n in np.flatnonzero(answers_N).tolist():
            found[user.decision_N[n]].append(n)
        history = user.history
        return {decision: Taken.of(history.item_N[at], history.time_N[at]) for decision, at in found.items()}

    def slates(self, events: Labelled) -> Iterator[Occasion]:
        """The occasions of the slates that the endpoint served."""
        history = events.history
        if self.impression_code is None:
            return
        for n in np.flatnonzero(history.event_N == self.impression_code):
            decision = events.decision_N[n]
            slate = self.slots.items(slate_slot(decision)) if decision is not None else None
            if slate is None or not len(slate):
                continue
            answered = events.taken.get(decision)
            taken = _NO_ITEMS if answered is None else answered.item_A[members(answered.item_A, slate)]
            time = int(history.time_N[n])
            final_C = np.full(len(slate), time + self.window_us)
            found = Occasion(time, "decision", taken, taken, slate, 1.0, slot=slate_slot(decision), final_C=final_C)
            if self.config.negatives == "explicit":
                # Every row of the log is a target then, and each has a split of its own.
                labels = np.isin(slate, taken).astype(np.float32)
                found = replace(found, labels_C=labels, weights_C=np.ones(len(slate), np.float32))
            yield found

    def _explicit(self, events: Labelled) -> Iterator[Occasion]:
        history = events.history
        where = np.flatnonzero(~np.isnan(events.label_N))
        rating_N = self.vocabulary.ratings(history)
        for group in _runs(history.time_N[where]):
            at = where[group]
            items, labels, weights = history.item_N[at], events.label_N[at], events.weight_N[at]
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
                final_C=events.final_N[at],
            )

    def _positive(self, events: Labelled) -> Iterator[Occasion]:
        history = events.history
        where = np.flatnonzero(events.label_N == 1.0)
        for group in _runs(history.time_N[where]):
            at = where[group]
            items = np.unique(history.item_N[at])
            weight = float(events.weight_N[at[0]])
            time = int(history.time_N[at[0]])
            if self.config.negatives == "popularity":
                taken = items[members(items, self.popularity.known(time))]
                yield Occasion(time, "popularity", taken, items, None, weight)
                continue
            slot = events.slot_N[at[0]]
            shown = self.slots.items(slot)
            if shown is not None and len(shown):
                yield Occasion(time, "availability", items[members(items, shown)], items, shown, weight, slot=slot)

    def sampled(self, user_id: str, occasion: Occasion) -> Targets:
        """Sampled targets of one occasion."""
        if occasion.labels_C is not None and occasion.weights_C is not None and occasion.shown_C is not None:
            return _targets(
                occasion.time, occasion.shown_C, occasion.labels_C, occasion.weights_C, 0.0, occasion.ratings_C
            )
        rng = np.random.default_rng([self.seed, hash_of(user_id), occasion.time])
        taken, weight = occasion.taken, occasion.weight
        scale, offset = 1.0, 0.0
        if occasion.kind != "decision" and len(taken) > self.config.positives_per_occasion:
            scale = len(taken) / self.config.positives_per_occasion
            taken = rng.choice(taken, self.config.positives_per_occasion, replace=False)
        if occasion.shown_C is None:
            others = self.popularity.draw(occasion.time, but=occasion.taken, rng=rng)
        else:
            others = np.delete(occasion.shown_C, np.searchsorted(occasion.shown_C, occasion.taken))
            if occasion.kind != "decision" and len(others) > self.config.per_occasion:
                offset = -float(np.log(self.config.per_occasion / len(others)))
                others = rng.choice(others, self.config.per_occasion, replace=False)
        items = np.concatenate([taken, others]).astype(np.int32)
        labels = np.concatenate([np.ones(len(taken)), np.zeros(len(others))]).astype(np.float32)
        weights = np.where(labels == 1, weight * scale, weight)
        if occasion.shown_C is None:
            return _targets(occasion.time, items, labels, weights, self.popularity.offsets(occasion.time, items))
        return _targets(occasion.time, items, labels, weights, offset)

    def positives(self, user: UserEvents) -> int:
        """Positive (moment, item) pairs in the user's log: what the occasions ask about at most."""
        history = user.history
        liked = self.vocabulary.labels(history) == 1.0
        time, item = history.time_N[liked], history.item_N[liked]
        order = np.lexsort((item, time))
        again = (np.diff(time[order]) == 0) & (np.diff(item[order]) == 0)
        return len(time) - int(again.sum())


def _targets(
    time: int,
    items: NDArray[np.int32],
    labels: NDArray[np.float32],
    weight: NDArray[np.float64] | NDArray[np.float32],
    offset: float | NDArray[np.float64],
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
