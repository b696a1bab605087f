"""Cohorts against pandas, step by step."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.lifecycle.cohorts import Period, active_share, begin_of, cohort_cells, period_for, period_of

EPOCH = dt.date(1970, 1, 1)
ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(19_000, 19_120)), min_size=1, max_size=60)


@pytest.mark.parametrize("period", ["week", "month"])
@given(days=st.lists(st.integers(-1000, 40_000), min_size=1, max_size=20))
def test_periods_are_those_of_the_calendar(period: Period, days: list[int]) -> None:
    found = begin_of(period_of(np.array(days), period=period), period=period)
    for day, begin in zip(days, found.tolist(), strict=True):
        date = EPOCH + dt.timedelta(days=day)
        expected = date - dt.timedelta(days=date.weekday()) if period == "week" else date.replace(day=1)
        assert EPOCH + dt.timedelta(days=begin) == expected


def test_long_logs_are_cut_into_months() -> None:
    assert (period_for(0, 181), period_for(0, 182)) == ("week", "month")


@pytest.mark.parametrize("period", ["week", "month"])
@given(rows=ROWS)
def test_the_table_is_that_of_pandas(period: Period, rows: list[tuple[int, int]]) -> None:
    log = pd.DataFrame(rows, columns=["user", "day"])
    log["period"] = pd.to_datetime(log.day, unit="D", origin="unix").dt.to_period("W" if period == "week" else "M")
    log["cohort"] = log.groupby("user").period.transform("min")
    log["since"] = [(p - c).n for p, c in zip(log.period, log.cohort, strict=True)]
    active = log.groupby(["cohort", "since"]).user.nunique()
    last = log.day.max()
    first_period = int(period_of(np.array([log.day.min()]), period=period)[0])

    where = period_of(log.day.to_numpy(), period=period) - first_period
    count = int(where.max()) + 1
    table = np.zeros((count, count), np.int64)
    np.add.at(table, cohort_cells(log.user.to_numpy(), where), 1)
    begins = begin_of(first_period + np.arange(count + 1), period=period)
    share = active_share(table, full=int((begins[1:] <= last + 1).sum()))

    for c, cohort in enumerate(
        pd.period_range(log.period.min(), log.period.max(), freq="W" if period == "week" else "M")
    ):
        for k in range(count):
            ends = (cohort + k).end_time.date()
            size = active.get((cohort, 0), 0)
            if ends > EPOCH + dt.timedelta(days=int(last)) or not size:
                assert np.isnan(share[c, k])
            else:
                assert share[c, k] == active.get((cohort, k), 0) / size


def test_small_groups_are_hidden() -> None:
    table = np.array([[10, 4, 0], [3, 3, 0], [10, 5, 0]])
    share = active_share(table, full=3, min_users=5)
    assert np.isnan(share[0, 1])
    assert np.isnan(share[1]).all()
    assert (share[0, 0], share[0, 2], share[2, 0]) == (1.0, 0.0, 1.0)
    assert np.isnan(share[2, 1])  # not known yet
