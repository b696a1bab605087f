"""Times of any kind → UTC microseconds. Total: what cannot be read becomes null. Row by row the same, whatever the block.

Read are Arrow timestamps and dates of any unit; numbers (seconds, milliseconds, microseconds, nanoseconds); and ISO 8601 strings:
date, optional time to the nanosecond, optional offset ("Z", "UTC", "+02:00", "+0200", "+02"). Times without an offset are
local times of the declared zone; of an hour that occurs twice the first is meant, a time within an hour that is skipped is read
as the instant after it (Arrow knows no daylight saving after 2037: later local times may be an hour off).
"1/2/2017" is refused: nobody can know which day that is.

Shape letters: N rows.
"""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.data.normalise import NUMBER, as_text, flat
from clm_ray.errors import ConfigError, SchemaError
from clm_ray.schema import DAY_US

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]

SECOND_US = 1_000_000
_UNIT_US = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_AUTO_FROM = {"s": 1e8, "ms": 1e11, "us": 1e14, "ns": 1e17}
"""`auto`: the unit under which the number lies between March 1973 and the year 5138. Smaller numbers fit no unit (they may
be day numbers or counters) and are refused."""
_TICKS = (6.2e17, 6.8e17)
"""`auto` refuses these numbers too: as nanoseconds they lie in 1989 to 1991, as ticks of .NET (100 ns since the year 1) in 1965 to
2155."""
_ZONED = (-2_208_988_800 * SECOND_US, 7_258_118_400 * SECOND_US)
"""1900 to 2200: where zone rules are applied."""
_LATEST_US = 253_402_300_800 * SECOND_US
"""Year 10000: later times are refused."""
_INT64 = 9.2e18

_ISO = (
    r"^(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r" ?(?P<zone>[Zz]|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def check_timezone(name: str, *, field: str) -> None:
    """Raises ConfigError when `name` is not an IANA time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            "no such time zone", field=field, value=name, fix="an IANA name such as Europe/Berlin"
        ) from error


def parse_times(
    column: pa.Array | pa.ChunkedArray, *, timezone: str = "UTC", unit: TimeUnit = "auto", name: str = "timestamp"
) -> pa.Array:
    """int64 [N], UTC microseconds; null where the value is not a time.

    `timezone` is the zone of times without an offset, `unit` that of numbers. Raises SchemaError for nested columns.
    """
    column = flat(column)
    kind = column.type
    if pa.types.is_timestamp(kind):
        time_N, ok_N = _scaled(*_integers(column), unit=kind.unit)
        return _finish(time_N, ok_N, np.full(len(column), kind.tz is None), timezone=timezone)
    if pa.types.is_date(kind):
        days_N, ok_N = _integers(column.cast(pa.date32()))
        return _finish(days_N * DAY_US, ok_N, np.full(len(column), True), timezone=timezone)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _finish(*_numeric(column, unit=unit), np.full(len(column), False), timezone=timezone)
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.int64())
    if pa.types.is_boolean(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind):
        raise SchemaError(
            "is not a point in time", field=name, value=str(kind), fix="map a column of dates, numbers or ISO strings"
        )
    return _strings(as_text(column, name=name), timezone=timezone, unit=unit)


def _strings(text: pa.Array, *, timezone: str, unit: TimeUnit) -> pa.Array:
    text = pc.utf8_trim_whitespace(text)
    numeric = pc.fill_null(pc.match_substring_regex(text, NUMBER), False)
    time_N, ok_N, naive_N = _iso(text)
    if pc.any(numeric).as_py():
        digits = pc.if_else(numeric, text, pa.scalar(None, pa.string()))
        digits = pc.utf8_ltrim(digits, characters="+")  # Arrow reads integers without it only
        whole = pc.fill_null(pc.match_substring_regex(digits, r"^-?[0-9]{1,18}$"), False)
        for mask, kind in ((whole, pa.int64()), (pc.and_(numeric, pc.invert(whole)), pa.float64())):
            part = pc.cast(pc.if_else(mask, digits, pa.scalar(None, pa.string())), kind)
            part_time_N, part_ok_N = _numeric(part, unit=unit)
            time_N = np.where(part_ok_N, part_time_N, time_N)
            ok_N = ok_N | part_ok_N
            naive_N = naive_N & ~part_ok_N
    return _finish(time_N, ok_N, naive_N, timezone=timezone)


def _iso(text: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Local time [N] of each ISO string minus its offset, whether it is valid, and whether it had no offset."""
    parts = pc.extract_regex(text, _ISO)
    year_N, month_N, day_N, hour_N, minute_N, second_N = (
        _digits(parts, name) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    fraction = pc.utf8_rpad(_field(parts, "fraction"), width=9, padding="0")
    micro_N = np.asarray(fraction.cast(pa.int64()).to_numpy(zero_copy_only=False)) // 1000
    leap_N = (year_N % 4 == 0) & ((year_N % 100 != 0) | (year_N % 400 == 0))
    in_year_N = (month_N >= 1) & (month_N <= 12)
    longest_N = _DAYS_IN_MONTH[np.where(in_year_N, month_N, 0)] + (leap_N & (month_N == 2))
    zone_N, zone_ok_N, naive_N = _offsets(_field(parts, "zone"))
    ok_N = pc.is_valid(parts).to_numpy(zero_copy_only=False) & in_year_N & (day_N >= 1) & (day_N <= longest_N)
    ok_N &= (hour_N < 24) & (minute_N < 60) & (second_N < 60) & zone_ok_N & (year_N >= 1)
    seconds_N = ((_days(year_N, month_N, day_N) * 24 + hour_N) * 60 + minute_N) * 60 + second_N - zone_N
    return seconds_N * SECOND_US + micro_N, ok_N, naive_N


def _offsets(zone: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Offset [N] in seconds of "", "Z", "UTC", "+02:00", "+0200", "+02"; whether it is valid; whether there is none."""
    coded = pc.dictionary_encode(zone)
    table = [_offset(text) for text in coded.dictionary.to_pylist()]
    rows = coded.indices.to_numpy(zero_copy_only=False)
    seconds_N = np.array([0 if t is None else t for t in table], np.int64)[rows]
    return (
        seconds_N,
        np.array([t is not None for t in table], bool)[rows],
        np.array(coded.dictionary.to_pylist(), object)[rows] == "",
    )


def _offset(text: str) -> int | None:
    if text[:1] not in ("+", "-"):
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        return None
    return (hours * 60 + minutes) * (-60 if text[0] == "-" else 60)


def _days(year_N: NDArray[np.int64], month_N: NDArray[np.int64], day_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days since 1970 of a proleptic Gregorian date (the year starts in March, so that the leap day comes last)."""
    year_N = year_N - (month_N <= 2)
    era_N = year_N // 400
    of_era_N = year_N - era_N * 400
    of_year_N = (153 * ((month_N + 9) % 12) + 2) // 5 + day_N - 1
    return era_N * 146_097 + of_era_N * 365 + of_era_N // 4 - of_era_N // 100 + of_year_N - 719_468


def _numeric(column: pa.Array, *, unit: TimeUnit) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64(), safe=False)
    if pa.types.is_uint64(column.type):
        column = pc.cast(column, pa.int64(), safe=False)
    if pa.types.is_integer(column.type):
        value_N, ok_N = _integers(column)
    else:
        value_N = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        ok_N = np.isfinite(value_N) & (np.abs(value_N) < _INT64)
        value_N = np.where(ok_N, value_N, 0.0)
    if unit != "auto":
        return _scaled(value_N, ok_N, unit=unit)
    time_N = np.zeros(len(column), np.int64)
    known_N = np.zeros(len(column), bool)
    clear_N = ok_N & ~((value_N >= _TICKS[0]) & (value_N <= _TICKS[1]))
    for name, start in _AUTO_FROM.items():
        here_N = clear_N & (value_N >= start) & (value_N < start * 1e3)
        scaled_N, fits_N = _scaled(np.where(here_N, value_N, 0), here_N, unit=name)
        time_N, known_N = np.where(fits_N, scaled_N, time_N), known_N | fits_N
    return time_N, known_N


def _scaled(
    value_N: NDArray[np.int64] | NDArray[np.float64], ok_N: NDArray[np.bool_], *, unit: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Values in `unit` → microseconds (whole nanoseconds are cut, fractions rounded), and which of them are valid and fit."""
    factor = _UNIT_US[unit]
    ok_N = ok_N & (np.abs(value_N.astype(np.float64)) * factor < _INT64)
    value_N = np.where(ok_N, value_N, 0)
    if np.issubdtype(value_N.dtype, np.integer):
        whole_N = value_N.astype(np.int64)
        return whole_N // 1000 if unit == "ns" else whole_N * int(factor), ok_N
    return np.rint(value_N * factor).astype(np.int64), ok_N


def _finish(
    time_N: NDArray[np.int64], ok_N: NDArray[np.bool_], naive_N: NDArray[np.bool_], *, timezone: str
) -> pa.Array:
    """Shift local times to UTC, and null what is no time."""
    ok_N = ok_N & (time_N < _LATEST_US) & (time_N > -_LATEST_US)
    shift_N = ok_N & naive_N & (time_N >= _ZONED[0]) & (time_N < _ZONED[1])
    if timezone.upper() != "UTC" and shift_N.any():
        local = pa.array(np.where(shift_N, time_N, 0)).cast(pa.timestamp("us"))
        utc = pc.assume_timezone(local, timezone, ambiguous="earliest", nonexistent="latest")
        time_N = np.where(shift_N, utc.cast(pa.int64()).to_numpy(zero_copy_only=False), time_N)
    return pa.array(time_N, pa.int64(), mask=~ok_N)


def _integers(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    ok_N = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    return pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False), ok_N


def _field(parts: pa.Array, name: str) -> pa.Array:
    return pc.fill_null(pc.struct_field(parts, name), "")


def _digits(parts: pa.Array, name: str) -> NDArray[np.int64]:
    text = _field(parts, name)
    filled = pc.if_else(pc.equal(text, ""), "0", text)
    return np.asarray(filled.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
