"""The figures of the data report against the log they were made of."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from made_bucket import builder_of
from made_figures import LOG_END, THRESHOLDS, counts_of, figures_of, frame_for, is_activity
from made_logs import (
    DAYS,
    HOUR_US,
    START,
    TRAIN_END,
    TYPES,
    USERS,
    VALID_END,
    Row,
    moments,
    numbered,
    recipe,
    rows,
    table_of,
)

from clm_ray.data.bucket_figures import BucketFigures, add_up
from clm_ray.data.report.figures import popularity, total
from clm_ray.data.tally import Tally, gap_bins
from clm_ray.schema import DAY_US

LOGS = rows(moments(0, DAYS * 24)).filter(lambda log: len(log) > 0)
FEW = settings(max_examples=25)


@FEW
@given(LOGS)
def test_figures_do_not_depend_on_the_buckets_or_their_order(log: list[Row]) -> None:
    made = recipe()
    whole = counts_of(log, made, users=USERS)
    parts = [counts_of(log, made, users=[user]) for user in reversed(USERS)] + [BucketFigures()]
    one, many = (figures_of(counts, log, made) for counts in (whole, add_up(parts)))
    assert one.to_json() == many.to_json()


@FEW
@given(LOGS)
def test_counts_are_those_of_the_log(log: list[Row]) -> None:
    made = recipe()
    found = figures_of(counts_of(log, made, users=USERS), log, made)
    first = min(row.time for row in log) // DAY_US
    for name in TYPES:
        per_day = Counter(row.time // DAY_US - first for row in log if row.type == name)
        assert found.daily.events[name] == tuple(per_day[d] for d in range(len(found.daily.events[name])))
    items = sorted(Counter(row.item for row in log if row.item).values(), reverse=True)
    if found.popularity:
        assert (found.popularity.count, found.popularity.items) == (tuple(items), len(items))
        assert (found.popularity.once, found.popularity.unused) == (items.count(1), 6 - len(items))
    else:
        assert not items
    sizes = Counter(row.user for row in log).values()
    assert total(found.lengths.users.counts) == len(sizes)
    for low, high, n in zip(
        found.lengths.users.edges, found.lengths.users.edges[1:], found.lengths.users.counts, strict=False
    ):
        assert n == sum(low <= size < high for size in sizes)
    assert found.lengths.longer == sum(size > made.sequences.max_context for size in sizes)
    windows = builder_of(log, made, log_end=LOG_END).build(table_of(log)).windows
    assert total(found.lengths.windows.counts) == len(windows)


@FEW
@given(LOGS)
def test_gaps_and_lives_are_those_of_activities(log: list[Row]) -> None:
    made = recipe()
    counts = counts_of(log, made, users=USERS)
    times: dict[str, list[int]] = defaultdict(list)
    for row in sorted(log, key=lambda row: row.time):
        if is_activity(row):
            times[row.user].append(row.time)
    gaps = [b - a for mine in times.values() for a, b in pairwise(mine)]
    found = figures_of(counts, log, made)
    assert total(found.gaps.counts if found.gaps else ()) == len(gaps)
    assert dict(zip(counts.gaps.key_N.tolist(), counts.gaps.count_N.tolist(), strict=True)) == Counter(
        gap_bins(np.array(gaps, np.int64)).tolist()
    )
    end = max((mine[-1] for mine in times.values()), default=0) // DAY_US
    silent = [end - mine[-1] // DAY_US >= THRESHOLDS.churned_days for mine in times.values()]
    if found.survival:
        assert found.survival.ended == sum(silent)
        assert found.survival.users + found.survival.too_new == len(times)
    else:
        assert not any(silent)
    if found.cohorts:
        assert total(found.cohorts.users) == len(times)
    else:
        assert not times


@FEW
@given(LOGS)
def test_each_stretch_of_time_has_its_events_and_users(log: list[Row]) -> None:
    made = recipe()
    found = figures_of(counts_of(log, made, users=USERS), log, made).drift
    assert found is not None
    bounds = (-math.inf, TRAIN_END, VALID_END, math.inf)
    for split, low, high in zip(found.splits, bounds, bounds[1:], strict=False):
        mine = [row for row in log if low <= row.time < high]
        assert split.events == len(mine)
        if mine:
            assert split.mix == {name: round(sum(row.type == name for row in mine) / len(mine), 6) for name in TYPES}
            assert split.users == len({row.user for row in mine if is_activity(row)})
            days = {(row.user, row.time // DAY_US) for row in mine if is_activity(row)}
            assert split.active_per_day == pytest.approx(len(days) / split.days, abs=1e-3)


def bought(user: str, day: float, item: int = 1, *, hour: int = 9) -> Row:
    return Row(user, START + int(day * DAY_US) + hour * HOUR_US, "purchase", item, 2.0)


MADE = numbered(
    [bought("u1", d) for d in range(0, 40, 2)] + [bought("u2", d) for d in (0, 1, 2)] + [bought("u3", 39, hour=10)]
)


def test_a_life_that_ended_a_life_that_goes_on_and_one_too_new() -> None:
    """The log's last activity is on day 39; a user silent for 7 days has left; ends can be seen up to day 32."""
    found = figures_of(counts_of(MADE, recipe(), users=USERS), MADE, recipe()).survival
    assert found is not None
    assert (found.day, found.at_risk, found.share) == ((2, 32), (2, 1), (0.5, 0.5))
    assert (found.users, found.ended, found.too_new, found.median_days) == (2, 1, 1, 2)


def test_groups_of_few_users_are_hidden() -> None:
    found = figures_of(counts_of(MADE, recipe(), users=USERS), MADE, recipe(), min_users=2)
    purchases = found.daily.events["purchase"]
    assert (purchases[0], purchases[1], purchases[3], purchases[4]) == (2, None, 0, None)
    assert set(found.daily.events["login"]) == {0}
    assert found.lengths.longer is None
    assert set(found.lengths.users.counts) <= {0, None}
    assert found.survival is not None
    assert found.survival.day == (2,)  # later, fewer than two users are at risk
    assert found.cohorts is not None
    assert found.cohorts.users[0] == 2
    assert found.cohorts.users[-1] is None
    assert {share for row in found.cohorts.share[1:] for share in row} == {None}
    assert found.drift is not None
    assert [split.events for split in found.drift.splits] == [11, None, 11]
    assert found.gaps is not None
    assert set(found.gaps.counts) <= {0, None}
    assert json.loads(found.to_json())["min_users"] == 2


def test_windows_of_few_users_are_hidden() -> None:
    """Bars are hidden by how many users are behind them: many windows of one user are one user."""
    counts = counts_of(MADE, recipe(), users=USERS)
    one = figures_of(counts, MADE, recipe(), min_users=2).lengths.windows
    users: dict[int, set[Any]] = defaultdict(set)
    for window in builder_of(MADE, recipe(), log_end=LOG_END).build(table_of(MADE)).windows:
        users[int(np.frexp(len(window["ctx_time"]))[1])].add(window["user_id"])
    assert {b for b, n in enumerate(one.counts) if n is None} == {b for b, who in users.items() if len(who) == 1}


def test_the_slope_of_a_power_law_is_found() -> None:
    count = np.round(20_000 / np.arange(1, 1001) ** 0.8).astype(np.int64)
    random = np.random.default_rng(0).permutation(1000)
    found = popularity(Tally(np.arange(1, 1001), count[random]), catalogue=1200)
    assert found is not None
    assert found.slope == pytest.approx(-0.8, abs=0.01)
    assert (found.fitted_to, found.unused) == (1000, 200)
    assert found.top_share == pytest.approx(count[:10].sum() / count.sum())


def test_a_feature_that_moves_is_named_first() -> None:
    """Counts that rise with time drift from train to valid; valid rows with train's values do not."""
    made = recipe()
    log = numbered(bought(user, day, 1 + day % 6) for user in USERS for day in range(30))
    found = figures_of(counts_of(log, made, users=USERS), log, made).drift
    assert found is not None
    index = {f.feature: f.index for f in found.features if f.block == "click"}
    assert [f.index for f in found.features] == sorted((f.index for f in found.features), reverse=True)
    assert max(index.values()) > 0.25
    assert min(index.values()) == 0.0


@pytest.mark.parametrize(
    ("sections", "absent"),
    [
        ({"retention": {"enabled": False, "reason_off": "bought once in a life"}}, {"survival", "cohorts"}),
        (
            {"split": {"protocol": "time", "train_end": "2022-01-23", "valid_end": "2022-01-28", "refit": True}},
            {"drift"},
        ),
    ],
)
def test_what_does_not_apply_is_said(sections: dict[str, Any], absent: set[str]) -> None:
    made = recipe(**sections)
    found = figures_of(counts_of(MADE, made, users=USERS), MADE, made)
    assert set(found.absent) == absent
    assert "bought once in a life" in found.absent.get("survival", "bought once in a life")


def test_splits_that_share_the_calendar_are_not_compared_by_time() -> None:
    made = recipe(split={"protocol": "per_user"})
    found = figures_of(counts_of(MADE, made, users=USERS), MADE, made)
    assert frame_for(MADE, made).cuts is None
    assert found.drift is not None
    assert found.drift.splits == ()
