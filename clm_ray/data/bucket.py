"""Build everything about the users of one bucket: sequences, impressions, references, interactions.

This is the vectorised Arrow function that Ray Data runs once per block; it sees whole users. The rows of a user with very many events are made
span by span (spans.py), wherever `Run` has them made.

Shape letters: N events of one user, T targets, R references, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.buckets import hash_of
from clm_ray.data.columns import encoded
from clm_ray.data.evaluation_sample import drawn
from clm_ray.data.feature_sample import SAMPLE_PER_USER, SampledUser
from clm_ray.data.occasions import OccasionSource
from clm_ray.data.references import ReferenceSource, test_rows
from clm_ray.data.spans import SPAN_EVENTS, Span, SpanPart, SpanRows, SpanSource, SpanSums, cuts_of
from clm_ray.data.splits import SplitPlan
from clm_ray.data.tally import Tally
from clm_ray.data.target_rows import FoundTargets, TargetSource
from clm_ray.data.user_events import UserEvents, history_of_all, users_of
from clm_ray.data.windows import References, cut_windows
from clm_ray.features.asked import Joined
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSource
from clm_ray.features.tokens import token_values
from clm_ray.lifecycle.stages import active_day_gaps
from clm_ray.schema import TEST, TRAIN

_GROUP_EVENTS, _GROUP_USERS = 20_000, 500
"""Bounds of the users whose features are computed together."""

Run = Callable[[Iterator[Span]], Iterator[tuple[SpanPart, SpanRows]]]
"""Has spans made (`BucketBuilder.span`), and gives what they gave in their order; without their rows, where it has put them elsewhere."""
Rows = Callable[[SpanRows], None]
"""Takes rows, in their order."""
DenseOf = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Features of the train targets at these places, rising."""


@dataclass(frozen=True)
class Made:
    """What was made of a span. dense_TF, split_T: of its targets."""

    part: SpanPart
    rows: SpanRows
    dense_TF: NDArray[np.float32]
    split_T: NDArray[np.int32]

    def train_rows(self, some: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of the train targets at these places."""
        return self.dense_TF[np.flatnonzero(self.split_T == TRAIN)[some]]


@dataclass(frozen=True)
class BucketBuilder:
    """Turns the events of whole users into dataset rows. Everything here is read-only and shared by all blocks. A user with more than
    `span_events` events may have several spans; what comes out is the same."""

    recipe: Recipe
    source: FeatureSource
    occasions: OccasionSource
    plan: SplitPlan
    grid_R: NDArray[np.int64]
    span_events: int = SPAN_EVENTS

    def build(self, events: pa.Table, *, take: Rows | None = None, run: Run | None = None) -> BucketResult:
        """`events`: schema.EVENTS plus `item`, sorted by user, time, event id, of whole users. Rows stand in the result where nobody takes them; spans
        are made one after the other where nobody runs them."""
        result = BucketResult()

        def add(rows: SpanRows) -> None:
            result.windows += rows.windows
            result.impressions += rows.impressions

        for users in _groups(users_of(events, self.source), apart=self.span_events):
            if not self._by_span(users[0], take or add, run or self._one_by_one, result):
                self._whole(users, take or add, result)
        result.test_occasions = drawn(result.test_occasions, self.recipe.impressions).all()
        result.sample = result.sample.bounded()
        result.gaps = self._gaps(events)
        return result

    def test_references(self, events: pa.Table) -> list[dict[str, Any]]:
        """Retention references of the test split (rows of schema.REFERENCES), which follow the end of the log; `events` as in `build`."""
        users = users_of(events, self.source)
        return [row for user in users for row in test_rows(user.user_id, self._references.of(user.history))]

    def span(self, span: Span) -> tuple[SpanPart, SpanRows]:
        """Everything of one of a user's spans. Of its test occasions those that no sample of more would leave out."""
        [made] = self._make([span])
        held = drawn(made.part.test_occasions, self.recipe.impressions).all()
        return replace(made.part, test_occasions=held), made.rows

    def _one_by_one(self, spans: Iterator[Span]) -> Iterator[tuple[SpanPart, SpanRows]]:
        return map(self.span, spans)

    def _gaps(self, events: pa.Table) -> Tally:
        """Gaps between active days of the train period, days."""
        user_N = encoded(events.column("user_id")).indices.to_numpy()
        history = history_of_all(events, self.source.vocabulary)
        counts_N = self.source.vocabulary.is_activity(history) & (history.time_N < self.plan.train_end)
        return Tally.of(active_day_gaps(history.time_N[counts_N], user_A=user_N[counts_N]))

    @cached_property
    def _targets(self) -> TargetSource:
        return TargetSource(self.recipe, self.occasions, self.plan, self.source.catalogue.ids)

    @cached_property
    def _references(self) -> ReferenceSource:
        return ReferenceSource(self.recipe, self.source.vocabulary, self.plan, self.grid_R)

    @cached_property
    def _spans(self) -> SpanSource:
        return SpanSource(self.recipe, self.source)

    def _whole(self, users: Sequence[UserEvents], take: Rows, result: BucketResult) -> None:
        """Users of one span each."""
        references = [self._references_of(user, result) for user in users]
        spans = [
            self._spans.whole(self._targets.labelled(user), of) for user, of in zip(users, references, strict=True)
        ]
        made = self._make(spans)
        take(SpanRows.joined([one.rows for one in made]))
        for one in made:
            self._add(one.part, result)
        for user, of, one in zip(users, references, made, strict=True):
            self._finish(user, one.part.sums, of, one.part.reference_dense_RF, one.train_rows, result)

    def _by_span(self, user: UserEvents, take: Rows, run: Run, result: BucketResult) -> bool:
        """One user span by span; False (and nothing is done) where there is but one span."""
        history = user.history
        if len(history) <= self.span_events:
            return False
        context_time = history.time_N[self.source.vocabulary.is_context(history)]
        cuts = cuts_of(history.time_N, context_time, body=self.recipe.sequences.body, events=self.span_events)
        if len(cuts) == 2:
            return False
        references = self._references_of(user, result)
        labelled = self._targets.labelled(user)
        hang = self._targets.splits_hang_together
        splits = self._targets.splits(self._spans.parts(labelled, cuts)) if hang else []
        parts = []
        for part, rows in run(self._spans.spans(labelled, references, cuts, splits)):
            take(rows)
            self._add(part, result)
            parts.append(replace(part, test_occasions=[]))
        sums = SpanSums.joined([part.sums for part in parts])

        def dense_of(some: NDArray[np.int64]) -> NDArray[np.float32]:
            # Which train targets are looked at hangs on how many there are: it is known once their features are gone.
            return self.source.click(history, sums.item_T[some], sums.time_T[some])

        reference_dense_RF = np.concatenate([part.reference_dense_RF for part in parts])
        self._finish(user, sums, references, reference_dense_RF, dense_of, result)
        return True

    def _make(self, spans: Sequence[Span]) -> list[Made]:
        """Spans together: features of all of them cost little more than those of one."""
        found = [self._targets.found(span.events, span.split_X) for span in spans]
        histories = [span.history for span in spans]
        targets = [f.targets for f in found]
        target = self.source.click_of_users(histories, [t.item_T for t in targets], [t.time_T for t in targets])
        reference = self.source.retention_of_users(histories, [span.references.time_R for span in spans])
        tokens = self._tokens(spans)
        return [self._made(*of) for of in zip(spans, found, tokens, target, reference, strict=True)]

    def _tokens(self, spans: Sequence[Span]) -> list[NDArray[np.float32]]:
        """Values of each span's context events, those looked back on left out."""
        contexts = [span.context for span in spans]
        token_NV = token_values(
            Joined.of(contexts),
            statistics=self.source.statistics,
            vocabulary=self.source.vocabulary,
            prior=self.recipe.features.prior_strength,
            deviations=spans[0].deviations if len(spans) == 1 else 0.0,
        )
        parts = np.split(token_NV, np.cumsum([len(context) for context in contexts])[:-1])
        return [part[span.lead :] for span, part in zip(spans, parts, strict=True)]

    def _made(
        self,
        span: Span,
        found: FoundTargets,
        token_NV: NDArray[np.float32],
        target_TF: NDArray[np.float32],
        reference_RF: NDArray[np.float32],
    ) -> Made:
        user_id = span.events.user_id
        windows = cut_windows(
            user_id,
            span.context.slice(span.lead, len(span.context)),
            token_NV,
            found.targets,
            found.split_T,
            target_TF,
            span.references,
            reference_RF,
            max_context=self.recipe.sequences.max_context,
            body=self.recipe.sequences.body,
            first=span.first,
        )
        held = self._targets.held_out(user_id, found.shown)
        part = SpanPart(
            SpanSums.of(found.targets, found.split_T, later=self._later(found)),
            reference_RF,
            held.occasions,
            (held.rows, held.positives),
            found.asked,
            found.left_out,
        )
        return Made(part, SpanRows([*windows], held.impressions), target_TF, found.split_T)

    def _references_of(self, user: UserEvents, result: BucketResult) -> References:
        """Those of train and valid; those of test stand in the result."""
        references = self._references.of(user.history)
        result.references += test_rows(user.user_id, references)
        return references.select(references.split_R != TEST)

    @staticmethod
    def _add(part: SpanPart, result: BucketResult) -> None:
        result.test_occasions += part.test_occasions
        result.asked += part.asked
        result.left_out += part.left_out
        if part.shown[0]:
            rate = result.rates.setdefault("test", [0.0, 0.0, 0.0])
            rate[0] += part.shown[0]
            rate[1] += part.shown[1]

    def _finish(
        self,
        user: UserEvents,
        sums: SpanSums,
        references: References,
        reference_dense_RF: NDArray[np.float32],
        dense_of: DenseOf,
        result: BucketResult,
    ) -> None:
        """What a user adds as a whole."""
        if self.occasions.config.negatives != "explicit":
            result.positives += self.occasions.positives(user)
        rank = hash_of(user.user_id)
        rng = np.random.default_rng([self.recipe.sequences.seed, rank])
        some = np.sort(rng.permutation(len(sums.item_T))[:SAMPLE_PER_USER])
        result.sample.click.append(SampledUser(rank, dense_of(some), sums.label_T[some]))
        for days in self.recipe.retention.report_days:
            last = self.recipe.retention.bin_ends.index(days)
            full = np.flatnonzero((references.split_R == TRAIN) & (references.censored_R > last))
            came_back = (references.bin_R[full] <= last).astype(np.float32)
            result.sample.retention[days].append(SampledUser(rank, reference_dense_RF[full], came_back))
        for s, name in enumerate(("train", "valid")):
            rate = result.rates.setdefault(name, [0.0, 0.0, 0.0])
            rate[0] += sums.counts[s]
            rate[1] += sums.positives[s]
            rate[2] += float(sums.offsets[s].sum())
        spend = references.value_R[(references.split_R == TRAIN) & (references.value_R > 0)]
        self._moments("rating", sums.ratings, result)
        self._moments("log_value", np.log(spend), result)
        self._interactions(user.user_id, user.history, sums.later, result)

    @staticmethod
    def _moments(name: str, values: NDArray[np.float32], result: BucketResult) -> None:
        x = values.astype(np.float64)
        result.moments[name] = result.moments.get(name, np.zeros(3)) + np.array([len(x), x.sum(), x @ x])

    def _later(self, found: FoundTargets) -> int:
        """The moment before which all of the user's events are train, as far as these targets say."""
        if self.plan.config.refit:
            return self.plan.log_end
        if self.plan.config.protocol != "per_user":
            return self.plan.train_end
        later = [int(found.targets.time_T[found.split_T != TRAIN].min(initial=self.plan.log_end))]
        return min(later + [occasion.time for occasion, _ in found.shown])

    def _interactions(self, user_id: str, history: History, train_end: int, result: BucketResult) -> None:
        liked = (self.source.vocabulary.labels(history) == 1.0) & (history.time_N < train_end)
        items, where, count = np.unique(history.item_N[liked], return_inverse=True, return_counts=True)
        weight = np.bincount(where, self.source.vocabulary.weights[history.event_N[liked]], minlength=len(items))
        result.interactions.append((user_id, items, weight.astype(np.float32), count.astype(np.int32)))


def _groups(users: Iterable[UserEvents], *, apart: int) -> Iterator[list[UserEvents]]:
    """Users one after the other, few enough for their features to fit well into memory. One with more than `apart` events is a group alone."""
    group: list[UserEvents] = []
    events = 0
    for user in users:
        full = events + len(user.history) > _GROUP_EVENTS or len(group) == _GROUP_USERS
        if group and (full or max(len(user.history), events) > apart):
            yield group
            group, events = [], 0
        group.append(user)
        events += len(user.history)
    if group:
        yield group
