"""Tables of files: what they hold and how they are cut into tasks."""

import datetime as dt
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray.config.source import TableConfig
from clm_ray.data.clean import ROW
from clm_ray.data.normalise import as_ids
from clm_ray.data.sources import tables
from clm_ray.data.sources.tables import Piece, open_table, pieces_of, read_whole, resolve_columns
from clm_ray.errors import ConfigError, DataError, SchemaError


def config(path, *, format="parquet", **more) -> TableConfig:
    return TableConfig(paths=(str(path),), format=format, **more)


def read(found: TableConfig, columns: dict[str, str]) -> list[dict[str, object]]:
    files = open_table(found, field="f")
    return [row for _, block in read_whole(files, columns=columns) for row in block.rows.to_pylist()]


def test_the_same_rows_from_every_format(tmp_path):
    rows = [{"a": f"x{i}", "b": str(i)} for i in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    text = "".join(f"x{i},{i}\n" for i in range(5))
    (tmp_path / "t.csv").write_text("a,b\n" + text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(("a,b\n" + text).encode()))
    (tmp_path / "t.jsonl.gz").write_bytes(
        gzip.compress("".join(f'{{"a":"x{i}","b":"{i}"}}\n' for i in range(5)).encode())
    )
    for name, format, first in (
        ("t.parquet", "parquet", 1),
        ("t.csv", "csv", 2),
        ("t.csv.gz", "csv", 2),
        ("t.jsonl.gz", "jsonl", 1),
    ):
        found = read(config(tmp_path / name, format=format), {"user_id": "a", "value": "b"})
        assert found == [{"user_id": r["a"], "value": r["b"], ROW: i + first} for i, r in enumerate(rows)]


def test_parquet_is_cut_at_row_groups_and_keeps_its_row_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_PIECE_ROWS", 4)
    pq.write_table(pa.table({"a": range(10)}), tmp_path / "t.parquet", row_group_size=3)
    files = open_table(config(tmp_path / "t.parquet"), field="f")
    assert pieces_of(files) == [Piece(0, (0, 1), 1), Piece(0, (2, 3), 7)]
    assert [(r["x"], r[ROW]) for r in read(config(tmp_path / "t.parquet"), {"x": "a"})] == [
        (i, i + 1) for i in range(10)
    ]


def test_required_columns_must_be_in_every_file(tmp_path):
    pq.write_table(pa.table({"a": [1], "b": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "2.parquet")
    found = config(tmp_path, columns={"user_id": "a", "value": "b"})
    files = open_table(found, field="f")
    assert resolve_columns(files, found, field="f", required=["user_id"], optional=["value"]) == {
        "user_id": "a",
        "value": "b",
    }
    with pytest.raises(SchemaError, match=r"'b' \(for value\) is not in 2\.parquet, which has: a"):
        resolve_columns(files, found, field="f", required=["user_id", "value"])


def test_mapping_what_is_no_column(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    found = config(tmp_path, columns={"usr": "a"})
    with pytest.raises(ConfigError, match="usr"):
        resolve_columns(open_table(found, field="f"), found, field="f", required=["user_id"])


def test_a_rare_key_of_json_lines_may_be_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n')
    found = config(tmp_path / "t.jsonl", format="jsonl", columns={"value": "rare"})
    files = open_table(found, field="f")
    assert resolve_columns(files, found, field="f", required=["a"], optional=["value"]) == {"a": "a", "value": "rare"}
    with pytest.raises(SchemaError, match="user_id"):
        resolve_columns(files, found, field="f", required=["user_id"], optional=["value"])


@pytest.mark.parametrize(
    ("name", "format", "content"),
    [
        ("t.parquet", "parquet", b"PAR1 this is none"),
        ("t.parquet", "parquet", b""),
        ("t.csv.gz", "csv", b"not gzip"),
        ("t.csv", "csv", b"a\rb,c\n1,2\n"),
        ("t.csv", "csv", b'a,"b\n1,2\n'),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, format, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"cannot be read as {format}") as caught:
        open_table(config(tmp_path / name, format=format), field="source.events")
    assert caught.value.value == name


def test_a_damaged_row_group_of_parquet_costs_its_own_rows(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"a": [f"{i}" * 50 for i in range(2000)]})
    pq.write_table(table, path, compression="gzip", use_dictionary=False, row_group_size=500)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start + 30 : start + 330] = b"\xff" * 300
    path.write_bytes(bytes(data))
    blocks = [block for _, block in read_whole(open_table(config(path), field="f"), columns={"x": "a"})]
    rows = [(row[ROW], row["x"]) for block in blocks for row in block.rows.to_pylist()]
    assert rows == [(n + 1, f"{n}" * 50) for n in range(2000) if not 500 <= n < 1000]
    broken = [line for block in blocks for line in block.broken]
    assert [row for row, _ in broken] == list(range(501, 1001))
    assert {text[:24] for _, text in broken} == {"row group 1 is damaged: "}


def test_storage_that_fails_is_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x"] * 10}), path)
    files = open_table(config(path), field="f")

    def unreadable(*_: object, **__: object) -> object:
        raise OSError("connection lost")

    monkeypatch.setattr(tables, "_check_readable", unreadable)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 40 + content[44:])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        list(read_whole(files, columns={"x": "a"}))


def test_a_truncated_gzip_is_named(tmp_path):
    path = tmp_path / "t.csv.gz"
    packed = gzip.compress(("a,b\n" + "".join(f"{i},{i * 7919 % 1000}\n" for i in range(200_000))).encode())
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"cannot be read as csv"):
        read(config(path, format="csv"), {"x": "a"})


def test_an_empty_text_file_has_no_rows(tmp_path):
    (tmp_path / "t.csv").write_text("")
    assert open_table(config(tmp_path / "t.csv", format="csv"), field="f") == []


def test_parquet_types_come_through(tmp_path):
    moment = dt.datetime(2024, 1, 1)
    pq.write_table(pa.table({"a": pa.array([moment], pa.timestamp("ms"))}), tmp_path / "t.parquet")
    assert read(config(tmp_path / "t.parquet"), {"timestamp": "a"}) == [{"timestamp": moment, ROW: 1}]


def invalid_text() -> pa.Array:
    """The strings "a\\xff" and "b", as a writer that does not check leaves them."""
    offsets = np.array([0, 2, 3], np.int32)
    return pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"a\xffb")])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_of_parquet_that_is_not_utf8_comes_as_bytes(tmp_path, kind):
    text = invalid_text()
    column = (
        text.dictionary_encode() if pa.types.is_dictionary(kind) else text.view(pa.binary()).cast(pa.large_binary())
    )
    if pa.types.is_large_string(kind):
        column = column.view(kind)
    elif pa.types.is_string(kind):
        column = text
    pq.write_table(pa.table({"a": column, "b": ["x", "y"]}), tmp_path / "t.parquet")
    (block,) = [block for _, block in read_whole(open_table(config(tmp_path), field="f"), columns={"a": "a", "b": "b"})]
    assert as_ids(block.rows.column("a"), name="a")[0].to_pylist() == [None, "b"]
    assert block.rows.column("b").to_pylist() == ["x", "y"]


def test_lists_of_text_that_is_not_utf8_are_damage(tmp_path):
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), invalid_text())
    pq.write_table(pa.table({"a": lists}), tmp_path / "t.parquet")
    (block,) = [block for _, block in read_whole(open_table(config(tmp_path), field="f"), columns={"a": "a"})]
    assert (block.rows.num_rows, [row for row, _ in block.broken]) == (0, [1, 2])
    assert "UTF8" in block.broken[0][1]


def test_columns_within_objects_are_read_from_parquet_and_json_lines(tmp_path):
    rows = [
        {"who": {"id": "a", "at": {"zone": "UTC"}}, "x.y": 1},
        {"who": None, "x.y": 2},
        {"who": {"id": "b", "at": None}, "x.y": 3},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"user_id": "who.id", "zone": "who.at.zone", "value": "x.y"}
    for name, format in (("t.parquet", "parquet"), ("t.jsonl", "jsonl")):
        found = config(tmp_path / name, format=format, columns=columns)
        files = open_table(found, field="f")
        assert set(columns.values()) <= set(files[0].columns)
        assert resolve_columns(files, found, field="f", required=list(columns)) == columns
        got = read(found, columns)
        assert [(r["user_id"], r["zone"], int(r["value"])) for r in got] == [
            ("a", "UTC", 1),
            (None, None, 2),
            ("b", None, 3),
        ]


def test_a_key_within_objects_that_no_record_has_is_told(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"who": {"id": 1}}\n{"who": 7}\n')
    found = config(tmp_path / "t.jsonl", format="jsonl", columns={"user_id": "who.id", "value": "who.spent"})
    (_, block), *_ = read_whole(open_table(found, field="f"), columns=found.columns)
    assert block.keys == {"user_id"}
    assert block.rows.column("user_id").to_pylist() == [1, None]


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_folders_of_the_form_name_is_value_are_columns(tmp_path, format):
    for day, kind in (("2024-05-01", "a%2Fb"), ("__HIVE_DEFAULT_PARTITION__", "c")):
        folder = tmp_path / f"day={day}" / f"kind={kind}"
        folder.mkdir(parents=True)
        if format == "parquet":
            pq.write_table(pa.table({"u": ["x"], "kind": ["own"]}), folder / "t.parquet")
        else:
            (folder / f"t.{format}").write_text(
                {"csv": "u,kind\nx,own\n", "jsonl": '{"u": "x", "kind": "own"}\n'}[format]
            )
    columns = {"user_id": "u", "timestamp": "day", "event_type": "kind"}
    found = config(tmp_path, format=format, columns=columns)
    files = open_table(found, field="f")
    assert resolve_columns(files, found, field="f", required=list(columns)) == columns
    got = sorted(read(found, columns), key=lambda row: str(row["timestamp"]))
    assert [row["timestamp"] for row in got] == ["2024-05-01", None]
    assert {row["event_type"] for row in got} == {"own"}, "what the file itself says comes first"
    assert [file.place.partitions()["kind"] for file in files] == ["a/b", "c"]
