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
from clm_ray.data.bucket_lives import bucket_lives
from clm_ray.data.life_counts import LifeCounts
from clm_ray.data.report.life_figures import rfm_table, stage_days
from clm_ray.data.report.life_readings import moves, segments
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
    counts = lives_of(log, recipe())
    found = stage_days(counts, THRESHOLDS)
    assert found is not None
    for stage in STAGES:
        assert list(found.users[stage]) == [
            sum(row[d] == stage for row in expected.values()) for d in range(frame.days + 1)
        ]
    pairs = Counter(pair for row in expected.values() for pair in pairwise(row))
    ever = Counter(pair for row in expected.values() for pair in set(pairwise(row)))
    for a, one in enumerate(STAGES):
        left = sum(count for (before, _), count in pairs.items() if before == one)
        for b, two in enumerate(STAGES):
            share = None if not left else pytest.approx(pairs[one, two] / left, abs=1e-6)
            assert (found.moves[one][b], counts.users_SS[a, b]) == (share, ever[one, two])


def test_buckets_add_up_in_any_order() -> None:
    frame, whole = frame_for(LOG, recipe()), lives_of(LOG, recipe())
    parts = [bucket_lives(table_of([row for row in LOG if row.user == user]), VOCABULARY, THRESHOLDS) for user in USERS]
    for order in (parts, parts[::-1]):
        found = LifeCounts.of(order, frame)
        assert np.array_equal(found.flows.count_DSS, whole.flows.count_DSS)
        assert np.array_equal(found.users_SS, whole.users_SS)
        assert np.array_equal(found.rfm_U3, whole.rfm_U3)


def test_every_user_with_activity_is_in_one_segment() -> None:
    found = rfm_table(lives_of(LOG, recipe()))
    assert found is not None
    assert found.users == len(USERS) == sum(one.users or 0 for one in found.segments)
    spend = sum((one.spend or 0.0) * (one.users or 0) for one in found.segments)
    assert spend == pytest.approx(sum(row.value or 0.0 for row in LOG), abs=0.01)
    assert len(segments(found)) == 1 + len(found.segments)


def test_small_groups_are_hidden() -> None:
    counts = lives_of(LOG, recipe())
    assert rfm_table(counts, min_users=len(USERS) + 1) is None
    table = rfm_table(counts, min_users=len(USERS))
    assert table is not None
    assert {one.users for one in table.segments} <= {0, None, len(USERS)}
    found = stage_days(counts, THRESHOLDS, min_users=2)
    assert found is not None
    assert 1 not in {n for row in found.users.values() for n in row}
    for a, stage in enumerate(STAGES):
        for b in range(len(STAGES)):
            assert found.moves[stage][b] is None or counts.users_SS[a, b] != 1
    assert len({len(row) for row in moves(found)}) == 1
