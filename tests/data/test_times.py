"""Times of any kind become UTC microseconds, or null."""

import datetime as dt
from decimal import Decimal
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clm_ray.data.times import check_timezone, parse_times
from clm_ray.errors import ConfigError, SchemaError

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def micros(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(microseconds=1)


JAN = micros(dt.datetime(2017, 1, 1, tzinfo=dt.UTC))


@given(
    st.lists(
        st.datetimes(
            min_value=dt.datetime(1800, 1, 1),
            timezones=st.timezones() | st.just(dt.timezone(dt.timedelta(hours=-9, minutes=-30))),
        )
    )
)
def test_iso_strings_with_offset_agree_with_the_standard_library(moments):
    # Offsets of whole minutes only: local mean time has seconds, which ISO 8601 cannot write.
    moments = [m for m in moments if m.utcoffset().total_seconds() % 60 == 0]
    read = parse_times(pa.array([m.isoformat() for m in moments], pa.string()))
    assert read.to_pylist() == [micros(m) for m in moments]


@given(st.datetimes(min_value=dt.datetime(1920, 1, 1), max_value=dt.datetime(2037, 12, 31)))
def test_naive_strings_are_local_times_of_the_declared_zone(moment):
    # Arrow knows no daylight saving after 2037.
    zone = ZoneInfo("Europe/Berlin")
    local = moment.replace(tzinfo=zone)
    if local.astimezone(dt.UTC).astimezone(zone).replace(tzinfo=None) != moment:
        return  # does not exist: tested below
    read = parse_times(pa.array([moment.isoformat(sep=" ")]), timezone="Europe/Berlin")
    assert read.to_pylist() == [micros(local)]


@given(st.text() | st.text("0123456789+-.eE: TZ", max_size=24))
@example("+0")
@example("+1483228800")
def test_any_text_is_a_time_or_null(text):
    text = text.encode(errors="replace").decode()
    (read,) = parse_times(pa.array([text, "2017-01-01"])).to_pylist()[:1]
    assert read is None or isinstance(read, int)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2017-01-01", 0),
        ("2017-01-01T00:01", 60),
        ("2017-01-01 00:00:01.5", 1.5),
        ("2017-01-01T00:00:01,25Z", 1.25),
        ("2017-01-01 00:00:01 UTC", 1),
        ("2017-01-01T02:00:00+02:00", 0),
        ("2017-01-01T02:00:00+0200", 0),
        ("2016-12-31T19:00:00-05", 0),
        ("  2017-01-01T00:00:00Z ", 0),
        ("1483228800", 0),
        ("1483228801.5", 1.5),
        ("+1483228800", 0),
        ("1483228800000", 0),
        ("1483228800000000", 0),
    ],
)
def test_forms_that_are_read(text, seconds):
    assert parse_times(pa.array([text])).to_pylist() == [JAN + round(seconds * 1e6)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "1/2/2017",
        "1900-02-29",
        "2017-02-29",
        "2017-13-01",
        "2017-00-01",
        "2017-01-32",
        "2017-01-01T24:00",
        "2017-01-01T00:60",
        "2017-01-01T00:00:60",
        "2017-01-01T00:00:00+24:00",
        "17-01-01",
        "nan",
        "inf",
        "12",
        "20170101",
        "-5",
        "2017-01-01Z",
        "99999-01-01",
    ],
)
def test_forms_that_are_refused(text):
    assert parse_times(pa.array([text])).to_pylist() == [None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_arrow_timestamps_of_every_unit(unit):
    moment = dt.datetime(2017, 1, 1, 12)
    naive = pa.array([moment, None], pa.timestamp(unit))
    assert parse_times(naive).to_pylist() == [JAN + 12 * 3_600_000_000, None]
    assert parse_times(naive, timezone="Asia/Tokyo").to_pylist() == [JAN + 3 * 3_600_000_000, None]
    zoned = naive.cast(pa.timestamp(unit, "America/New_York"))
    assert parse_times(zoned, timezone="Asia/Tokyo").to_pylist() == [JAN + 12 * 3_600_000_000, None]


def test_dates_are_midnight_in_the_zone():
    days = pa.array([dt.date(2017, 1, 1)])
    assert parse_times(days).to_pylist() == [JAN]
    assert parse_times(days, timezone="Asia/Tokyo").to_pylist() == [JAN - 9 * 3_600_000_000]


def test_the_unit_of_numbers_is_guessed_by_magnitude_row_by_row():
    seconds = JAN // 1_000_000
    mixed = pa.array([seconds, seconds * 10**3, seconds * 10**6, seconds * 10**9, 17_167, 0, -1, None])
    assert parse_times(mixed).to_pylist() == [JAN, JAN, JAN, JAN, None, None, None, None]


def test_a_declared_unit_is_taken_at_its_word():
    assert parse_times(pa.array([0, -1, 12]), unit="s").to_pylist() == [0, -1_000_000, 12_000_000]
    assert parse_times(pa.array([1_500]), unit="ms").to_pylist() == [1_500_000]
    assert parse_times(pa.array([1_500]), unit="us").to_pylist() == [1_500]


def test_fractions_and_decimals():
    assert parse_times(pa.array([1483228800.25, float("nan"), float("inf"), 1e300])).to_pylist() == [
        JAN + 250_000,
        None,
        None,
        None,
    ]
    assert parse_times(pa.array([Decimal("1483228800.25")])).to_pylist() == [JAN + 250_000]


def test_numbers_out_of_all_range_are_null_not_an_error():
    assert parse_times(pa.array([2**63 - 1, -(2**63)]), unit="s").to_pylist() == [None, None]
    assert parse_times(pa.array([2**64 - 1], pa.uint64())).to_pylist() == [None]
    assert parse_times(pa.array([2**62], pa.timestamp("s"))).to_pylist() == [None]


def test_hours_that_come_twice_or_never():
    read = parse_times(pa.array(["2017-10-29 02:30", "2017-03-26 02:30"]), timezone="Europe/Berlin").to_pylist()
    assert read == [
        micros(dt.datetime(2017, 10, 29, 0, 30, tzinfo=dt.UTC)),  # the first of the two
        micros(dt.datetime(2017, 3, 26, 1, 0, tzinfo=dt.UTC)),  # the first instant after the gap
    ]


def test_the_leap_day_of_a_whole_century():
    assert parse_times(pa.array(["2000-02-29"])).to_pylist() == [micros(dt.datetime(2000, 2, 29, tzinfo=dt.UTC))]


def test_dictionaries_and_chunks_are_read_as_their_values():
    column = pa.chunked_array([["2017-01-01"], ["2017-01-01"]]).dictionary_encode()
    assert parse_times(column).to_pylist() == [JAN, JAN]


@pytest.mark.parametrize("column", [pa.array([True]), pa.array([[1]]), pa.array([1], pa.duration("s"))])
def test_what_is_no_point_in_time_names_the_column(column):
    with pytest.raises(SchemaError, match="seen_at"):
        parse_times(column, name="seen_at")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd"])
def test_unknown_zone(zone):
    with pytest.raises(ConfigError, match="time zone"):
        check_timezone(zone, field="source.events.timezone")


TICKS = 638_502_308_430_000_000
"""2024-05-02 07:14:03 in .NET."""


@pytest.mark.parametrize("number", [TICKS, 620_000_000_000_000_000, 680_000_000_000_000_000])
def test_numbers_that_may_be_ticks_of_dotnet_are_no_times_until_their_unit_is_named(number):
    for column in (
        pa.array([number]),
        pa.array([float(number)]),
        pa.array([str(number)]),
        pa.array([number], pa.uint64()),
    ):
        assert parse_times(column).to_pylist() == [None]
        assert parse_times(column, unit="ns").to_pylist() == [number // 1000]
    beside = pa.array([619_999_999_999_999_000, 680_000_000_000_001_000])
    assert parse_times(beside).to_pylist() == [619_999_999_999_999, 680_000_000_000_001]


def test_ticks_converted_as_the_documentation_says():
    moment = dt.datetime(2024, 5, 2, 7, 14, 3, tzinfo=dt.UTC)
    assert parse_times(pa.array([TICKS // 10_000_000 - 62_135_596_800])).to_pylist() == [micros(moment)]
