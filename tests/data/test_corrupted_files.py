"""Files with damage at random places: every good row survives as it was, every other line is counted, with its number and a reason."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clm_ray.config.source import TableConfig
from clm_ray.data.clean import CLEANED, Rules, broken_rows, clean_rows
from clm_ray.data.sources.tables import TableFile, open_table, read_whole
from clm_ray.errors import DataError

ROWS = 40
RULES = Rules(
    types=("buy", "view"),
    needs_item=frozenset({"buy"}),
    needs_value=frozenset({"buy"}),
    earliest_us=0,
    latest_us=1_800_000_000_000_000,
    buckets=4,
)
NAMES = ("user_id", "item_id", "event_type", "timestamp", "value")
FEW, MANY = (
    settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    for examples in (30, 150)
)
_GARBAGE = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b'"', b",,,,,,", b"\x00", b"\xff\xfe", b"{", b'{"a":', b"null", b"[]", b"NaN", b"\xef\xbb\xbf", b"\r"]
    ),
).map(lambda garbage: garbage.replace(b"\n", b""))


def _good(row: int) -> dict[str, str]:
    kind = "buy" if row % 2 else "view"
    time = f"2024-05-{row % 28 + 1:02d}T10:00:00Z"
    return dict(zip(NAMES, (f"u{row}", f'say "{row}", ü', kind, time, f"{row}.5"), strict=True))


def _line(row: int, format: str) -> bytes:
    values = _good(row)
    if format == "jsonl":
        return json.dumps(values, ensure_ascii=False).encode()
    return ",".join('"' + value.replace('"', '""') + '"' for value in values.values()).encode()


@pytest.mark.parametrize("format", ["csv", "jsonl"])
@FEW
@given(data=st.data())
def test_damage_costs_the_damaged_lines_alone(tmp_path: Path, format: str, data: st.DataObject) -> None:
    _damage_lines(tmp_path, format, data)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "jsonl"])
@MANY
@given(data=st.data())
def test_much_damage_costs_the_damaged_lines_alone(tmp_path: Path, format: str, data: st.DataObject) -> None:
    _damage_lines(tmp_path, format, data)


def _damage_lines(folder: Path, format: str, data: st.DataObject) -> None:
    lines = [_line(row, format) for row in range(ROWS)]
    damaged = data.draw(st.sets(st.integers(0, ROWS - 1), max_size=3), label="damaged")
    for row in damaged:
        line, garbage = lines[row], data.draw(_GARBAGE, label="garbage")
        first = data.draw(st.integers(0, len(line)), label="from")
        last = data.draw(st.integers(first, len(line)), label="to")
        lines[row] = line[:first] + garbage + line[last:]
    # Quotes that open in one damaged line and close in the next one make one record of all lines in between, which then are none of their own.
    between = range(min(damaged, default=0), max(damaged, default=-1) + 1) if format == "csv" else damaged
    found = _read(lines, format, folder)
    first = 2 if format == "csv" else 1
    seen = found.column("row").to_pylist()
    blank = {row + first for row in damaged if not lines[row].removesuffix(b"\r")}
    assert sorted(seen) == sorted({*range(first, ROWS + first)} - blank), "each line once"
    assert found.filter(found.column("reason").is_valid()).column("detail").null_count == 0
    kept = {row["row"] - first: row for row in found.to_pylist() if row["reason"] is None}
    for row in set(range(ROWS)) - set(between):
        good = _good(row)
        assert [kept[row][name] for name in ("user_id", "item_id", "event_type")] == [good[n] for n in NAMES[:3]]
        assert kept[row]["timestamp"].isoformat() == good["timestamp"].replace("Z", "+00:00")
        assert kept[row]["value"] == float(good["value"])


@FEW
@given(data=st.data())
def test_damage_of_parquet_costs_its_row_group_alone(tmp_path: Path, data: st.DataObject) -> None:
    _damage_parquet(tmp_path / "log.parquet", data)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_much_damage_of_parquet_costs_its_row_group_alone(tmp_path: Path, data: st.DataObject) -> None:
    _damage_parquet(tmp_path / "log.parquet", data)


def _damage_parquet(path: Path, data: st.DataObject) -> None:
    """Bytes anywhere in the pages, of a file with checksums: each row is what it was or counted as broken."""
    good = [_good(row) for row in range(ROWS)]
    pq.write_table(
        pa.Table.from_pylist(good),
        path,
        row_group_size=ROWS // 4,
        compression=data.draw(st.sampled_from(["snappy", "zstd", "none"]), label="compression"),
        use_dictionary=data.draw(st.booleans(), label="dictionary"),
        write_page_checksum=True,
    )
    files = open_table(TableConfig(paths=(str(path),)), field="source.events")
    pages = _pages(path)
    content = bytearray(path.read_bytes())
    touched = set()
    for _ in range(data.draw(st.integers(0, 3), label="places")):
        at = data.draw(st.integers(pages[0][0], pages[-1][1] - 1), label="at")
        content[at] ^= data.draw(st.integers(1, 255), label="bits")
        touched |= {group for group, (start, stop) in enumerate(pages) if start <= at < stop}
    path.write_bytes(bytes(content))
    found = _cleaned(files)
    seen = sorted(zip(found.column("row").to_pylist(), found.column("reason").to_pylist(), strict=True))
    assert [row for row, _ in seen] == list(range(1, ROWS + 1)), "each row once"
    for row in found.to_pylist():
        if row["reason"] is None:
            assert [row[name] for name in NAMES[:3]] == [good[row["row"] - 1][name] for name in NAMES[:3]]
        else:
            assert (row["row"] - 1) // (ROWS // 4) in touched
            assert row["reason"] == "broken line"


def _pages(path: Path) -> list[tuple[int, int]]:
    """Where the pages of each row group lie in the file."""
    metadata = pq.ParquetFile(path).metadata
    found = []
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(n) for n in range(metadata.num_columns)]
        starts = [c.dictionary_page_offset if c.has_dictionary_page else c.data_page_offset for c in chunks]
        found.append((min(starts), max(s + c.total_compressed_size for s, c in zip(starts, chunks, strict=True))))
    return found


@pytest.mark.parametrize("ending", ["gz", "bz2"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_of_a_compressed_file_stops_the_job_or_costs_nothing(
    tmp_path: Path, ending: str, data: st.DataObject
) -> None:
    """Where the rest of a file cannot be unpacked nobody can count its rows: the file is named. What is read is what was written."""
    lines = [",".join(NAMES).encode(), *(_line(row, "csv") for row in range(ROWS))]
    plain = b"\n".join(lines) + b"\n"
    packed = bytearray(PACKERS[ending](plain))
    at = data.draw(st.integers(0, len(packed) - 1), label="at")
    if data.draw(st.booleans(), label="cut off"):
        packed = packed[:at]
    else:
        packed[at] ^= data.draw(st.integers(1, 255), label="bits")
    path = tmp_path / f"log.csv.{ending}"
    path.write_bytes(bytes(packed))
    found, named = CLEANED.empty_table(), None
    try:
        found = _cleaned(open_table(TableConfig(paths=(str(path),), format="csv"), field="source.events"))
    except DataError as error:
        named = error.value
    if named is not None:
        assert named == path.name
        return
    assert [row["user_id"] for row in found.to_pylist()] == [f"u{row}" for row in range(ROWS)]
    assert found.column("reason").null_count == ROWS


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress}
"""Both with a checksum at the end."""


def _read(lines: list[bytes], format: str, folder: Path) -> pa.Table:
    header = [",".join(NAMES).encode()] if format == "csv" else []
    path = folder / f"log.{format}.gz"
    path.write_bytes(gzip.compress(b"\n".join([*header, *lines]) + b"\n"))
    return _cleaned(open_table(TableConfig(paths=(str(path),), format=format), field="source.events"))


def _cleaned(files: list[TableFile]) -> pa.Table:
    parts = [CLEANED.empty_table()]
    for _, block in read_whole(files, columns=dict(zip(NAMES, NAMES, strict=True))):
        if block.rows.num_rows:
            parts.append(clean_rows(block.rows, rules=RULES, file=0))
        if block.broken:
            parts.append(broken_rows(block.broken, rules=RULES, file=0))
    return pa.concat_tables(parts)
