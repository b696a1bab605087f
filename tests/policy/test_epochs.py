"""Epochs tile time on every calendar, daylight-saving changes and skipped days included."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clm_ray.errors import DataError
from clm_ray.policy.epochs import epoch_of

HOUR = 3_600_000_000
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "America/Havana",
    "America/St_Johns",
    "Pacific/Apia",
    "America/Toronto",
)


def us(*when: int, zone: str = "UTC") -> int:
    return int(datetime(*when, tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000  # type: ignore[misc,arg-type]


@given(
    st.sampled_from(ZONES), st.integers(us(1915, 1, 1), us(2035, 1, 1)), st.integers(1, 10), st.integers(0, 400 * HOUR)
)
@example("Pacific/Apia", us(2011, 12, 30, 9), 1, 2 * HOUR)
@example("America/Toronto", us(1919, 3, 31, 4, 30), 1, HOUR)
@example("America/St_Johns", us(2006, 10, 29, 2, 30, 30), 1, HOUR // 12)
def test_epochs_tile_time(zone: str, time: int, days: int, later: int) -> None:
    epoch = epoch_of(time, timezone=zone, epoch_days=days)
    assert epoch.start <= time
    assert epoch_of(epoch.start, timezone=zone, epoch_days=days) == epoch
    assert epoch_of(epoch.start - 1, timezone=zone, epoch_days=days).index < epoch.index
    assert epoch_of(time + later, timezone=zone, epoch_days=days).index >= epoch.index


def test_weekly_epochs_begin_on_local_mondays() -> None:
    sunday = epoch_of(us(2024, 6, 9, 23, 59, zone="Europe/Berlin"), timezone="Europe/Berlin", epoch_days=7)
    monday = epoch_of(us(2024, 6, 10, 0, 0, zone="Europe/Berlin"), timezone="Europe/Berlin", epoch_days=7)
    assert monday.index == sunday.index + 1
    assert monday.start == us(2024, 6, 9, 22)


def test_a_daylight_saving_change_makes_a_day_of_23_or_25_hours() -> None:
    def length(year: int, month: int, day: int) -> int:
        noon = us(year, month, day, 12, zone="Europe/Berlin")
        start = epoch_of(noon, timezone="Europe/Berlin", epoch_days=1).start
        return epoch_of(noon + 24 * HOUR, timezone="Europe/Berlin", epoch_days=1).start - start

    assert [length(2024, 3, 31), length(2024, 10, 27), length(2024, 6, 1)] == [23 * HOUR, 25 * HOUR, 24 * HOUR]


def test_two_users_far_apart_are_in_different_epochs() -> None:
    time = us(2024, 6, 9, 22, 30)
    east, west = (epoch_of(time, timezone=z, epoch_days=7).index for z in ("Asia/Tokyo", "America/Los_Angeles"))
    assert east == west + 1


def test_microseconds_are_exact() -> None:
    start = epoch_of(us(2024, 6, 10, 5), timezone="UTC", epoch_days=7).start
    assert start == int(datetime(2024, 6, 10, tzinfo=UTC).timestamp()) * 1_000_000
    assert epoch_of(start - 1, timezone="UTC", epoch_days=7).start < start


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(DataError, match="IANA name"):
        epoch_of(0, timezone=zone, epoch_days=7)
