"""CSV and JSON lines: a broken line costs itself alone, and is named by its number."""

import csv
import gzip
import io
import json
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clm_ray.data.clean import ROW
from clm_ray.data.sources.lines import Lines, csv_header, jsonl_keys, read_csv, read_jsonl


def csv_lines(data: bytes, *, columns=("a", "b"), delimiter=",", block_bytes=1 << 20) -> Lines:
    return joined(read_csv(pa.BufferReader(data), columns=columns, delimiter=delimiter, block_bytes=block_bytes))


def json_lines(data: bytes, *, columns=("a", "b"), block_bytes=1 << 20) -> Lines:
    return joined(read_jsonl(pa.BufferReader(data), columns=columns, block_bytes=block_bytes))


def joined(blocks) -> Lines:
    found = list(blocks)
    rows = [row for block in found for row in block.rows.to_pylist()]
    return Lines(rows, [line for block in found for line in block.broken])


def test_rows_carry_the_number_of_their_line():
    read = csv_lines(b"a,b\n1,2\n\n3,4\r\n5,6")
    assert [row[ROW] for row in read.rows] == [2, 4, 5]
    assert read.rows[0] == {"a": "1", "b": "2", ROW: 2}
    assert read.rows[2] == {"a": "5", "b": "6", ROW: 5}


@pytest.mark.parametrize(
    "line",
    [b"1", b"1,2,3", b'"1,2', b'1,"2', b"\xff,2", b'x"1,"2', b"1\r,2", b"1,2\r3,4", b'"1",2\r"3",4'],
)
def test_a_broken_csv_line_costs_itself_alone(line):
    read = csv_lines(b"a,b\n1,2\n" + line + b'\n3,"4,5"\n6,7\n')
    assert [(row[ROW], row["a"], row["b"]) for row in read.rows] == [(2, "1", "2"), (4, "3", "4,5"), (5, "6", "7")]
    assert [number for number, _ in read.broken] == [3]


def test_quotes_are_read_the_same_way_in_a_block_with_and_without_a_broken_line():
    lines = b'"a ""x"" b",2\n5" pipe,3\n"ab"c,4\n"",5\n'
    alone = csv_lines(b"a,b\n" + lines)
    beside = csv_lines(b"a,b\n" + lines + b"broken\n")
    assert alone.rows == beside.rows
    assert [row["a"] for row in alone.rows] == ['a "x" b', '5" pipe', "abc", ""]


def test_header_with_mark_quotes_spaces_and_repeats():
    data = b'\xef\xbb\xbf\n a ;"b;c";a\n1;2;3\n'
    assert csv_header(pa.BufferReader(data), delimiter=";") == ["a", "b;c", "a#2"]
    assert csv_lines(data, columns=("a", "a#2"), delimiter=";").rows == [{"a": "1", "a#2": "3", ROW: 3}]
    assert csv_header(pa.BufferReader(b"\n\n"), delimiter=",") == []


def test_a_carriage_return_is_text_within_quotes_and_nothing_else_makes_up_for_it():
    read = csv_lines(b'a,b\n"1\r2",3\n4,5\r6,7\n8,"9\n"\n')
    assert [(row["a"], row["b"]) for row in read.rows] == [("1\r2", "3")]
    assert [number for number, _ in read.broken] == [3, 4, 5]


@pytest.mark.parametrize("block_bytes", [1, 9, 1 << 20])
@pytest.mark.parametrize(
    "record", [b'1,"x\ny,2",z', b'1,2,"x\ny",2,3', b'1,"x\n\n5,6,7\ny,""2"",\n8,9"",2",z', b'1,2,3"4,"x\ny,5,6"']
)
def test_no_part_of_a_record_with_quoted_line_breaks_passes_for_a_row(record, block_bytes):
    read = csv_lines(b"a,b,c\n" + record + b"\n7,8,9\n", block_bytes=block_bytes)
    assert [(row["a"], row["b"]) for row in read.rows] == [("7", "8")]
    lines = record.split(b"\n")
    assert read.broken == [(n, line.decode()) for n, line in enumerate(lines, start=2) if line]


@pytest.mark.parametrize("block_bytes", [7, 1 << 20])
def test_a_quote_that_is_forgotten_costs_no_other_line(block_bytes):
    lines = ['1,"2', "3,4", '"5,6', *(f"{i},{i}" for i in range(7, 100)), '1,"2', *(["x,y"] * 70), '3",4', "end,end"]
    read = csv_lines("\n".join(["a,b", *lines]).encode(), block_bytes=block_bytes)
    assert [text for _, text in read.broken] == ['1,"2', '"5,6', '1,"2']
    assert len(read.rows) == len(lines) - 3
    assert read.rows[-1]["a"] == "end"


TEXT = st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8"), max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=20), st.integers(1, 64))
def test_what_the_csv_module_writes_is_read_whatever_the_block_size(pairs, block_bytes):
    pairs = [(a or "x", b) for a, b in pairs]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([("a", "b"), *pairs])
    read = csv_lines(file.getvalue().encode(), block_bytes=block_bytes)
    assert not read.broken
    assert [(row["a"], row["b"], row[ROW]) for row in read.rows] == [(*p, n) for n, p in enumerate(pairs, start=2)]


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(1, 64))
def test_any_bytes_become_rows_or_broken_lines(data, block_bytes):
    wanted = sum(bool(line.removesuffix(b"\r")) for line in data.split(b"\n"))
    for read, header in (
        (csv_lines(b"a,b\n" + data, block_bytes=block_bytes), 1),
        (json_lines(b"\n" + data, block_bytes=block_bytes), 1),
    ):
        numbers = [row[ROW] for row in read.rows] + [number for number, _ in read.broken]
        assert len(set(numbers)) == len(numbers) == wanted
        assert all(number > header for number in numbers)


def test_json_lines():
    data = b'{"a": 1, "b": "x"}\n\n{"b": null, "c": 2}\n[1]\n{"a": \n{"a": NaN, "b": Infinity}\n{"a": 12345678901234567890123}\nnull\n'
    read = json_lines(data)
    assert [row[ROW] for row in read.rows] == [1, 3, 6, 7]
    assert [number for number, _ in read.broken] == [4, 5, 8]
    assert read.rows[0] == {"a": 1, "b": "x", ROW: 1}
    assert jsonl_keys(pa.BufferReader(data)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "line", [rb'{"a": "x\ud83d"}', rb'{"\ud83d": 1}', rb'{"a": [{"b": "\udc00"}]}', b'{"a": ' + b"[" * 100_000]
)
def test_json_that_is_no_text_or_too_deep_is_a_broken_line(line):
    read = json_lines(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert [row["a"] for row in read.rows] == [1, 2]
    assert [number for number, _ in read.broken] == [2]
    assert jsonl_keys(pa.BufferReader(line)) == []


def test_json_values_of_mixed_types_become_text():
    data = b"".join(json.dumps({"a": a}).encode() + b"\n" for a in (5, "five", 5.5, None, True))
    assert [row["a"] for row in json_lines(data, columns=("a",)).rows] == ["5", "five", "5.5", None, "true"]


def test_no_bytes():
    assert csv_lines(b"") == Lines([], [])
    assert json_lines(b"") == Lines([], [])
    assert csv_lines(b"a,b\n") == Lines([], [])


def test_compressed_streams(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    stream = pa.input_stream(str(path))
    assert [row["a"] for row in joined(read_csv(stream, columns=["a"], delimiter=",")).rows] == ["1"]


@pytest.fixture
def short_fields() -> Iterator[None]:
    """The longest field of `csv` as Python starts with it."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


@pytest.mark.parametrize("beside", [b"", b"broken\n", b'"open\n'])
def test_a_long_field_is_read_whatever_stands_beside_it(short_fields, beside):
    long = b"x" * 200_000
    read = csv_lines(b"a,b\n" + long + b",2\n" + beside + b'"' + long + b'",4\n')
    assert [(len(row["a"]), row["b"]) for row in read.rows] == [(200_000, "2"), (200_000, "4")]
    assert len(read.broken) == bool(beside)


def test_a_long_name_of_a_column_is_read(short_fields):
    assert [len(name) for name in csv_header(pa.BufferReader(b"a," + b"x" * 200_000 + b"\n"), delimiter=",")] == [
        1,
        200_000,
    ]
