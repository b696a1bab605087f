"""How often and when a user may be contacted: rolling caps, a least gap, and quiet hours on the user's own clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from clm_ray.config.channels import CapConfig, QuietHours
from clm_ray.policy.epochs import ZERO, zone_of
from clm_ray.schema import DAY_US, HOUR_US

_MINUTE = timedelta(minutes=1)
_LONGEST_STEP_BACK = 26 * 60
_US = timedelta(microseconds=1)


@dataclass(frozen=True)
class Contact:
    """One time that a user was contacted. `time`: from when it was to be delivered, UTC µs, which may lie in the future."""

    channel: str
    time: int


def cap_reason(contacts: Iterable[Contact], at: int, *, cap: CapConfig) -> str | None:
    """Why one more contact at `at` (µs) would be too many; None where it is not.

    A window of d days holds every contact less than d days before `at`, and those still to be delivered. Both bounds are half-open, so a
    contact exactly d days, or exactly the least gap, ago does not count any more.
    """
    times = [contact.time for contact in contacts]
    for window in cap.windows:
        within = sum(at - time < round(window.days * DAY_US) for time in times)
        if within >= window.most:
            return f"contacted {within} times within {window.days:g} days, at most {window.most}"
    nearest = min((abs(at - time) for time in times), default=None)
    if nearest is not None and nearest < round(cap.min_gap_hours * HOUR_US):
        return f"contacted {nearest / HOUR_US:.1f} hours before, again after {cap.min_gap_hours:g}"
    return None


def longest_window_us(caps: Iterable[CapConfig]) -> int:
    """How far back these caps look, µs."""
    spans = [round(window.days * DAY_US) for cap in caps for window in cap.windows]
    return max([*spans, *(round(cap.min_gap_hours * HOUR_US) for cap in caps)], default=0)


def is_quiet(time_us: int, *, quiet: QuietHours, timezone: str) -> bool:
    """Whether the clock on the user's wall shows a quiet hour at this moment (UTC µs). Begin is quiet, end is not."""
    return _quiet_at(_local(time_us, timezone), quiet)


def quiet_until(time_us: int, *, quiet: QuietHours, timezone: str) -> int | None:
    """None where it is not quiet; else the first moment (UTC µs, a whole minute) at which it no longer is.

    Clocks that go forward over `end` end the quiet at that change; where they go back, an hour that is shown twice is quiet both times.
    """
    if not is_quiet(time_us, quiet=quiet, timezone=timezone):
        return None
    zone = zone_of(timezone)
    now = ZERO + timedelta(microseconds=time_us)
    local = now.astimezone(zone)
    ends = []
    for days in (0, 1, 2):
        date = (local + timedelta(days=days)).date()
        for fold in (0, 1):
            end = datetime(date.year, date.month, date.day, *_hhmm(quiet.end), tzinfo=zone, fold=fold).astimezone(UTC)
            if end > now and not _quiet_at(end.astimezone(zone), quiet):
                ends.append(end)
    first = min(ends)
    # A clock that jumped over `end` was already past it some minutes earlier.
    for _ in range(_LONGEST_STEP_BACK):
        before = first - _MINUTE
        if before <= now or _quiet_at(before.astimezone(zone), quiet):
            break
        first = before
    return (first - ZERO) // _US


def _local(time_us: int, timezone: str) -> datetime:
    return (ZERO + timedelta(microseconds=time_us)).astimezone(zone_of(timezone))


def _quiet_at(local: datetime, quiet: QuietHours) -> bool:
    minute = local.hour * 60 + local.minute
    begin, end = (hour * 60 + least for hour, least in (_hhmm(quiet.begin), _hhmm(quiet.end)))
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def _hhmm(text: str) -> tuple[int, int]:
    return int(text[:2]), int(text[3:])
