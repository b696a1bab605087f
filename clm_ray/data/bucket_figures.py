"""What one bucket adds to the figures of the data report: counts by fixed keys, of whole users.

Nothing here names a user. Each count is bounded by the days of the log, its event types, its items or fixed bins, however many users there
are, and the counts of all buckets add up in any order. Every measure of users' coming and going (gaps, lives, cohorts, active days)
is of events with the role *activity*: a newsletter received is no sign of life.

Shape letters: N events, A activities, U users, W windows, V dense rows, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.data.columns import encoded
from clm_ray.data.splits import SplitPlan
from clm_ray.data.tally import NOTHING, VALUE_BINS, Ints, Tally, gap_bins, length_bins, value_bins
from clm_ray.features.events import EventVocabulary
from clm_ray.lifecycle.cohorts import Period, cohort_cells, period_for, period_of
from clm_ray.schema import DAY_US, TRAIN, VALID

TRAINED = (TRAIN, VALID)
"""Splits whose dense features are stored."""


@dataclass(frozen=True)
class Frame:
    """What all buckets agree on. Days since 1970, UTC: the log's first and last day, and that of its last activity (None without
    any). `cuts`: when train and valid end, µs; None where the splits are not stretches of time. `max_context`: see the recipe."""

    types: tuple[str, ...]
    activity: tuple[bool, ...]
    first_day: int
    last_day: int
    last_active_day: int | None
    cuts: tuple[int, int] | None
    max_context: int

    @property
    def days(self) -> int:
        """Days of the log, its first and last included."""
        return self.last_day - self.first_day + 1

    @property
    def period(self) -> Period:
        """What cohorts are cut by."""
        return period_for(self.first_day, self.last_day)

    @property
    def first_period(self) -> int:
        """The period of the log's first day."""
        return int(period_of(np.array([self.first_day]), period=self.period)[0])

    @property
    def periods(self) -> int:
        """Periods that the log touches."""
        return int(period_of(np.array([self.last_day]), period=self.period)[0]) - self.first_period + 1


@dataclass(frozen=True)
class BucketFigures:
    """Counts by key. `E` is the number of event types, `D` = Frame.days, `P` = Frame.periods.

    daily, daily_users: events, and distinct users, by day · E + type. items: events by item row. gaps, gap_users: gaps between a user's
    consecutive activities, and users with such a gap, by `gap_bins`. lengths, windows: users by events, windows by context events, by
    `length_bins`; window_users: users with such a window; longer: users by whether (1) they have more events than the context takes. lives: users by life · D + silence, days.
    cohorts: users by cohort · P + periods since. mix: events by split · E + type; split_days, split_users: active user-days, and users
    active, by split. targets, references: dense values by (feature · 2 + split) · VALUE_BINS + bin.
    """

    daily: Tally = NOTHING
    daily_users: Tally = NOTHING
    items: Tally = NOTHING
    gaps: Tally = NOTHING
    gap_users: Tally = NOTHING
    lengths: Tally = NOTHING
    longer: Tally = NOTHING
    windows: Tally = NOTHING
    window_users: Tally = NOTHING
    lives: Tally = NOTHING
    cohorts: Tally = NOTHING
    mix: Tally = NOTHING
    split_days: Tally = NOTHING
    split_users: Tally = NOTHING
    targets: Tally = NOTHING
    references: Tally = NOTHING


def frame_of(
    vocabulary: EventVocabulary,
    plan: SplitPlan,
    *,
    first_us: int,
    last_us: int,
    last_activity_us: int | None,
    max_context: int,
) -> Frame:
    """The frame of a log from `first_us` to `last_us`, cut as `plan` says."""
    in_time = plan.config.protocol != "per_user" and not plan.config.refit
    return Frame(
        types=vocabulary.names,
        activity=tuple("activity" in kind.roles for kind in vocabulary.types.values()),
        first_day=first_us // DAY_US,
        last_day=last_us // DAY_US,
        last_active_day=None if last_activity_us is None else last_activity_us // DAY_US,
        cuts=(plan.train_end, plan.valid_end) if in_time else None,
        max_context=max_context,
    )


def add_up(parts: Sequence[BucketFigures]) -> BucketFigures:
    """The figures of all buckets together."""
    return BucketFigures(**{f.name: Tally.total([getattr(p, f.name) for p in parts]) for f in fields(BucketFigures)})


def bucket_figures(events: pa.Table, of_windows: BucketFigures, *, frame: Frame) -> BucketFigures:
    """`events`: schema.EVENTS plus `item`, sorted by user and time, of whole users; `of_windows`: what `WindowFigures` says of their windows."""
    if not events.num_rows:
        return of_windows
    user_N = encoded(events.column("user_id")).indices.to_numpy().astype(np.int64)
    type_N = pc.index_in(events.column("event_type"), value_set=pa.array(frame.types)).to_numpy().astype(np.int64)
    time_N = events.column("timestamp").cast(pa.int64()).to_numpy()
    item_N = events.column("item").to_numpy()
    key_N = (time_N // DAY_US - frame.first_day) * len(frame.types) + type_N
    length_U = np.bincount(user_N)
    active_N = np.array(frame.activity)[type_N]
    counts = {
        "daily": Tally.of(key_N),
        "daily_users": Tally.of_users(user_N, key_N),
        "items": Tally.of(item_N[item_N > 0]),
        "lengths": Tally.of(length_bins(length_U)),
        "longer": Tally.of((length_U > frame.max_context).astype(np.int64)),
    }
    counts |= _activity(user_N[active_N], time_N[active_N], frame=frame)
    if frame.cuts is not None:
        split_N = np.searchsorted(np.array(frame.cuts), time_N, side="right").astype(np.int64)
        counts["mix"] = Tally.of(split_N * len(frame.types) + type_N)
        counts |= _active_splits(user_N[active_N], time_N[active_N], split_N[active_N])
    return replace(of_windows, **counts)


@dataclass(frozen=True)
class WindowFigures:
    """What rows of schema.SEQUENCES add; it does not depend on where the log ends. user_W, bin_W: whose window, and the `length_bins` of its context,
    kept apart, since some windows of a user may be here and others elsewhere."""

    user_W: tuple[str, ...] = ()
    bin_W: tuple[int, ...] = ()
    targets: Tally = NOTHING
    references: Tally = NOTHING

    @staticmethod
    def of(windows: Sequence[Mapping[str, Any]]) -> WindowFigures:
        """Of some windows."""
        bin_W = length_bins(np.array([len(w["ctx_time"]) for w in windows], np.int64))
        users = tuple(w["user_id"] for w in windows)
        return WindowFigures(users, tuple(bin_W.tolist()), _values(windows, "tgt"), _values(windows, "ref"))

    def joined(self, other: WindowFigures) -> WindowFigures:
        """Of these windows and those."""
        return WindowFigures(
            self.user_W + other.user_W,
            self.bin_W + other.bin_W,
            Tally.total([self.targets, other.targets]),
            Tally.total([self.references, other.references]),
        )

    def figures(self) -> BucketFigures:
        """Where these are all windows of their users."""
        codes: dict[str, int] = {}
        owner_W = np.array([codes.setdefault(user, len(codes)) for user in self.user_W], np.int64)
        bin_W = np.array(self.bin_W, np.int64)
        return BucketFigures(
            windows=Tally.of(bin_W),
            window_users=Tally.of_users(owner_W, bin_W),
            targets=self.targets,
            references=self.references,
        )


def _activity(user_A: Ints, time_A: Ints, *, frame: Frame) -> dict[str, Tally]:
    """Gaps, lives and cohorts, from the activities sorted by user and time."""
    if not len(user_A) or frame.last_active_day is None:
        return {}
    same = user_A[1:] == user_A[:-1]
    gap = gap_bins(np.diff(time_A)[same])
    day_A = time_A // DAY_US
    first = np.flatnonzero(np.r_[True, ~same])
    last = np.r_[first[1:], len(user_A)] - 1
    life, silence = day_A[last] - day_A[first], frame.last_active_day - day_A[last]
    cohort, since = cohort_cells(user_A, period_of(day_A, period=frame.period) - frame.first_period)
    return {
        "gaps": Tally.of(gap),
        "gap_users": Tally.of_users(user_A[1:][same], gap),
        "lives": Tally.of(life * frame.days + silence),
        "cohorts": Tally.of(cohort * frame.periods + since),
    }


def _active_splits(user_A: Ints, time_A: Ints, split_A: Ints) -> dict[str, Tally]:
    """Distinct users, and distinct pairs of user and day, by split."""
    days = np.unique(np.stack([user_A, time_A // DAY_US, split_A]), axis=1)
    return {"split_days": Tally.of(days[2]), "split_users": Tally.of_users(user_A, split_A)}


def _values(windows: Sequence[Mapping[str, Any]], block: str) -> Tally:
    """How the dense features of a block (`tgt` or `ref`) are spread in each stored split."""
    rows = [w for w in windows if len(w[f"{block}_split"])]
    if not rows:
        return NOTHING
    split_V = np.concatenate([w[f"{block}_split"] for w in rows])
    dense_VF: NDArray[np.float32] = np.concatenate([w[f"{block}_dense"] for w in rows])
    keys, counts = [NOTHING.key_N], [NOTHING.count_N]
    for f in range(dense_VF.shape[1]):
        for position, split in enumerate(TRAINED):
            count = np.bincount(value_bins(dense_VF[split_V == split, f]), minlength=VALUE_BINS)
            some = np.flatnonzero(count)
            keys.append((f * len(TRAINED) + position) * VALUE_BINS + some)
            counts.append(count[some].astype(np.int64))
    return Tally(np.concatenate(keys), np.concatenate(counts))
