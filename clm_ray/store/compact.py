"""What the endpoint saw and did, written back as part of the log: the feedback that `prepare` reads beside its source.

    FOLDER/events/part-STORE-E-S.parquet         schema.EVENTS: clients' events, and one impression event per served slate
    FOLDER/availability/part-STORE-E-S.parquet   schema.AVAILABILITY: the items of each slate, in slot "decision:<decision_id>"
    FOLDER/items/part-STORE.parquet              schema.CHANGED_ITEMS: all items that were put or deleted over HTTP, as they are now

STORE is a random id of the store: a fresh store counts from 1 again, and must not write over what an earlier one left. E and S are the
last `seq` of events and slates that the part holds, so a name says what is in the file. A part is planned
(and the plan stored) before it is written, and the watermark moves after it is safely on disk: whoever finds an unfinished
plan writes the same rows to the same name again. Running twice writes nothing new; a crash loses and doubles nothing. The items are few: their file
is written whole each time.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, Table, func, select

from clm_ray.schema import AVAILABILITY, CHANGED_ITEMS, EVENTS, slate_slot
from clm_ray.store import items, tables
from clm_ray.store.engine import Lock, hold
from clm_ray.store.records import ServedSlate
from clm_ray.store.settings import get_setting, put_setting
from clm_ray.store.store import Store

_WATERMARK = "compacted_until"
_PLAN = "compaction_plan"


@dataclass(frozen=True)
class Mark:
    """A place in the log: the last `seq` of events and of slates before it."""

    events: int
    slates: int


@dataclass(frozen=True)
class Compacted:
    """What one run wrote. changed_items: how many were ever put or deleted."""

    parts: tuple[str, ...]
    events: int
    impressions: int
    slate_items: int
    changed_items: int = 0


def compact(store: Store, folder: Path, *, impression_event: str, rows_per_part: int = 200_000) -> Compacted:
    """Write everything that is not yet in `folder`, in parts of at most `rows_per_part` events and as many slates.

    `impression_event`: event type of the impressions (recipe.serve.impression_event). Slates without items are not impressions.
    """
    store_id = store.id()
    done = Compacted((), 0, 0, 0, changed_items=_write_items(store, folder / "items" / f"part-{store_id}.parquet"))
    while (planned := _plan(store, rows_per_part)) is not None:
        after, upto = planned
        name = f"part-{store_id}-{upto.events:012d}-{upto.slates:012d}.parquet"
        with store.reading() as connection:
            events = _event_columns(connection, after, upto)
            slates = _slates(connection, after, upto)
        impressions, availability = _impression_columns(slates, impression_event), _availability_columns(slates)
        if slates:
            _write(pa.table(availability, schema=AVAILABILITY), folder / "availability" / name)
        both = {field: events[field] + impressions[field] for field in EVENTS.names}
        _write(pa.table(both, schema=EVENTS), folder / "events" / name)
        _finish(store, upto)
        done = Compacted(
            parts=(*done.parts, name),
            events=done.events + len(events["event_id"]),
            impressions=done.impressions + len(slates),
            slate_items=done.slate_items + len(availability["slot"]),
            changed_items=done.changed_items,
        )
    return done


def _write_items(store: Store, path: Path) -> int:
    with store.reading() as connection:
        changed = items.every(connection)
    rows = [
        {"item_id": item_id, "changed_at": at, "deleted": item is None, **({} if item is None else asdict(item))}
        for item_id, at, item in changed
    ]
    for row in rows:
        row["numeric"] = list(row["numeric"].items()) if "numeric" in row else None
    columns = {name: [row.get(name) for row in rows] for name in CHANGED_ITEMS.names}
    if rows:
        _write(pa.table(columns, schema=CHANGED_ITEMS), path)
    return len(rows)


def _plan(store: Store, rows: int) -> tuple[Mark, Mark] | None:
    """The next part, as (after, up to); the stored one where a run was cut off; None when there is nothing to write."""
    with store.writing() as connection:
        after = _mark(connection, _WATERMARK) or Mark(0, 0)
        planned = _mark(connection, _PLAN)
        if planned is not None and planned != after:
            return after, planned
        hold(connection, Lock.APPEND)  # until everybody who has a lower `seq` has committed, or has not
        upto = Mark(
            events=_last_of(connection, tables.EVENTS, after.events, rows),
            slates=_last_of(connection, tables.SERVED_SLATES, after.slates, rows),
        )
        if upto == after:
            return None
        put_setting(connection, _PLAN, json.dumps(asdict(upto)))
        return after, upto


def _finish(store: Store, upto: Mark) -> None:
    with store.writing() as connection:
        done = _mark(connection, _WATERMARK) or Mark(0, 0)
        # Another run may have finished this part, and more, in the meantime.
        if done.events <= upto.events and done.slates <= upto.slates:
            put_setting(connection, _WATERMARK, json.dumps(asdict(upto)))


def _mark(connection: Connection, key: str) -> Mark | None:
    text = get_setting(connection, key)
    return None if text is None else Mark(**json.loads(text))


def _last_of(connection: Connection, table: Table, after: int, rows: int) -> int:
    part = select(table.c.seq).where(table.c.seq > after).order_by(table.c.seq).limit(rows).subquery()
    return connection.execute(select(func.max(part.c.seq))).scalar() or after


def _event_columns(connection: Connection, after: Mark, upto: Mark) -> dict[str, list[object]]:
    of = tables.EVENTS.c
    query = select(tables.EVENTS).where(of.seq > after.events, of.seq <= upto.events).order_by(of.seq)
    columns: dict[str, list[object]] = {field: [] for field in EVENTS.names}
    for row in connection.execute(query).mappings():
        for field, values in columns.items():
            values.append(list(orjson.loads(row[field]).items()) if field == "context" else row[field])
    return columns


def _slates(connection: Connection, after: Mark, upto: Mark) -> list[ServedSlate]:
    of = tables.SERVED_SLATES.c
    query = select(of.record).where(of.seq > after.slates, of.seq <= upto.slates).order_by(of.seq)
    slates = (ServedSlate.from_json(record) for record in connection.execute(query).scalars())
    return [slate for slate in slates if slate.items]


def _impression_columns(slates: list[ServedSlate], event_type: str) -> dict[str, list[object]]:
    return {
        "event_id": [f"impression:{s.decision_id}" for s in slates],
        "user_id": [s.user_id for s in slates],
        "item_id": [None] * len(slates),
        "event_type": [event_type] * len(slates),
        "timestamp": [s.time for s in slates],
        "value": [None] * len(slates),
        "decision_id": [s.decision_id for s in slates],
        "context": [_impression_context(s) for s in slates],
    }


def _impression_context(slate: ServedSlate) -> list[tuple[str, str]]:
    own = {"slot": slate_slot(slate.decision_id)}
    return list({**slate.context, **({"degraded": slate.degraded} if slate.degraded else {}), **own}.items())


def _availability_columns(slates: list[ServedSlate]) -> dict[str, list[str]]:
    return {
        "slot": [slate_slot(s.decision_id) for s in slates for _ in s.items],
        "item_id": [item for s in slates for item in s.items],
    }


def _write(table: pa.Table, path: Path) -> None:
    """Write a file that is either whole or not there, and is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
