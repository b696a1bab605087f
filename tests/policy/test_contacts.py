"""Caps never let one contact too many through, quiet hours hold on every calendar."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clm_ray.config.channels import CapConfig, CapWindow, QuietHours
from clm_ray.policy.contacts import Contact, cap_reason, is_quiet, longest_window_us, quiet_until

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia")
TIMES = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))
QUIET = st.builds(lambda b, e: (b, e), TIMES, TIMES).filter(lambda pair: pair[0] != pair[1])


def us(*when: int, zone: str = "UTC", fold: int = 0) -> int:
    return int(datetime(*when, tzinfo=ZoneInfo(zone), fold=fold).timestamp()) * 1_000_000  # type: ignore[misc,arg-type]


def hours(begin: str, end: str) -> QuietHours:
    return QuietHours(begin=begin, end=end)


@given(QUIET, st.sampled_from(ZONES), st.integers(us(2005, 1, 1), us(2030, 1, 1)))
@example(("22:00", "02:30"), "Europe/Berlin", us(2024, 3, 31, 1, 30, zone="Europe/Berlin"))
@example(("22:00", "02:30"), "Europe/Berlin", us(2024, 10, 27, 2, 10, zone="Europe/Berlin", fold=1))
@example(("22:00", "02:30"), "Europe/Berlin", us(2024, 10, 27, 2, 10, zone="Europe/Berlin"))
@example(("21:00", "08:00"), "Pacific/Apia", us(2011, 12, 30, 9, 59))
def test_quiet_ends_at_the_first_moment_that_is_not_quiet(pair: tuple[str, str], zone: str, time: int) -> None:
    quiet = hours(*pair)
    until = quiet_until(time, quiet=quiet, timezone=zone)
    assert (until is None) == (not is_quiet(time, quiet=quiet, timezone=zone))
    if until is None:
        return
    assert time < until <= time + 2 * DAY
    assert not is_quiet(until, quiet=quiet, timezone=zone)
    first_minute = time - time % MINUTE + MINUTE
    assert all(is_quiet(moment, quiet=quiet, timezone=zone) for moment in range(first_minute, until, 7 * MINUTE))
    assert is_quiet(until - MINUTE, quiet=quiet, timezone=zone) or until - MINUTE <= time


@pytest.mark.parametrize(
    ("local", "expected"),
    [("20:59", False), ("21:00", True), ("23:59", True), ("00:00", True), ("07:59", True), ("08:00", False)],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_quiet_hours_reach_over_midnight(local: str, expected: bool, zone: str) -> None:
    time = us(2024, 6, 1, int(local[:2]), int(local[3:]), zone=zone)
    assert is_quiet(time, quiet=hours("21:00", "08:00"), timezone=zone) is expected


def test_a_night_with_a_change_of_clocks_is_an_hour_shorter_or_longer() -> None:
    quiet = hours("21:00", "08:00")

    def night(*evening: int) -> int:
        time = us(*evening, 21, 0, zone="Europe/Berlin")
        return (quiet_until(time, quiet=quiet, timezone="Europe/Berlin") or 0) - time

    assert [night(2024, 3, 30), night(2024, 10, 26), night(2024, 6, 1)] == [10 * HOUR, 12 * HOUR, 11 * HOUR]


def test_clocks_that_jump_over_the_end_end_the_quiet() -> None:
    time = us(2024, 3, 31, 1, 0, zone="Europe/Berlin")
    until = quiet_until(time, quiet=hours("22:00", "02:30"), timezone="Europe/Berlin")
    assert until == us(2024, 3, 31, 3, 0, zone="Europe/Berlin") == time + HOUR


CAPS = st.builds(
    CapConfig,
    windows=st.lists(
        st.builds(CapWindow, days=st.sampled_from([1.0, 7.0, 28.0]), most=st.integers(0, 4)), max_size=3
    ).map(tuple),
    min_gap_hours=st.sampled_from([0.0, 12.0, 48.0]),
)


@given(CAPS, st.lists(st.integers(0, 60 * 24), max_size=60).map(sorted))
def test_whoever_obeys_never_breaks_a_window_or_a_gap(cap: CapConfig, tries: list[int]) -> None:
    """Whatever is tried and when: of what was let through no window of any position holds too many, and no two are too close."""
    sent: list[int] = []
    for hour in tries:
        if cap_reason([Contact("email", t) for t in sent], hour * HOUR, cap=cap) is None:
            sent.append(hour * HOUR)
    for window in cap.windows:
        for begin in sent:
            assert sum(begin <= t < begin + window.days * DAY for t in sent) <= window.most
    assert all(b - a >= cap.min_gap_hours * HOUR for a, b in pairwise(sent))


def test_caps_are_half_open_and_what_is_still_to_be_delivered_counts() -> None:
    cap = CapConfig(windows=(CapWindow(days=7, most=1),), min_gap_hours=48)
    assert cap_reason([Contact("email", 0)], 7 * DAY, cap=cap) is None
    assert "at most 1" in str(cap_reason([Contact("email", 1)], 7 * DAY, cap=cap))
    later = CapConfig(min_gap_hours=48)
    assert cap_reason([Contact("email", 10 * DAY)], 8 * DAY, cap=later) is None
    assert "again after 48" in str(cap_reason([Contact("email", 10 * DAY)], 9 * DAY, cap=later))
    assert longest_window_us([cap, CapConfig(min_gap_hours=24 * 9)]) == 9 * DAY
