"""Files with damage at random places: every good row survives as it was, every other line is counted, with its number and a reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clm_ray.config.source import TableConfig
from clm_ray.data.clean import Rules, broken_rows, clean_rows
from clm_ray.data.sources.tables import open_table, read_whole

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
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_costs_the_damaged_lines_alone(tmp_path: Path, format: str, data: st.DataObject) -> None:
    lines = [_line(row, format) for row in range(ROWS)]
    damaged = data.draw(st.sets(st.integers(0, ROWS - 1), max_size=3), label="damaged")
    for row in damaged:
        line, garbage = lines[row], data.draw(_GARBAGE, label="garbage")
        first = data.draw(st.integers(0, len(line)), label="from")
        last = data.draw(st.integers(first, len(line)), label="to")
        lines[row] = line[:first] + garbage + line[last:]
    # Quotes that open in one damaged line and close in the next one make one record of all lines in between, which then are none of their own.
    between = range(min(damaged, default=0), max(damaged, default=-1) + 1) if format == "csv" else damaged
    found = _read(lines, format, tmp_path)
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


def _read(lines: list[bytes], format: str, folder: Path) -> pa.Table:
    header = [",".join(NAMES).encode()] if format == "csv" else []
    path = folder / f"log.{format}.gz"
    path.write_bytes(gzip.compress(b"\n".join([*header, *lines]) + b"\n"))
    files = open_table(TableConfig(paths=(str(path),), format=format), field="source.events")
    parts = []
    for _, block in read_whole(files, columns=dict(zip(NAMES, NAMES, strict=True))):
        if block.rows.num_rows:
            parts.append(clean_rows(block.rows, rules=RULES, file=0))
        if block.broken:
            parts.append(broken_rows(block.broken, rules=RULES, file=0))
    return pa.concat_tables(parts)
