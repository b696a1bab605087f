"""Stage sizes, moves and RFM of a made log, against the functions of the life cycle user by user."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from made_figures import THRESHOLDS, frame_for, is_activity, lives_of
from made_logs import DAYS, START, USERS, VOCABULARY, Row, moments, numbered, recipe, rows, table_of

from clm_ray.config.stages import STAGES
from clm_ray.data.life_counts import LifeCounts, bucket_lives
from clm_ray.data.life_figures import rfm_table, stage_days
from clm_ray.data.life_readings import moves, segments
from clm_ray.lifecycle.stages import stage_at
from clm_ray.schema import DAY_US

LOGS = rows(moments(0, DAYS * 24)).filter(lambda log: len(log) > 0)
LOG = numbered(
    Row(user, START + day * DAY_US + n * 3_600_000_000, "purchase", 1, 2.0 + n)
    for n, user in enumerate(USERS)
    for day in range(0, DAYS - n * 10, n + 1)
)


def _stages(log: list[Row], first_day: int, days: int) -> dict[str, list[str | None]]:
    """User → stage at the start of each day; None before the user is known."""
    found = {}
    for user in {row.user for row in log}:
        known = min(row.time for row in log if row.user == user)
        active = np.array(sorted(row.time for row in log if row.user == user and is_activity(row)), np.int64)
        midnights = [(first_day + d) * DAY_US for d in range(days)]
        found[user] = [None if t <= known else stage_at(active, t, thresholds=THRESHOLDS) for t in midnights]
    return found


@settings(max_examples=20)
@given(LOGS)
def test_sizes_and_moves_are_those_of_the_users_one_by_one(log: list[Row]) -> None:
    frame = frame_for(log, recipe())
    expected = _stages(log, frame.first_day, frame.days + 1)
    found = stage_days(lives_of(log, recipe()), THRESHOLDS, first_day=frame.first_day)
    assert found is not None
    for stage in STAGES:
        assert list(found.users[stage]) == [
            sum(row[d] == stage for row in expected.values()) for d in range(frame.days + 1)
        ]
    pairs = Counter(pair for row in expected.values() for pair in pairwise(row))
    for a in STAGES:
        left = sum(count for (one, _), count in pairs.items() if one == a)
        for b, share in zip(STAGES, found.moves[a], strict=True):
            assert share == (None if not left else pytest.approx(pairs[(a, b)] / left, abs=1e-6))


def test_buckets_add_up_in_any_order() -> None:
    frame = frame_for(LOG, recipe())
    parts = [
        bucket_lives(table_of([row for row in LOG if row.user == user]), VOCABULARY, THRESHOLDS, frame=frame)
        for user in USERS
    ]
    whole = lives_of(LOG, recipe())
    for order in (parts, parts[::-1]):
        found = LifeCounts.total(order, frame)
        assert np.array_equal(found.count, whole.count)
        assert np.array_equal(found.users_SS, whole.users_SS)
        assert np.array_equal(found.rfm_U3, whole.rfm_U3[np.lexsort(whole.rfm_U3.T)])


def test_every_user_with_activity_is_in_one_segment() -> None:
    found = rfm_table(lives_of(LOG, recipe()))
    assert found is not None
    assert found.users == len(USERS) == sum(one.users or 0 for one in found.segments)
    spend = sum((one.spend or 0.0) * (one.users or 0) for one in found.segments)
    assert spend == pytest.approx(sum(row.value or 0.0 for row in LOG), abs=0.01)
    assert len(segments(found)) == 1 + len(found.segments)


def test_small_groups_are_hidden() -> None:
    counts, frame = lives_of(LOG, recipe()), frame_for(LOG, recipe())
    assert rfm_table(counts, min_users=len(USERS) + 1) is None
    table = rfm_table(counts, min_users=len(USERS))
    assert table is not None
    assert {one.users for one in table.segments} <= {0, None, len(USERS)}
    found = stage_days(counts, THRESHOLDS, first_day=frame.first_day, min_users=2)
    assert found is not None
    assert 1 not in {n for row in found.users.values() for n in row}
    for a, stage in enumerate(STAGES):
        for b in range(len(STAGES)):
            assert found.moves[stage][b] is None or counts.users_SS[a, b] != 1
    assert len({len(row) for row in moves(found)}) == 1
