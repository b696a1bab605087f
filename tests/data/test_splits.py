"""Splits against sorting all rows and cutting the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.config.data import SplitConfig
from clm_ray.data.splits import SplitPlan, plan_splits
from clm_ray.errors import ConfigError, DataError
from clm_ray.schema import DAY_US, TEST, TRAIN, VALID

Key = tuple[int, str, str]
# Few distinct times: most rows share their moment with others, so the cuts fall into ties. As text, "10" comes before "9".
KEYS = st.tuples(st.integers(0, 6), st.sampled_from(["9", "10", "2"]), st.sampled_from([str(n) for n in range(7, 13)]))
LOGS = st.lists(KEYS, min_size=10, max_size=60, unique=True)
SHARES = st.sampled_from([(0.1, 0.1), (0.2, 0.1), (0.15, 0.25)])


def table(keys: Sequence[Key]) -> pa.Table:
    times, users, items = zip(*keys, strict=True)
    return pa.table({"timestamp": pa.array(times, pa.timestamp("us", "UTC")), "user_id": users, "item_id": items})


def planned(keys: Sequence[Key], **config: Any) -> SplitPlan:
    end = max(time for time, *_ in keys) + 1
    return plan_splits(SplitConfig(**config), table(keys), log_end=end, activity_end=end)


def splits_of(plan: SplitPlan, keys: Sequence[Key]) -> dict[Key, int]:
    """Ask user by user, as the build does."""
    found = {}
    for user in {user for _, user, _ in keys}:
        mine = [key for key in keys if key[1] == user]
        split = plan.of_targets(user, np.array([time for time, *_ in mine]), [item for *_, item in mine])
        assert split.dtype == np.int32
        found |= dict(zip(mine, split.tolist(), strict=True))
    return found


def by_number(key: Key) -> tuple[int, int, int]:
    return key[0], int(key[1]), int(key[2])


@given(LOGS, SHARES)
def test_row_shares_cut_the_sorted_log(keys: list[Key], shares: tuple[float, float]) -> None:
    valid, test = shares
    rows = sorted(keys, key=by_number)
    first, second = int(len(rows) * (1 - valid - test)), int(len(rows) * (1 - test))
    expected = {key: TRAIN if n < first else VALID if n < second else TEST for n, key in enumerate(rows)}
    plan = planned(keys, protocol="row_share", valid_share=valid, test_share=test)
    assert splits_of(plan, keys) == expected
    assert (plan.train_end, plan.valid_end) == (rows[first][0], rows[second][0])


@given(LOGS)
def test_ids_that_are_no_numbers_are_compared_as_text(keys: list[Key]) -> None:
    named = [(time, f"u{user}", item) for time, user, item in keys]
    rows = sorted(named, key=lambda key: (key[0], key[1], int(key[2])))
    first, second = int(len(rows) * (1 - 0.1 - 0.1)), int(len(rows) * (1 - 0.1))
    expected = {key: TRAIN if n < first else VALID if n < second else TEST for n, key in enumerate(rows)}
    assert splits_of(planned(named), named) == expected


@given(LOGS, SHARES)
def test_per_user_takes_the_last_rows_of_each_user(keys: list[Key], shares: tuple[float, float]) -> None:
    valid, test = shares
    plan = planned(keys, protocol="per_user", valid_share=valid, test_share=test)
    found = splits_of(plan, keys)
    for user in {user for _, user, _ in keys}:
        rows = sorted((key for key in keys if key[1] == user), key=by_number)
        last, before = max(1, int(len(rows) * test)), max(1, int(len(rows) * valid))
        expected = [TRAIN] * max(0, len(rows) - last - before)
        expected += [VALID] * min(before, len(rows) - last) + [TEST] * last
        assert [found[key] for key in rows] == expected


@given(LOGS, st.sampled_from(["row_share", "per_user"]), st.sampled_from(["9", "10", "2", "new"]))
def test_a_moment_without_items_of_its_own_has_one_split(keys: list[Key], protocol: str, user: str) -> None:
    """Occasions whose candidates are sampled are split whole: they have a time and a user, but no item to compare."""
    plan = planned(keys, protocol=protocol)
    times = np.arange(-1, 9)
    split = plan.of_targets(user, times, [""] * len(times))
    assert (np.diff(split) >= 0).all()
    if protocol == "row_share":
        assert (split[times < plan.train_end] == TRAIN).all()
        assert (split[times > plan.valid_end] == TEST).all()


def test_items_that_the_log_never_labelled_have_a_split_too() -> None:
    """A slate may hold items that no labelled row names, with other ids."""
    keys = [(0, str(user), "1") for user in range(20)]
    assert planned(keys).of_targets("3", np.zeros(2, np.int64), ["1", "gift-card"]).tolist() == [TRAIN, TRAIN]


def test_dates_cut_at_their_midnight_utc() -> None:
    config = SplitConfig(protocol="time", train_end="1970-01-03", valid_end="1970-01-04T12:00:00+02:00")
    plan = plan_splits(config, table([(0, "u", "i")]), log_end=9 * DAY_US, activity_end=9 * DAY_US)
    cuts = (2 * DAY_US, 3 * DAY_US + 10 * DAY_US // 24)
    assert (plan.train_end, plan.valid_end) == cuts
    times = np.array([cuts[0] - 1, cuts[0], cuts[1] - 1, cuts[1]])
    assert plan.of_targets("u", times, ["i"] * 4).tolist() == [TRAIN, VALID, VALID, TEST]
    split, censored = plan.of_references(times)
    assert split.tolist() == [TRAIN, VALID, VALID, TEST]
    assert censored.tolist() == [cuts[0], cuts[1], cuts[1], 9 * DAY_US]


def test_an_embargo_leaves_out_what_lies_close_before_a_cut() -> None:
    config = SplitConfig(protocol="time", train_end="1970-01-03", valid_end="1970-01-05", embargo_days=0.5)
    plan = plan_splits(config, table([(0, "u", "i")]), log_end=9 * DAY_US, activity_end=9 * DAY_US)
    train, valid = 2 * DAY_US, 4 * DAY_US
    times = np.array(
        [train - DAY_US // 2 - 1, train - DAY_US // 2, train, valid - DAY_US // 2 - 1, valid - 1, valid, 9 * DAY_US - 1]
    )
    split = plan.of_targets("u", times, ["i"] * 7)
    usable = plan.usable(split, times, times)
    assert usable.tolist() == [True, False, True, True, False, True, True]
    references, censored = plan.of_references(times)
    assert (censored > times).tolist() == usable.tolist(), "a reference in the embargo is censored at once"
    assert set(censored[usable & (references == TRAIN)].tolist()) == {train}, "others may look up to the cut"
    refit = SplitConfig(protocol="time", train_end="1970-01-03", valid_end="1970-01-05", embargo_days=0.5, refit=True)
    plan = plan_splits(refit, table([(0, "u", "i")]), log_end=9 * DAY_US, activity_end=9 * DAY_US)
    assert plan.usable(plan.of_targets("u", times, ["i"] * 7), times, times).all()


@given(LOGS, st.sampled_from(["row_share", "per_user"]), st.integers(1, 4))
def test_an_embargo_keeps_its_distance_from_the_next_split(keys: list[Key], protocol: str, days: int) -> None:
    plan = planned(keys, protocol=protocol, embargo_days=days / DAY_US)
    for user in {user for _, user, _ in keys}:
        mine = [key for key in keys if key[1] == user]
        times = np.array([time for time, *_ in mine], np.int64)
        split = plan.of_targets(user, times, [item for *_, item in mine])
        usable = plan.usable(split, times, times)
        for earlier, later, cut in ((TRAIN, VALID, plan.train_end), (VALID, TEST, plan.valid_end)):
            if protocol == "per_user":
                cut = int(times[split >= later].min(initial=plan.log_end))
            expected = times[split == earlier] < cut - days
            assert usable[split == earlier].tolist() == expected.tolist()
        assert usable[split == TEST].all()


@pytest.mark.parametrize("protocol", ["time", "row_share", "per_user"])
def test_refit_trains_on_everything_up_to_the_end(protocol: str) -> None:
    dates = {"train_end": "1970-01-03", "valid_end": "1970-01-04"}
    keys = [(n * DAY_US, "u", str(n)) for n in range(12)]
    plan = planned(keys, protocol=protocol, refit=True, **dates)
    times = np.array([time for time, *_ in keys])
    assert plan.of_targets("u", times, ["1"] * 12).tolist() == [TRAIN] * 12
    split, censored = plan.of_references(times)
    assert split.tolist() == [TRAIN] * 12
    assert set(censored.tolist()) == {11 * DAY_US + 1}


@given(LOGS, SHARES)
def test_a_reference_is_censored_at_the_end_of_its_split(keys: list[Key], shares: tuple[float, float]) -> None:
    plan = planned(keys, valid_share=shares[0], test_share=shares[1])
    times = np.arange(0, plan.log_end)
    split, censored = plan.of_references(times)
    ends = {TRAIN: plan.train_end, VALID: plan.valid_end, TEST: plan.log_end}
    for time, which, end in zip(times, split, censored, strict=True):
        assert end == ends[int(which)]
        assert time < end
        assert which == (TRAIN if time < plan.train_end else VALID if time < plan.valid_end else TEST)


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(DataError, match="too few") as few:
        planned([(0, "u", str(n)) for n in range(9)])
    assert (few.value.field, few.value.value) == ("split", 9)
    for dates in (("1970-01-04", "1970-01-03"), ("1970-01-03", "1999-01-01")):
        with pytest.raises(ConfigError, match="in order") as order:
            planned([(4 * DAY_US, "u", "i")], protocol="time", train_end=dates[0], valid_end=dates[1])
        assert dates[0] in str(order.value.value)
    with pytest.raises(ConfigError, match="not an ISO date") as date:
        planned([(0, "u", "i")], protocol="time", train_end="soon", valid_end="1970-01-03")
    assert (date.value.field, date.value.value) == ("split.train_end", "soon")
