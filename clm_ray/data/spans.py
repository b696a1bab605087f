"""A user's history in spans of time: what is made of a span takes the memory of the span, however long the history is.

A span is a run of whole windows (windows.py). Windows are cut at context events: a question at t lies behind the windows that begin with an
event at or after t. So the span that begins with the window of the context event at t₁ and ends before that of the event at t₂ has the questions of
(t₁, t₂], and where many events share a moment all questions of that moment are in one span. Nearly every user has one span.

What looks further back than a span brings along what it needs: windows their tail, features the events within their reach, tokens the events and
the sum that the user's mean deviation is made of. What looks ahead (answers to what was shown, who comes back) is settled before, of the whole history.

Shape letters: N events of one user, M context events, T targets, R references, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.evaluation_sample import HeldOutOccasion
from clm_ray.data.occasions import Labelled, Targets
from clm_ray.data.windows import References
from clm_ray.features.history import History, reach_of
from clm_ray.features.spec import FeatureSource
from clm_ray.features.tokens import USER_MEAN_EVENTS, deviations_until
from clm_ray.schema import TRAIN, VALID

SPAN_EVENTS = 50_000
"""Events of a user from which on a span may end: it does with the window that the last of them is in."""
_BEGIN, _END = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass(frozen=True)
class Cut:
    """Where a span begins or ends: with context event `context` (0: the first), behind the questions at or before `time`."""

    context: int
    time: int


@dataclass(frozen=True)
class Span:
    """All that the windows of a span are made of. `events`: of its moments; `history`: what its features look at; `references`: of train and valid;
    `context`: from `lead` events before the first that a window holds, of which the tokens look back on, `first` context events of the user
    before that one; `deviations`: see `deviations_until`; `split_X`: see `TargetSource.found`."""

    events: Labelled
    history: History
    references: References
    context: History
    lead: int = 0
    first: int = 0
    deviations: float = 0.0
    split_X: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class SpanSums:
    """What a user's figures are made of, of one span: some 16 bytes per target. item_T, label_T, time_T: of its train targets; ratings: of those that
    have one; counts, positives, offsets (empty where all are 0): by split; later: first moment that is not train alone."""

    item_T: NDArray[np.int32]
    label_T: NDArray[np.float32]
    time_T: NDArray[np.int64]
    ratings: NDArray[np.float32]
    counts: tuple[int, ...]
    positives: tuple[float, ...]
    offsets: tuple[NDArray[np.float32], ...]
    later: int

    @staticmethod
    def of(targets: Targets, split_T: NDArray[np.int32], *, later: int) -> SpanSums:
        """`later`: see the class."""
        train = split_T == TRAIN
        offsets = [targets.offset_T[split_T == s] for s in (TRAIN, VALID)]
        return SpanSums(
            targets.item_T[train],
            targets.label_T[train],
            targets.time_T[train],
            targets.rating_T[train & ~np.isnan(targets.rating_T)],
            tuple(len(of) for of in offsets),
            tuple(float(targets.label_T[split_T == s].sum()) for s in (TRAIN, VALID)),
            tuple(of if of.any() else of[:0] for of in offsets),
            later,
        )

    @staticmethod
    def joined(parts: Sequence[SpanSums]) -> SpanSums:
        """Of a user's spans, in order: the same as of one span."""
        if len(parts) == 1:
            return parts[0]
        splits = (TRAIN, VALID)
        return SpanSums(
            np.concatenate([p.item_T for p in parts]),
            np.concatenate([p.label_T for p in parts]),
            np.concatenate([p.time_T for p in parts]),
            np.concatenate([p.ratings for p in parts]),
            tuple(sum(p.counts[s] for p in parts) for s in splits),
            tuple(sum(p.positives[s] for p in parts) for s in splits),
            tuple(_offsets([(p.offsets[s], p.counts[s]) for p in parts]) for s in splits),
            min(p.later for p in parts),
        )


def _offsets(parts: Sequence[tuple[NDArray[np.float32], int]]) -> NDArray[np.float32]:
    """All of them with their zeros, unless there is nothing else: what a sum of floats is to the last bit hangs on where each of them stands."""
    if not any(len(offset_T) for offset_T, _ in parts):
        return np.empty(0, np.float32)
    return np.concatenate([offset_T if len(offset_T) else np.zeros(count, np.float32) for offset_T, count in parts])


@dataclass(frozen=True)
class SpanPart:
    """What a span adds to its bucket's result beside rows. `shown`: rows of test impressions, and the positive ones among them."""

    sums: SpanSums
    reference_dense_RF: NDArray[np.float32]
    test_occasions: list[HeldOutOccasion]
    shown: tuple[float, float]
    asked: int
    left_out: int


@dataclass(frozen=True)
class SpanRows:
    """Rows that a span adds to its bucket: of schema.SEQUENCES, and of schema.IMPRESSIONS."""

    windows: list[dict[str, Any]] = field(default_factory=list)
    impressions: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def joined(parts: Sequence[SpanRows]) -> SpanRows:
        """Those of several spans."""
        return SpanRows([row for p in parts for row in p.windows], [row for p in parts for row in p.impressions])


def cuts_of(time_N: NDArray[np.int64], context_time_M: NDArray[np.int64], *, body: int, events: int) -> list[Cut]:
    """The begin and end of every span of a user with events at `time_N`, one behind the other: two cuts are one span."""
    edges = np.arange(body, len(context_time_M), body)
    behind = np.searchsorted(time_N, context_time_M[edges], side="right")
    found, since = [Cut(0, _BEGIN)], 0
    for edge, count in zip(edges.tolist(), behind.tolist(), strict=True):
        if count - since >= events:
            found.append(Cut(edge, int(context_time_M[edge])))
            since = count
    return [*found, Cut(len(context_time_M), _END)]


@dataclass(frozen=True)
class SpanSource:
    """Makes the spans of users."""

    recipe: Recipe
    source: FeatureSource

    def whole(self, events: Labelled, references: References) -> Span:
        """A user in one span."""
        history = events.history
        return Span(events, history, references, history.select(self.source.vocabulary.is_context(history)))

    def parts(self, events: Labelled, cuts: Sequence[Cut]) -> list[Labelled]:
        """The events of each span."""
        at = np.searchsorted(events.history.time_N, [cut.time for cut in cuts], side="right").tolist()
        return [events.slice(start, stop) for start, stop in pairwise(at)]

    def spans(
        self, events: Labelled, references: References, cuts: Sequence[Cut], splits: Sequence[NDArray[np.int32]]
    ) -> Iterator[Span]:
        """A user span by span. `splits`: of each span's rows where they hang together, else empty."""
        vocabulary = self.source.vocabulary
        seen = events.history.select(vocabulary.counts(events.history))
        context = events.history.select(vocabulary.is_context(events.history))
        first = [max(0, cut.context - self.recipe.sequences.max_context) for cut in cuts[:-1]]
        # As many events more as the tokens of the first one look back on: all of its moment, those of the mean, and one before them.
        moment = np.searchsorted(context.time_N, context.time_N[first], side="left")
        begin = [max(0, int(place) - USER_MEAN_EVENTS - 1) for place in moment]
        deviations = deviations_until(
            context,
            begin,
            statistics=self.source.statistics,
            vocabulary=vocabulary,
            prior=self.recipe.features.prior_strength,
        )
        for n, (low, high) in enumerate(pairwise(cuts)):
            start, stop = np.searchsorted(events.history.time_N, [low.time, high.time], side="right").tolist()
            yield Span(
                events.slice(start, stop),
                self._within_reach(seen, low.time, high.time),
                references.select((references.time_R > low.time) & (references.time_R <= high.time)),
                context.slice(begin[n], high.context),
                lead=first[n] - begin[n],
                first=first[n],
                deviations=deviations[n],
                split_X=splits[n] if splits else None,
            )

    def _within_reach(self, seen: History, low: int, high: int) -> History:
        """Of the events that features look at, those that they may see at a moment of (low, high]."""
        reach = self.recipe.features.max_history
        start = 0 if low == _BEGIN else int(reach_of(seen.time_N, np.array([low + 1]), reach)[0])
        return seen.slice(start, int(np.searchsorted(seen.time_N, high, side="left")))
