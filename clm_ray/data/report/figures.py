"""The figures behind the pictures of the data report, from the counts of all buckets.

`min_users`: a figure of a group of users (a day and event type, a cohort, a bar) that holds some but fewer users is None: hidden.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket_figures import BucketFigures, Frame
from clm_ray.data.life_counts import LifeCounts
from clm_ray.data.report.drift_figures import Drift, drift
from clm_ray.data.report.life_figures import RfmTable, StageDays, rfm_table, stage_days
from clm_ray.data.tally import GAP_EDGES_S, Ints, Tally, length_edges
from clm_ray.features.spec import FeatureSpec
from clm_ray.lifecycle.cohorts import Period, active_share, begin_of
from clm_ray.lifecycle.lives import lives_by_day
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.metrics.survival import product_limit

FEWEST_EVENTS = 5
"""Items of fewer events are left out of the fitted popularity slope."""
_FEWEST_ITEMS = 10
_POINTS = 200

Shown = tuple[int | None, ...]


@dataclass(frozen=True)
class Daily:
    """Events of each type on each day (UTC) from `first` on."""

    first: str
    events: Mapping[str, Shown]


@dataclass(frozen=True)
class Popularity:
    """Events of the items at some ranks (1: the most frequent). once: items of one event. unused: items of the catalogue without any.
    top_share: share of the events that fall on the most frequent hundredth of the items (at least one). slope: of the logarithm of the
    events over that of the rank, fitted by least squares at the points from rank 1 to `fitted_to`; None where too few items have
    FEWEST_EVENTS."""

    items: int
    events: int
    once: int
    unused: int
    top_share: float
    rank: tuple[int, ...]
    count: tuple[int, ...]
    slope: float | None
    fitted_to: int | None


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; the last edge is the end of the last bin."""

    edges: tuple[float, ...]
    counts: Shown


@dataclass(frozen=True)
class Lengths:
    """Users by their number of events, windows by their number of context events. longer: users with more than `max_context` events."""

    users: Histogram
    windows: Histogram
    max_context: int
    longer: int | None


@dataclass(frozen=True)
class Survival:
    """The Kaplan-Meier curve of users' lives, see lifecycle.lives: at_risk, share still there after each day, 95 % interval.
    users = ended + censored; too_new: users of whom nothing is known yet. median_days: when half had left; None: not within the log."""

    churned_days: float
    users: int
    ended: int
    too_new: int
    day: tuple[int, ...]
    at_risk: tuple[int, ...]
    share: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    median_days: int | None


@dataclass(frozen=True)
class Cohorts:
    """Users by the period of their first activity, and the share of them active k periods later (None: not known, or hidden)."""

    period: Period
    begins: tuple[str, ...]
    users: Shown
    share: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Figures:
    """Everything that the report shows beside its tables. absent: part → why it is not there."""

    min_users: int
    daily: Daily
    popularity: Popularity | None
    gaps: Histogram | None
    lengths: Lengths
    survival: Survival | None
    cohorts: Cohorts | None
    stages: StageDays | None
    rfm: RfmTable | None
    drift: Drift | None
    absent: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The figures as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)


def make_figures(
    counts: BucketFigures,
    recipe: Recipe,
    spec: FeatureSpec,
    thresholds: Thresholds,
    lives: LifeCounts,
    *,
    frame: Frame,
    catalogue: int,
    min_users: int = 1,
) -> Figures:
    """The figures of a log. `catalogue`: items that the catalogue holds; `spec`: which features were selected; `lives`: the replay of the life cycle with these `thresholds`."""
    found = {
        "popularity": popularity(counts.items, catalogue=catalogue),
        "gaps": gap_histogram(counts, min_users=min_users),
        "survival": None
        if not recipe.retention.enabled
        else survival(counts.lives, thresholds, frame=frame, min_users=min_users),
        "cohorts": None if not recipe.retention.enabled else cohorts(counts.cohorts, frame=frame, min_users=min_users),
        "stages": stage_days(lives, thresholds, min_users=min_users),
        "rfm": rfm_table(lives, min_users=min_users),
        "drift": None if recipe.split.refit else drift(counts, spec, frame=frame, min_users=min_users),
    }
    reasons = {
        "popularity": "no event has an item",
        "gaps": "no user was active twice",
        "survival": "no user's first activity lies far enough before the end of the log to see who left",
        "cohorts": "no event type has the role activity",
        "stages": "no user was there on two days",
        "rfm": "too few users were ever active",
        "drift": "everything is train (split.refit): there is nothing to compare",
    }
    if not recipe.retention.enabled:
        reason = recipe.retention.reason_off
        off = "retention is off in the recipe" + (f": {reason}" if reason else "")
        reasons |= {"survival": off, "cohorts": off}
    return Figures(
        min_users=min_users,
        daily=daily(counts, frame=frame, min_users=min_users),
        lengths=lengths(counts, max_context=frame.max_context, min_users=min_users),
        **found,  # type: ignore[arg-type]
        absent={name: reasons[name] for name, figure in found.items() if figure is None},
    )


def daily(counts: BucketFigures, *, frame: Frame, min_users: int = 1) -> Daily:
    """Events per day and type; the cells of fewer than `min_users` users are hidden."""
    events, users = (t.dense(frame.days, len(frame.types)) for t in (counts.daily, counts.daily_users))
    rows = {name: shown(events[:, e], users=users[:, e], min_users=min_users) for e, name in enumerate(frame.types)}
    return Daily(date(frame.first_day), rows)


def popularity(items: Tally, *, catalogue: int) -> Popularity | None:
    """Rank against frequency of the items with an event."""
    count_I = np.sort(items.count_N)[::-1]
    if not len(count_I):
        return None
    rank = np.unique(np.geomspace(1, len(count_I), _POINTS).round().astype(np.int64))
    often = int((count_I >= FEWEST_EVENTS).sum())
    fit = rank <= often
    # Logarithms of points that lie about evenly on the logarithmic axis: neither head nor tail outweighs the other.
    slope = (
        float(np.polyfit(np.log(rank[fit]), np.log(count_I[rank[fit] - 1]), 1)[0]) if often >= _FEWEST_ITEMS else None
    )
    return Popularity(
        items=len(count_I),
        events=int(count_I.sum()),
        once=int((count_I == 1).sum()),
        unused=max(catalogue - len(count_I), 0),
        top_share=float(count_I[: max(1, len(count_I) // 100)].sum() / count_I.sum()),
        rank=tuple(rank.tolist()),
        count=tuple(count_I[rank - 1].tolist()),
        slope=None if slope is None else round(slope, 6),
        fitted_to=None if slope is None else often,
    )


def gap_histogram(counts: BucketFigures, *, min_users: int = 1) -> Histogram | None:
    """Gaps between a user's consecutive activities, seconds; bars of fewer than `min_users` users are hidden."""
    if not len(counts.gaps.key_N):
        return None
    gaps, users = (t.dense(len(GAP_EDGES_S) - 1) for t in (counts.gaps, counts.gap_users))
    return Histogram(tuple(GAP_EDGES_S.round(3).tolist()), shown(gaps, users=users, min_users=min_users))


def lengths(counts: BucketFigures, *, max_context: int, min_users: int = 1) -> Lengths:
    """Events per user and per context window."""

    def histogram(tally: Tally, users: Tally) -> Histogram:
        bins = int(tally.key_N.max(initial=0)) + 1
        count = shown(tally.dense(bins), users=users.dense(bins), min_users=min_users)
        return Histogram(tuple(length_edges(bins).tolist()), count)

    longer = counts.longer.dense(2)[1:]
    return Lengths(
        users=histogram(counts.lengths, counts.lengths),
        windows=histogram(counts.windows, counts.window_users),
        max_context=max_context,
        longer=shown(longer, users=longer, min_users=min_users)[0],
    )


def survival(lives: Tally, thresholds: Thresholds, *, frame: Frame, min_users: int = 1) -> Survival | None:
    """How long users stay. The curve ends where fewer than `min_users` users are left at risk."""
    life, silence = np.divmod(lives.key_N, frame.days)
    by_day = lives_by_day(life, silence, lives.count_N, churned_days=thresholds.churned_days)
    curve = product_limit(by_day.day_D, ended=by_day.ended_D, censored=by_day.censored_D)
    shown_days = int((curve.at_risk_D >= max(min_users, 1)).sum())
    if not shown_days:
        return None
    median = curve.median()
    last = int(curve.day_D[shown_days - 1])
    cut = slice(0, shown_days)
    return Survival(
        churned_days=thresholds.churned_days,
        users=int((by_day.ended_D + by_day.censored_D).sum()),
        ended=int(by_day.ended_D.sum()),
        too_new=by_day.too_new,
        day=tuple(curve.day_D[cut].tolist()),
        at_risk=tuple(curve.at_risk_D[cut].tolist()),
        share=tuple(curve.survival_D[cut].round(6).tolist()),
        low=known(curve.low_D[cut]),
        high=known(curve.high_D[cut]),
        median_days=median if median is not None and median <= last else None,
    )


def cohorts(cells: Tally, *, frame: Frame, min_users: int = 1) -> Cohorts | None:
    """Who came back in which later period; cohorts and cells of fewer than `min_users` users are hidden."""
    if frame.last_active_day is None or not len(cells.key_N):
        return None
    active = cells.dense(frame.periods, frame.periods)
    begins = begin_of(frame.first_period + np.arange(frame.periods + 1), period=frame.period)
    full = int((begins[1:] <= frame.last_active_day + 1).sum())
    share = active_share(active, full=full, min_users=min_users)
    return Cohorts(
        period=frame.period,
        begins=tuple(date(int(day)) for day in begins[:-1]),
        users=shown(active[:, 0], users=active[:, 0], min_users=min_users),
        share=tuple(known(row) for row in share),
    )


def shown(count: Ints, *, users: Ints, min_users: int) -> Shown:
    """The counts, without those of some but fewer than `min_users` users."""
    small = (users > 0) & (users < min_users)
    return tuple(None if hide else int(n) for n, hide in zip(count, small, strict=True))


def known(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    """The values with None for NaN, at six digits."""
    return tuple(None if math.isnan(value) else round(float(value), 6) for value in values)


def date(day: int) -> str:
    """ISO date of a day since 1970."""
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()


def total(counts: Sequence[int | None]) -> int:
    """The sum of what is shown."""
    return sum(count or 0 for count in counts)
