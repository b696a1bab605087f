"""Decision epochs: periods of the user's own calendar, in which at most one decision is made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from clm_ray.errors import DataError

_MONDAY = date(1970, 1, 5).toordinal()
ZERO = datetime(1970, 1, 1, tzinfo=UTC)
"""From where times count."""
_US = timedelta(microseconds=1)


@dataclass(frozen=True)
class Epoch:
    """`index`: number of whole epochs since Monday 5 January 1970, local time. `start`: its first moment; `end`: the first of the next; UTC µs."""

    index: int
    start: int
    end: int


def epoch_of(time_us: int, *, timezone: str, epoch_days: int) -> Epoch:
    """The epoch that holds `time_us` (UTC µs) on the calendar of `timezone` (IANA name).

    Epochs are `epoch_days` local dates long and begin at local midnight, so that a weekly epoch begins on Mondays and lasts an hour
    more or less across a daylight-saving change. Epochs tile time: start(index) ≤ time_us < start(index + 1), always.
    Raises DataError for a zone that does not exist.
    """
    zone = zone_of(timezone)
    local = (ZERO + timedelta(microseconds=time_us)).astimezone(zone)
    index = (local.toordinal() - _MONDAY) // epoch_days
    # Where clocks change around midnight the local date can run ahead of, or behind, the start: the start decides.
    while time_us < (start := _start(index, zone, epoch_days)):
        index -= 1
    while time_us >= (following := _start(index + 1, zone, epoch_days)):
        index, start = index + 1, following
    return Epoch(index=index, start=start, end=following)


def _start(index: int, zone: ZoneInfo, epoch_days: int) -> int:
    midnight = datetime.combine(date.fromordinal(_MONDAY + index * epoch_days), time(), tzinfo=zone)
    return (midnight.astimezone(UTC) - ZERO) // _US


def zone_of(name: str) -> ZoneInfo:
    """The time zone of an IANA name. Raises DataError where there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise DataError(
            "no such time zone", field="timezone", value=name, fix="give an IANA name, e.g. Europe/Berlin"
        ) from error
