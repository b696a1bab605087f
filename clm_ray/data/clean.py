"""One block of raw rows → the events contract, each row either clean or with the reason why it is rejected.

Everything here is a pure, vectorised function of one block: which row is rejected, and what a clean row looks like, does
not depend on the block it happens to stand in. Duplicates need more than one block: see `clm_ray.data.duplicates`.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.buckets import bucket_of
from clm_ray.data.duplicates import DIGEST, content_digest
from clm_ray.data.normalise import ReadIds, as_labels, as_numbers, as_text, map_of, read_ids
from clm_ray.data.subjects import AS_THEY_ARE, Subjects
from clm_ray.data.times import TimeUnit, check_timezone, parse_times
from clm_ray.errors import ConfigError, SchemaError
from clm_ray.schema import DAY_US, EVENTS, LARGEST_VALUE

BROKEN_LINE = "broken line"
MISSING_USER = "missing user_id"
INEXACT_ID = "inexact id"
UNREADABLE_ID = "unreadable id"
UNPARSABLE_TIME = "unparsable time"
TOO_EARLY = "time before clean.earliest"
IN_FUTURE = "time in the future"
UNKNOWN_TYPE = "unknown event type"
NO_NUMBER = "value is not a number"
MISSING_ITEM = "missing item_id"
ERASED = "erased user"
"""Not a fault of the row: counted by itself, and nothing of it is kept."""
HIDDEN = "not kept (privacy.pseudonyms)"
"""The detail of a rejected row where users have pseudonyms: what stood in the row may be personal."""

ROW = "__row__"
"""Column of raw rows: where the row stands in its file (a line of text, or a row of Parquet; both from 1). No file's own name."""
CONTEXT = "context"
"""Column of raw rows: a map; columns named `context.NAME` hold one entry each."""

CLEANED = pa.schema(
    [pa.field(f.name, f.type) for f in EVENTS]
    + [
        pa.field("bucket", pa.int32(), nullable=False),
        *DIGEST,
        pa.field("file", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""What cleaning yields. `bucket`: partition by user; `file`: position in the list of the log's
files; `reason`, `detail`: null for a clean row."""


@dataclass(frozen=True)
class Rules:
    """What decides about a row. Plain data: travels to every worker."""

    types: tuple[str, ...]
    needs_item: frozenset[str]
    needs_value: frozenset[str]
    earliest_us: int
    latest_us: int
    buckets: int
    timezone: str = "UTC"
    time_unit: TimeUnit = "auto"
    constant_type: str | None = None
    type_map: Mapping[str, str] = field(default_factory=dict)
    subjects: Subjects = AS_THEY_ARE
    names: Mapping[str, str] = field(default_factory=dict)
    """Contract column → the name it has in the file; only for what quarantine shows."""


def rules_of(
    recipe: Recipe,
    *,
    now_us: int,
    subjects: Subjects = AS_THEY_ARE,
    timezone: str = "UTC",
    time_unit: TimeUnit = "auto",
) -> Rules:
    """The rules of a recipe as of `now_us` (UTC µs). Raises ConfigError for a date or time zone that is none."""
    check_timezone(timezone, field="source.events.timezone")
    earliest = parse_times(pa.array([recipe.clean.earliest]))[0].as_py()
    if earliest is None:
        raise ConfigError("not a date", field="clean.earliest", value=recipe.clean.earliest, fix="e.g. 1990-01-01")
    if earliest < 0:
        raise ConfigError(
            "is before 1970-01-01, where the times of this project begin",
            field="clean.earliest",
            value=recipe.clean.earliest,
            fix="give 1970-01-01 or later",
        )
    labelled = {n for n, t in recipe.event_types.items() if {"positive", "negative"} & set(t.roles)}
    rated = {n for n, t in recipe.event_types.items() if t.positive_from is not None}
    return Rules(
        types=tuple(recipe.event_types),
        needs_item=frozenset(labelled | rated),
        needs_value=frozenset(n for n, t in recipe.event_types.items() if t.value != "none"),
        earliest_us=earliest,
        latest_us=now_us + round(recipe.clean.future_days * DAY_US),
        buckets=recipe.sequences.buckets,
        timezone=timezone,
        time_unit=time_unit,
        subjects=subjects,
    )


def clean_rows(raw: pa.Table, *, rules: Rules, file: int) -> pa.Table:
    """Raw rows (contract columns of any type, as far as the file has them, and ROW) → CLEANED.

    Raises SchemaError where a whole column has an impossible type (a list of users, a duration as time).
    """
    rows = raw.num_rows
    ids = [_read_ids(raw, name) for name in ("event_id", "user_id", "item_id", "decision_id")]
    event_id, user, item, decision = (read.ids for read in ids)
    user = rules.subjects.ids(user)
    kind = _event_types(raw, rules=rules)
    time = parse_times(_column(raw, "timestamp"), timezone=rules.timezone, unit=rules.time_unit)
    value = as_numbers(_column(raw, "value"), name="value")
    value = pc.if_else(pc.less_equal(pc.abs(value), LARGEST_VALUE), value, None)
    time_N = pc.fill_null(time, rules.earliest_us).to_numpy(zero_copy_only=False)
    checks = (
        (ERASED, pa.array(rules.subjects.erased(user, time))),
        (INEXACT_ID, reduce(pc.or_, (read.inexact for read in ids))),
        (UNREADABLE_ID, reduce(pc.or_, (read.unreadable for read in ids))),
        (MISSING_USER, pc.is_null(user)),
        (UNPARSABLE_TIME, pc.is_null(time)),
        (TOO_EARLY, pa.array(time_N < rules.earliest_us)),
        (IN_FUTURE, pa.array(time_N > rules.latest_us)),
        (UNKNOWN_TYPE, pc.is_null(kind)),
        (NO_NUMBER, pc.and_(_one_of(kind, rules.needs_value), pc.is_null(value))),
        (MISSING_ITEM, pc.and_(_one_of(kind, rules.needs_item), pc.is_null(item))),
    )
    reason = _first_reason(checks, rows=rows)
    columns = {
        "event_id": event_id,
        "user_id": user,
        "item_id": item,
        "event_type": kind,
        "timestamp": pc.if_else(pa.array(_in_order(time_N, rules=rules)), time, None).cast(
            EVENTS.field("timestamp").type
        ),
        "value": value,
        "decision_id": decision,
        "context": _context(raw, rules=rules),
    }
    columns = _without(columns, pc.equal(reason, ERASED))
    row_N = raw.column(ROW).to_numpy()
    detail = _details(raw, reason, rules=rules)
    return _cleaned(columns, row_N=row_N, file=file, reason=reason, detail=detail, buckets=rules.buckets)


def broken_rows(lines: Iterable[tuple[int, str]], *, rules: Rules, file: int) -> pa.Table:
    """Lines (number, text) that are no row at all → CLEANED, each rejected as broken."""
    numbered = list(lines)
    columns = {f.name: pa.nulls(len(numbered), f.type) for f in EVENTS}
    return _cleaned(
        columns,
        row_N=np.array([number for number, _ in numbered], np.int64),
        file=file,
        reason=pa.array([BROKEN_LINE] * len(numbered), pa.string()),
        detail=pa.array([_broken_detail(text, rules=rules) for _, text in numbered], pa.string()),
        buckets=rules.buckets,
    )


def _broken_detail(text: str, *, rules: Rules) -> str:
    return HIDDEN if rules.subjects.pseudonyms is not None else orjson.dumps({"line": _printable(text)}).decode()


def _cleaned(
    columns: dict[str, pa.Array],
    *,
    row_N: NDArray[np.int64],
    file: int,
    reason: pa.Array,
    detail: pa.Array,
    buckets: int,
) -> pa.Table:
    """Add partitions and digest. Rejected rows are spread by their row number: they may have no user."""
    events = pa.table(columns)
    digest_N2 = content_digest(events)
    clean_N = reason.is_null().to_numpy(zero_copy_only=False)
    spread_N = (row_N % buckets).astype(np.int32)
    extra = {
        "bucket": np.where(clean_N, bucket_of(events.column("user_id"), buckets), spread_N),
        "digest_high": digest_N2[:, 0],
        "digest_low": digest_N2[:, 1],
        "file": np.full(len(row_N), file, np.int32),
        "row": row_N,
        "reason": reason,
        "detail": detail,
    }
    return pa.table({**columns, **extra}, schema=CLEANED)


def _column(raw: pa.Table, name: str) -> pa.ChunkedArray:
    return raw.column(name) if name in raw.column_names else pa.chunked_array([pa.nulls(raw.num_rows)])


def _read_ids(raw: pa.Table, name: str) -> ReadIds:
    return read_ids(_column(raw, name), name=name)


def _event_types(raw: pa.Table, *, rules: Rules) -> pa.Array:
    """The recipe's event type of each row; null where there is none."""
    if rules.constant_type is not None:
        return pa.repeat(rules.constant_type, raw.num_rows)
    found = pc.dictionary_encode(pc.utf8_trim_whitespace(as_text(_column(raw, "event_type"), name="event_type")))
    meant = [rules.type_map.get(name, name) for name in found.dictionary.to_pylist()]
    return pa.array([name if name in rules.types else None for name in meant], pa.string()).take(found.indices)


def _context(raw: pa.Table, *, rules: Rules) -> pa.Array:
    entries = {
        name.removeprefix(f"{CONTEXT}."): as_labels(raw.column(name), name=name)
        for name in raw.column_names
        if name.startswith(f"{CONTEXT}.")
    }
    if CONTEXT not in raw.column_names:
        return map_of(entries, rows=raw.num_rows)
    kind = raw.schema.field(CONTEXT).type
    if pa.types.is_null(kind):
        return pa.nulls(raw.num_rows, EVENTS.field(CONTEXT).type)
    if pa.types.is_map(kind):
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return raw.column(CONTEXT).combine_chunks().cast(EVENTS.field(CONTEXT).type)
    raise SchemaError(
        "a map from names to single values is needed",
        field=rules.names.get(CONTEXT, CONTEXT),
        value=str(kind),
        fix="map a column of such maps, or name the columns to keep in source.events.context_columns",
    )


def _one_of(kind: pa.Array, names: frozenset[str]) -> pa.Array:
    return pc.is_in(kind, value_set=pa.array(sorted(names), pa.string()))


def _in_order(time_N: NDArray[np.int64], *, rules: Rules) -> NDArray[np.bool_]:
    return (time_N >= rules.earliest_us) & (time_N <= rules.latest_us)


def _without(columns: dict[str, pa.Array], erased: pa.Array) -> dict[str, pa.Array]:
    """The columns with nothing left in the rows of erased users."""
    erased_N = pc.fill_null(erased, False).to_numpy(zero_copy_only=False)
    if not erased_N.any():
        return columns
    rows = pa.array(np.arange(len(erased_N)), mask=erased_N)
    return {name: column.take(rows) for name, column in columns.items()}


def _first_reason(checks: Iterable[tuple[str, pa.Array]], *, rows: int) -> pa.Array:
    names: list[str] = []
    first_N = np.full(rows, -1, np.int32)
    for position, (name, failed) in enumerate(checks):
        names.append(name)
        failed_N = pc.fill_null(failed, False).to_numpy(zero_copy_only=False)
        first_N = np.where((first_N < 0) & failed_N, np.int32(position), first_N)
    return pa.array(names).take(pa.array(first_N, mask=first_N < 0))


def _details(raw: pa.Table, reason: pa.Array, *, rules: Rules) -> pa.Array:
    """The content of rejected rows as JSON, under the names that the file's columns have; null for clean rows and those of erased users."""
    rejected = pc.fill_null(pc.not_equal(reason, ERASED), False)
    if rules.subjects.pseudonyms is not None:
        return pc.if_else(rejected, pa.scalar(HIDDEN), pa.scalar(None, pa.string()))
    rejected_N = rejected.to_numpy(zero_copy_only=False)
    names = rules.names
    found = raw.drop_columns([ROW]).filter(pa.array(rejected_N))
    labels = [names.get(name, name.removeprefix(f"{CONTEXT}.")) for name in found.column_names]
    values = [_plain(column) for column in found.columns]
    texts = [
        orjson.dumps(dict(zip(labels, row, strict=True)), default=str).decode() for row in zip(*values, strict=True)
    ]
    detail_N = np.full(len(rejected_N), None, object)
    detail_N[rejected_N] = texts
    return pa.array(detail_N, pa.string())


def _plain(column: pa.ChunkedArray) -> list[object]:
    """Python values that JSON can hold."""
    if pa.types.is_temporal(column.type):
        return list(column.cast(pa.string()).to_pylist())
    values = column.to_pylist()
    if pa.types.is_map(column.type):
        return [None if entries is None else {str(key): value for key, value in entries} for entries in values]
    return [_printable(value) if isinstance(value, str | bytes) else value for value in values]


def _printable(value: str | bytes) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text.encode(errors="replace").decode()
