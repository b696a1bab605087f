"""Items that were put or deleted since the release's catalogue was made, and their vectors for each release.

An item keeps its number for good: a release puts it in the row so many places after its own. `version` and `change` count writes, so that a
replica asks only for what is newer than it knows. Writers take turns, so numbers become visible in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, and_, func, or_, select

from clm_ray.store.engine import Lock, chunks, hold, insert
from clm_ray.store.tables import CHANGED_ITEMS, CHANGED_VECTORS


@dataclass(frozen=True)
class PutItem:
    """An item as `schema.ITEMS` has it. Times: UTC µs."""

    item_id: str
    text: str
    categories: tuple[str, ...] = ()
    numeric: Mapping[str, float] = field(default_factory=dict)
    vectors: tuple[float, ...] | None = None
    available_from: int | None = None
    available_until: int | None = None
    flags: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The item as JSON text."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS).decode()

    @staticmethod
    def from_json(text: str) -> PutItem:
        """The inverse of `to_json`."""
        raw: dict[str, Any] = orjson.loads(text)
        for name in ("categories", "flags"):
            raw[name] = tuple(raw[name])
        raw["vectors"] = None if raw["vectors"] is None else tuple(raw["vectors"])
        return PutItem(**raw)


@dataclass(frozen=True)
class ChangedItem:
    """What became of an item. number: from 1, its own for good; item: None where it was deleted; vector: float32 bytes by the release that was
    asked for, of this version, None where there is none yet."""

    number: int
    item_id: str
    version: int
    item: PutItem | None
    vector: bytes | None = None


@dataclass(frozen=True)
class Mark:
    """How far somebody has read: the last version of items, the last change of a release's vectors."""

    version: int = 0
    change: int = 0


def put(connection: Connection, items: Sequence[tuple[str, PutItem | None]], *, now: int) -> None:
    """Put each item, or delete it (None). `now`: µs."""
    hold(connection, Lock.ITEMS)
    version = connection.execute(select(func.max(CHANGED_ITEMS.c.version))).scalar() or 0
    number = connection.execute(select(func.max(CHANGED_ITEMS.c.number))).scalar() or 0
    numbers = numbers_of(connection, [item_id for item_id, _ in items])
    rows = []
    for item_id, item in dict(items).items():
        if item_id not in numbers:
            number += 1
            numbers[item_id] = number
        version += 1
        record = None if item is None else item.to_json()
        rows.append(
            {"number": numbers[item_id], "item_id": item_id, "version": version, "updated_at": now, "record": record}
        )
    if rows:
        statement = insert(connection, CHANGED_ITEMS)
        new = {name: statement.excluded[name] for name in ("version", "updated_at", "record")}
        connection.execute(statement.on_conflict_do_update(index_elements=["number"], set_=new), rows)


def put_vectors(connection: Connection, vectors: Sequence[tuple[str, int, bytes]], *, release: str) -> None:
    """Keep the vectors (item id, version it was made of, float32 bytes) of a release, each in the place of an older one."""
    hold(connection, Lock.ITEMS)
    of = CHANGED_VECTORS.c
    change = connection.execute(select(func.max(of.change)).where(of.release == release)).scalar() or 0
    rows = [
        {"release": release, "item_id": item_id, "version": version, "change": change + n, "vector": vector}
        for n, (item_id, version, vector) in enumerate(vectors, start=1)
    ]
    if rows:
        statement = insert(connection, CHANGED_VECTORS)
        new = {name: statement.excluded[name] for name in ("version", "change", "vector")}
        newer = statement.excluded.version >= of.version
        keys = ["release", "item_id"]
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=new, where=newer), rows)


def changed(connection: Connection, *, release: str, after: Mark) -> tuple[list[ChangedItem], Mark]:
    """What was put, deleted or encoded since `after`, by number, and how far that is."""
    items, vectors = CHANGED_ITEMS.c, CHANGED_VECTORS.c
    mine = and_(vectors.release == release, vectors.item_id == items.item_id, vectors.version == items.version)
    query = (
        select(items.number, items.item_id, items.version, items.record, vectors.vector, vectors.change)
        .select_from(CHANGED_ITEMS.outerjoin(CHANGED_VECTORS, mine))
        .where(or_(items.version > after.version, vectors.change > after.change))
        .order_by(items.number)
    )
    rows = connection.execute(query).all()
    mark = Mark(
        max([after.version, *(row.version for row in rows)]),
        max([after.change, *(row.change for row in rows if row.change is not None)]),
    )
    return [_item(row.number, row.item_id, row.version, row.record, row.vector) for row in rows], mark


def unencoded(connection: Connection, *, release: str, limit: int) -> list[ChangedItem]:
    """Up to `limit` items that have no vector of this release for their present version, oldest change first."""
    items, vectors = CHANGED_ITEMS.c, CHANGED_VECTORS.c
    mine = and_(vectors.release == release, vectors.item_id == items.item_id, vectors.version == items.version)
    query = (
        select(items.number, items.item_id, items.version, items.record)
        .select_from(CHANGED_ITEMS.outerjoin(CHANGED_VECTORS, mine))
        .where(items.record.is_not(None), vectors.item_id.is_(None))
        .order_by(items.version)
        .limit(limit)
    )
    return [_item(*row, None) for row in connection.execute(query).all()]


def page(connection: Connection, *, after: str, limit: int) -> list[ChangedItem]:
    """Up to `limit` items whose id comes after `after`, by id; deleted ones too."""
    items = CHANGED_ITEMS.c
    query = select(items.number, items.item_id, items.version, items.record).where(items.item_id > after)
    return [_item(*row, None) for row in connection.execute(query.order_by(items.item_id).limit(limit)).all()]


def every(connection: Connection) -> list[tuple[str, int, PutItem | None]]:
    """All that were ever put or deleted, by id: (item id, when last, µs; what it is, None where it was deleted)."""
    items = CHANGED_ITEMS.c
    query = select(items.item_id, items.updated_at, items.record).order_by(items.item_id)
    return [
        (item_id, at, None if record is None else PutItem.from_json(record))
        for item_id, at, record in connection.execute(query)
    ]


def _item(number: int, item_id: str, version: int, record: str | None, vector: bytes | None) -> ChangedItem:
    item = None if record is None else PutItem.from_json(record)
    return ChangedItem(number, item_id, version, item, vector)


def numbers_of(connection: Connection, item_ids: Sequence[str]) -> dict[str, int]:
    """The number of each of these items that was ever put or deleted."""
    items = CHANGED_ITEMS.c
    found: dict[str, int] = {}
    for part in chunks(dict.fromkeys(item_ids)):
        query = select(items.item_id, items.number).where(items.item_id.in_(part))
        found.update((row.item_id, row.number) for row in connection.execute(query))
    return found
