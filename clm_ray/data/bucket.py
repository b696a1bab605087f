"""Build everything about the users of one bucket: sequences, impressions, references, interactions.

This is the vectorised Arrow function that Ray Data runs once per block; it sees whole users.

Shape letters: N events of one user, T targets, R references, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket_figures import BucketFigures
from clm_ray.data.buckets import hash_of
from clm_ray.data.columns import encoded, map_value
from clm_ray.data.evaluation_sample import HeldOutOccasion, drawn, impression_row
from clm_ray.data.feature_sample import SAMPLE_PER_USER, FeatureSample, SampledUser
from clm_ray.data.occasions import TARGET_FIELDS, Occasion, OccasionSource, Targets, UserEvents
from clm_ray.data.splits import SplitPlan
from clm_ray.data.windows import References, cut_windows
from clm_ray.features.asked import Joined
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSource
from clm_ray.features.tokens import token_values
from clm_ray.lifecycle.stages import active_day_gaps
from clm_ray.lifecycle.windows import first_after, next_activity_bins, on_grid, reference_grid
from clm_ray.schema import DAY_US, TEST, TRAIN, VALID

_LEFT_OUT = -1
"""The split of what is no target."""
_GROUP_EVENTS, _GROUP_USERS = 20_000, 500
"""Bounds of the users whose features are computed together."""


@dataclass
class BucketResult:
    """What the users of one bucket gave. `positives`: positive (moment, item) pairs, `asked`: those of them that are targets of an
    occasion (negatives sampled). `left_out`: occasions (rows of the log, where negatives are explicit) that lie in an embargo or whose label
    was not yet known. `rates`: targets, positives and the sum of the offsets by split. `moments`: number, sum and sum of squares of the
    train targets' ratings and of the logarithm of the train references' spend, where there is any. `figures`: for the data report."""

    windows: list[dict[str, Any]] = field(default_factory=list)
    impressions: list[dict[str, Any]] = field(default_factory=list)
    references: list[dict[str, Any]] = field(default_factory=list)
    interactions: list[tuple[str, NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]] = field(
        default_factory=list
    )
    test_occasions: list[HeldOutOccasion] = field(default_factory=list)
    sample: FeatureSample = field(default_factory=FeatureSample)
    gaps: list[NDArray[np.float32]] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    moments: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    positives: int = 0
    asked: int = 0
    left_out: int = 0
    figures: BucketFigures = field(default_factory=BucketFigures)


@dataclass(frozen=True)
class _Asked:
    """What one user is asked about in train and valid. train_end: the moment before which all of the user's events are train."""

    targets: Targets
    split_T: NDArray[np.int32]
    references: References
    train_end: int


@dataclass(frozen=True)
class BucketBuilder:
    """Turns the events of whole users into dataset rows. Everything here is read-only and shared by all blocks."""

    recipe: Recipe
    source: FeatureSource
    occasions: OccasionSource
    plan: SplitPlan
    grid_R: NDArray[np.int64]

    def build(self, events: pa.Table) -> BucketResult:
        """`events`: schema.EVENTS plus `item`, sorted by user, time, event id, of whole users."""
        result = BucketResult()
        for users in _groups(users_of(events, self.source)):
            self._users(users, result)
        result.test_occasions = drawn(result.test_occasions, self.recipe.impressions).all()
        result.sample = result.sample.bounded()
        result.gaps = [np.concatenate([np.empty(0, np.float32), *result.gaps])]
        return result

    def test_references(self, events: pa.Table) -> list[dict[str, Any]]:
        """Retention references of the test split (rows of schema.REFERENCES), which follow the end of the log; `events` as in `build`."""
        return [
            row
            for user in users_of(events, self.source)
            for row in _test_rows(user.user_id, self._references(user.history))
        ]

    def _users(self, users: Sequence[UserEvents], result: BucketResult) -> None:
        """Users together: features of all of them cost little more than those of one."""
        asked = [self._asked(user, result) for user in users]
        histories = [user.history for user in users]
        target = self.source.click_of_users(
            histories, [a.targets.item_T for a in asked], [a.targets.time_T for a in asked]
        )
        reference = self.source.retention_of_users(histories, [a.references.time_R for a in asked])
        contexts = [history.select(self.source.vocabulary.is_context(history)) for history in histories]
        token_NV = token_values(
            Joined.of(contexts),
            statistics=self.source.statistics,
            vocabulary=self.source.vocabulary,
            prior=self.recipe.features.prior_strength,
        )
        tokens = np.split(token_NV, np.cumsum([len(context) for context in contexts])[:-1])
        for user, a, context, *dense in zip(users, asked, contexts, tokens, target, reference, strict=True):
            token_dense, target_dense, reference_dense = dense
            result.windows += cut_windows(
                user.user_id,
                context,
                token_dense,
                a.targets,
                a.split_T,
                target_dense,
                a.references,
                reference_dense,
                max_context=self.recipe.sequences.max_context,
                body=self.recipe.sequences.body,
            )
            self._sample(user, a.targets, a.split_T, target_dense, a.references, reference_dense, result)
            self._interactions(user, a.train_end, result)

    def _asked(self, user: UserEvents, result: BucketResult) -> _Asked:
        targets, split, shown = self._targets(user, result)
        references = self._references(user.history)
        for occasion, which in shown:
            self._impressions(user.user_id, occasion, which, result)
        result.references += _test_rows(user.user_id, references)
        kept = references.select(references.split_R != TEST)
        return _Asked(targets, split, kept, self._train_end(targets, split, shown))

    def _targets(
        self, user: UserEvents, result: BucketResult
    ) -> tuple[Targets, NDArray[np.int32], list[tuple[Occasion, NDArray[np.int32]]]]:
        """(train and valid targets, their split, the other occasions with the split of each of their candidates)."""
        found = self.occasions.occasions(user)
        ids = self.source.catalogue.ids
        per_row = self.occasions.config.negatives == "explicit"
        if not per_row:
            result.positives += self.occasions.positives(user)
            result.asked += sum(len(occasion.taken) for occasion in found)
        sampled: list[Targets] = []
        splits: list[NDArray[np.int32]] = []
        shown: list[tuple[Occasion, NDArray[np.int32]]] = []
        sizes = [_size(o) if per_row else 1 for o in found]
        times = np.repeat(np.array([o.time for o in found], np.int64), sizes)
        final = np.concatenate([times[:0], *(_final(o, size) for o, size in zip(found, sizes, strict=True))])
        if per_row:
            items = [ids[i] for o in found for i in (o.shown_C if o.shown_C is not None else o.taken)]
        else:
            items = [""] * len(found)
        row_split = self.plan.of_targets(user.user_id, times, items)
        usable = self.plan.usable(row_split, times, final)
        row_split = np.where(usable, row_split, _LEFT_OUT)
        result.left_out += int((~usable).sum())
        at = 0
        for occasion, size in zip(found, sizes, strict=True):
            mine, at = row_split[at : at + size], at + size
            if ((mine == TRAIN) | (mine == VALID)).any():
                part = self.occasions.sampled(user.user_id, occasion)
                if per_row:
                    keep = (mine == TRAIN) | (mine == VALID)
                    sampled.append(Targets(*(getattr(part, n)[keep] for n in TARGET_FIELDS)))
                    splits.append(mine[keep])
                else:
                    sampled.append(part)
                    splits.append(np.full(len(part), mine[0], np.int32))
            if (mine > TRAIN).any():
                shown.append((occasion, mine))
        if not sampled:
            return self.occasions.targets(user, []), np.empty(0, np.int32), shown
        joined = Targets(*(np.concatenate([getattr(p, n) for p in sampled]) for n in TARGET_FIELDS))
        return joined, np.concatenate(splits), shown

    def _impressions(self, user_id: str, occasion: Occasion, split: NDArray[np.int32], result: BucketResult) -> None:
        test = split == TEST
        if not test.any():
            return
        rank = hash_of(f"{self.recipe.sequences.seed}/{user_id}/{occasion.time}/{occasion.kind}")
        # The candidates of a slot are found again once the sample is drawn: they need not travel.
        light = occasion if occasion.slot is None else replace(occasion, shown_C=None)
        result.test_occasions.append(HeldOutOccasion(rank, user_id, light))
        if occasion.labels_C is not None and occasion.weights_C is not None and occasion.shown_C is not None:
            row = impression_row(user_id, occasion, occasion.shown_C[test], occasion.labels_C[test], kind="shown")
            result.impressions.append(row | {"weight": occasion.weights_C[test]})
            rate = result.rates.setdefault("test", [0.0, 0.0, 0.0])
            rate[0] += float(test.sum())
            rate[1] += float(occasion.labels_C[test].sum())

    def _references(self, history: History) -> References:
        activity = history.time_N[self.source.vocabulary.is_activity(history)]
        grid = self.grid_R if self.recipe.retention.enabled else self.grid_R[:0]
        grid = grid[on_grid(activity, grid, self.recipe.retention.active_within_days)]
        split, end = self.plan.of_references(grid)
        sent = history.time_N[self.source.vocabulary.is_one_of(history, self.recipe.retention.treatments)]
        end = np.minimum(end, first_after(sent, grid))
        bins = np.zeros(len(grid), np.int32)
        seen = np.zeros(len(grid), np.int32)
        for moment in np.unique(end):
            at = end == moment
            bins[at], seen[at] = next_activity_bins(
                activity, grid[at], bin_ends=self.recipe.retention.bin_ends, log_end_us=int(moment)
            )
        horizon = max(self.recipe.retention.report_days) * DAY_US
        spend = np.concatenate([[0.0], np.cumsum(self.source.vocabulary.amounts(history), dtype=np.float64)])
        low = np.searchsorted(history.time_N, grid)
        high = np.searchsorted(history.time_N, grid + horizon)
        value = np.where(grid + horizon <= end, spend[high] - spend[low], np.nan).astype(np.float32)
        return References(grid, bins, seen, value, split).select(seen > 0)

    def _sample(
        self,
        user: UserEvents,
        targets: Targets,
        split: NDArray[np.int32],
        target_dense: NDArray[np.float32],
        references: References,
        reference_dense: NDArray[np.float32],
        result: BucketResult,
    ) -> None:
        rank = hash_of(user.user_id)
        rng = np.random.default_rng([self.recipe.sequences.seed, rank])
        train = np.flatnonzero(split == TRAIN)
        some = np.sort(rng.permutation(train)[:SAMPLE_PER_USER])
        result.sample.click.append(SampledUser(rank, target_dense[some], targets.label_T[some]))
        for days in self.recipe.retention.report_days:
            last = self.recipe.retention.bin_ends.index(days)
            full = np.flatnonzero((references.split_R == TRAIN) & (references.censored_R > last))
            came_back = (references.bin_R[full] <= last).astype(np.float32)
            result.sample.retention[days].append(SampledUser(rank, reference_dense[full], came_back))
        active = user.history.time_N[self.source.vocabulary.is_activity(user.history)]
        result.gaps.append(active_day_gaps(active[active < self.plan.train_end]).astype(np.float32))
        for s, name in ((TRAIN, "train"), (1, "valid")):
            rate = result.rates.setdefault(name, [0.0, 0.0, 0.0])
            rate[0] += float((split == s).sum())
            rate[1] += float(targets.label_T[split == s].sum())
            rate[2] += float(targets.offset_T[split == s].sum())
        spend = references.value_R[(references.split_R == TRAIN) & (references.value_R > 0)]
        self._moments("rating", targets.rating_T[(split == TRAIN) & ~np.isnan(targets.rating_T)], result)
        self._moments("log_value", np.log(spend), result)

    @staticmethod
    def _moments(name: str, values: NDArray[np.float32], result: BucketResult) -> None:
        x = values.astype(np.float64)
        result.moments[name] = result.moments.get(name, np.zeros(3)) + np.array([len(x), x.sum(), x @ x])

    def _train_end(
        self, targets: Targets, split: NDArray[np.int32], shown: list[tuple[Occasion, NDArray[np.int32]]]
    ) -> int:
        """The moment before which all of a user's events are train."""
        if self.plan.config.refit:
            return self.plan.log_end
        if self.plan.config.protocol != "per_user":
            return self.plan.train_end
        later = [int(targets.time_T[split != TRAIN].min(initial=self.plan.log_end))]
        return min(later + [occasion.time for occasion, _ in shown])

    def _interactions(self, user: UserEvents, train_end: int, result: BucketResult) -> None:
        history = user.history
        liked = (self.source.vocabulary.labels(history) == 1.0) & (history.time_N < train_end)
        items, where, count = np.unique(history.item_N[liked], return_inverse=True, return_counts=True)
        weight = np.bincount(where, self.source.vocabulary.weights[history.event_N[liked]], minlength=len(items))
        result.interactions.append((user.user_id, items, weight.astype(np.float32), count.astype(np.int32)))


def _groups(users: Iterable[UserEvents]) -> Iterator[list[UserEvents]]:
    """Users one after the other, few enough for their features to fit well into memory."""
    group: list[UserEvents] = []
    events = 0
    for user in users:
        if group and (events + len(user.history) > _GROUP_EVENTS or len(group) == _GROUP_USERS):
            yield group
            group, events = [], 0
        group.append(user)
        events += len(user.history)
    if group:
        yield group


def _final(occasion: Occasion, size: int) -> NDArray[np.int64]:
    """When the labels are known: of each candidate, or (`size` 1) of the occasion as a whole."""
    if occasion.final_C is None:
        return np.full(size, occasion.time)
    return occasion.final_C if size == len(occasion.final_C) else occasion.final_C.max(keepdims=True)


def _size(occasion: Occasion) -> int:
    return len(occasion.shown_C) if occasion.shown_C is not None else len(occasion.taken)


def _test_rows(user_id: str, references: References) -> list[dict[str, Any]]:
    return [
        {
            "user_id": user_id,
            "time": int(references.time_R[r]),
            "bin": int(references.bin_R[r]),
            "censored": int(references.censored_R[r]),
            "value": float(references.value_R[r]),
            "split": int(references.split_R[r]),
        }
        for r in np.flatnonzero(references.split_R == TEST)
    ]


def users_of(events: pa.Table, source: FeatureSource) -> Iterator[UserEvents]:
    """One UserEvents per user of a table sorted by user, time, event id."""
    if not events.num_rows:
        return
    names = pa.array(source.vocabulary.names)
    codes = pc.index_in(events.column("event_type"), value_set=names).to_numpy().astype(np.int16)
    items = events.column("item").to_numpy().astype(np.int32)
    values = events.column("value").to_numpy(zero_copy_only=False).astype(np.float32)
    times = events.column("timestamp").cast(pa.int64()).to_numpy()
    slots = map_value(events.column("context"), "slot")
    decisions = events.column("decision_id").to_numpy(zero_copy_only=False)
    users = encoded(events.column("user_id"))
    user = users.indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], len(user)], strict=True):
        cut = slice(int(start), int(stop))
        yield UserEvents(
            users.dictionary[int(user[start])].as_py(),
            History(items[cut], codes[cut], values[cut], times[cut]),
            slots[cut],
            decisions[cut],
        )


def reference_times(recipe: Recipe, first_activity: int, log_end: int) -> NDArray[np.int64]:
    """The calendar grid of retention references."""
    return reference_grid(first_activity, log_end, recipe.retention.every_days)
