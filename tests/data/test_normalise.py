"""Ids, numbers, lists and maps from columns of any type."""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clm_ray.data.normalise import (
    as_flags,
    as_ids,
    as_labels,
    as_lists,
    as_numbers,
    as_text,
    as_vectors,
    column_of,
    map_of,
    read_ids,
)
from clm_ray.errors import SchemaError


def ids(column: pa.Array) -> list[str | None]:
    return as_ids(column, name="user_id")[0].to_pylist()


@given(st.lists(st.integers(-(2**53) + 1, 2**53 - 1), min_size=1))
def test_the_same_id_whatever_the_type_of_its_column(numbers):
    expected = [str(n) for n in numbers]
    assert ids(pa.array(numbers, pa.int64())) == expected
    assert ids(pa.array([float(n) for n in numbers])) == expected
    assert ids(pa.array([f"{n}.0" for n in numbers])) == expected
    assert ids(pa.array([f" {n} " for n in numbers]).dictionary_encode()) == expected
    assert ids(pa.array([Decimal(n) for n in numbers], pa.decimal128(38, 0))) == expected
    assert ids(pa.array([Decimal(n) for n in numbers], pa.decimal128(38, 2))) == expected


def test_ids_that_are_kept_as_they_are():
    assert ids(pa.array(["007", "5.5", "a b", "v1.0-rc", "2.00x"])) == ["007", "5.5", "a b", "v1.0-rc", "2.00x"]
    assert ids(pa.array([b"caf\xc3\xa9", b"\xff"])) == ["café", None]
    assert ids(pa.array([2**63 + 5], pa.uint64())) == [str(2**63 + 5)]


def test_missing_ids():
    assert ids(pa.array(["", "  ", None])) == [None, None, None]
    assert ids(pa.array([float("nan"), None])) == [None, None]
    assert ids(pa.nulls(2)) == [None, None]


def test_a_float_too_large_to_tell_ids_apart_is_inexact():
    found, inexact = as_ids(pa.array([2.0**53, 2.0**53 - 1, float("inf"), None]), name="user_id")
    assert found.to_pylist() == [None, str(2**53 - 1), None, None]
    assert inexact.to_pylist() == [True, False, False, False]


@pytest.mark.parametrize(("kind", "limit"), [(pa.float16(), 2**11), (pa.float32(), 2**24), (pa.float64(), 2**53)])
def test_how_far_a_float_tells_ids_apart_depends_on_its_width(kind, limit):
    column = pa.array([float(limit - 1), float(limit), -float(limit)], pa.float64()).cast(kind)
    found, inexact = as_ids(column, name="user_id")
    assert found.to_pylist() == [str(limit - 1), None, None]
    assert inexact.to_pylist() == [False, True, True]


@given(st.integers(-(2**60), 2**60))
@example(2**53)
@example(2**53 - 1)
@example(-(2**53))
def test_a_text_with_a_zero_fraction_is_as_exact_as_the_float_it_was(number):
    found, inexact = as_ids(pa.array([f"{number}.0", f" {number}.000 ", str(number)]), name="user_id")
    lost = abs(number) >= 2**53
    assert inexact.to_pylist() == [lost, lost, False]
    assert found.to_pylist() == [None if lost else str(number)] * 2 + [str(number)]


def test_texts_in_scientific_notation_have_lost_digits():
    lost = ["1.23457E+15", "1e+16", "-9.007199254740993e+15", "+1e+5", "2E+07"]
    kept = ["1e5", "12e+5", "1e-5", "e+5", "1e+", "id-1e+5", "a+b", "1.e+5", "007.0", "0.0"]
    found, inexact = as_ids(pa.array([*lost, *kept, None]), name="item_id")
    assert inexact.to_pylist() == [True] * len(lost) + [False] * (len(kept) + 1)
    assert found.to_pylist() == [None] * len(lost) + [*kept[:-2], "007", "0", None]


@pytest.mark.parametrize("values", [[2.0**53, "a"], [1e16, "a"], [1e16, 2.0]])
def test_a_large_float_of_json_is_inexact_beside_whatever(values):
    assert as_ids(column_of(values), name="user_id")[1].to_pylist() == [True, False]


def test_decimals_are_exact_whatever_their_size():
    column = pa.array([Decimal(2**53 + 1), Decimal(10**30)], pa.decimal128(38, 2))
    assert as_ids(column, name="user_id")[0].to_pylist() == [str(2**53 + 1), str(10**30)]


@given(st.lists(st.none() | st.uuids(), max_size=5))
def test_uuids_are_read_as_their_text(found):
    column = pa.array([None if one is None else one.bytes for one in found], pa.binary(16))
    column = pa.ExtensionArray.from_storage(pa.uuid(), column)
    texts = [None if one is None else str(one) for one in found]
    assert as_text(column, name="user_id").to_pylist() == texts
    assert ids(pa.chunked_array([column, column]).slice(1)) == [*texts, *texts][1:]


@pytest.mark.parametrize(
    ("column", "inexact", "unreadable"),
    [
        (pa.array(["a", "", "  ", None, "1e+9"]), [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]),
        (pa.array([b"a", b"\xff", b" ", None]), [0, 0, 0, 0], [0, 1, 0, 0]),
        (pa.array([1.0, float("nan"), float("inf"), None, 1e17]), [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]),
        (pa.array([b"\xff" * 16], pa.binary(16)), [0], [1]),
        (pa.array([1, None]), [0, 0], [0, 0]),
        (pa.nulls(2), [0, 0], [0, 0]),
    ],
)
def test_what_stands_there_and_is_no_id_is_told_from_what_does_not(column, inexact, unreadable):
    read = read_ids(column, name="event_id")
    assert read.inexact.to_pylist() == [bool(flag) for flag in inexact]
    assert read.unreadable.to_pylist() == [bool(flag) for flag in unreadable]


def test_labels_are_read_as_ids_and_never_lost():
    column = pa.array([" 5.0 ", "1e+05", "", None])
    assert as_labels(column, name="segment").to_pylist() == ["5", "1e+05", None, None]
    assert as_labels(pa.array([2.0, 2.0**53]), name="segment").to_pylist()[0] == "2"
    assert as_labels(pa.array([2.0**53]), name="segment").null_count == 0


def test_numbers():
    texts = pa.array(["5", " 5.5 ", "-1e3", ".5", "5.", "", "NaN", "inf", "1,5", "5 €", "0x10", None])
    assert as_numbers(texts, name="value").to_pylist() == [5, 5.5, -1000, 0.5, 5, *[None] * 7]
    assert as_numbers(pa.array([1, None]), name="value").to_pylist() == [1, None]
    assert as_numbers(pa.array([1.5, float("nan"), float("-inf")]), name="value").to_pylist() == [1.5, None, None]
    assert as_numbers(pa.array([Decimal("1.5")]), name="value").to_pylist() == [1.5]
    assert as_numbers(pa.array([True]), name="value").to_pylist() == [None]


@given(st.text())
@example("0\x1f")
def test_any_text_is_a_number_or_null(text):
    text = text.encode(errors="replace").decode()
    (read,) = as_numbers(pa.array([text]), name="value").to_pylist()
    try:
        assert read is None or read == float(
            text.strip()
        )  # float() keeps some separators that strip() takes for spaces
    except ValueError:
        pytest.fail(f"{text!r} was read as {read}")


def test_flags_default_to_no():
    column = pa.array(["true", "YES", "1", "t", "y ", "no", "", None, "maybe"])
    assert as_flags(column, name="consent").to_pylist() == [True] * 5 + [False] * 4
    assert as_flags(pa.array([True, False, None]), name="consent").to_pylist() == [True, False, False]
    assert as_flags(pa.array([1, 0]), name="consent").to_pylist() == [True, False]
    assert (
        as_flags(pa.array(["1.0", " 1.00", "0.0", "1.5", "-1.0"]), name="consent").to_pylist()
        == [True] * 2 + [False] * 3
    )
    assert as_flags(pa.array([1.0, 0.0, None]), name="consent").to_pylist() == [True, False, False]


def test_lists_from_lists_and_from_separated_text():
    assert as_lists(pa.array([["a", None, " b "], None, []]), name="c", separator="") == [["a", "b"], [], []]
    assert as_lists(pa.array(["a|b", "a||", None]), name="c", separator="|") == [["a", "b"], ["a"], []]
    assert as_lists(pa.array([1.0, 2.0]), name="c", separator="") == [["1"], ["2"]]


def test_nested_columns_are_refused_by_name():
    with pytest.raises(SchemaError, match="user_id"):
        as_text(pa.array([[1]]), name="user_id")


def test_columns_of_python_values():
    assert column_of([1, None, 2]).type == pa.int64()
    assert column_of([1, "a", 2.5, True, None, 5.0]).to_pylist() == ["1", "a", "2.5", "true", None, "5"]
    assert column_of([[1, None], None, ["a"]]).to_pylist() == [["1"], None, ["a"]]
    assert column_of([{"a": 1, "b": None}, None]).to_pylist() == [[("a", "1")], []]
    assert column_of([2**70, 1]).to_pylist() == [str(2**70), "1"]
    assert column_of([]).to_pylist() == []


def test_maps_leave_out_nulls():
    columns = {"a": pa.array(["1", None, None]), "b": pa.array([None, "2", None])}
    assert map_of(columns, rows=3).to_pylist() == [[("a", "1")], [("b", "2")], []]
    assert map_of({"a": pa.array(["1"]), "b": pa.array(["2"])}, rows=1).to_pylist() == [[("a", "1"), ("b", "2")]]
    assert map_of({}, rows=2).to_pylist() == [[], []]


def test_times_as_text_are_iso():
    assert as_text(pa.array([dt.date(2017, 1, 1)]), name="c").to_pylist() == ["2017-01-01"]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.int16())])
def test_vectors_of_lists(kind):
    column = pa.chunked_array([pa.array([[1, 2], None], kind), pa.array([[3, 4]], kind)]).slice(1)
    found = as_vectors(column, name="v")
    assert found.type == pa.list_(pa.float32())
    assert found.to_pylist() == [None, [3, 4]]


def test_vectors_of_texts():
    column = pa.array(["1 -2.5e1", "[1, 2]", " ( 1;2 ) ", "", None, "1 x", "1,,2", "inf 1", "[]"])
    assert as_vectors(column, name="v").to_pylist() == [[1, -25], [1, 2], [1, 2], None, None, None, [1, 2], None, None]


def test_a_vector_with_something_else_in_it_is_none():
    found = as_vectors(pa.array([[1.0, None], [1.0, float("nan")], [], [1e300], [2.0, 3.0]]), name="v")
    assert found.to_pylist() == [None, None, None, None, [2, 3]]
    assert as_vectors(pa.array([["1", "2"], ["a"]]), name="v").to_pylist() == [[1, 2], None]
    assert as_vectors(pa.nulls(2), name="v").to_pylist() == [None, None]
    assert as_vectors(pa.array([], pa.string()), name="v").to_pylist() == []
