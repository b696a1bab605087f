"""Everything that the store keeps of one user, row by row and table by table, in an order that does not change while nothing is added.

Histories are given out as the events they hold. A place is where a page ends: the table's position and the key of its last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from sqlalchemy import Column, Connection, Table, select, tuple_

from clm_ray.errors import RequestError
from clm_ray.store.erase import OF_USERS
from clm_ray.store.history import unpack, unpack_ids
from clm_ray.store.tables import AUDIT_LOG, HISTORY_BASE

_EXPORTED = (*OF_USERS, AUDIT_LOG)
_JSON = ("record", "context", "answer", "content")
"""Columns that hold JSON as text."""
START: tuple[int, list[Any]] = (0, [-1])
"""The place before everything: histories come first, and are counted from 0."""
_LARGEST = 2**63


@dataclass(frozen=True)
class Exported:
    """One row, or one event of a history. `kind`: the table. `place`: to go on after it."""

    kind: str
    data: dict[str, Any]
    place: tuple[int, list[Any]]


def export(connection: Connection, user_id: str, *, after: tuple[int, list[Any]] | None, limit: int) -> list[Exported]:
    """Up to `limit` rows of the user after `after` (None: from the start).

    Raises RequestError for a place that is none of ours.
    """
    first, key = (0, None) if after is None else after
    if not 0 <= first < len(_EXPORTED) or (key is not None and not _is_key(key, _EXPORTED[first])):
        raise RequestError("is not a place in the list", field="cursor", fix="give back `next` of the page before")
    found: list[Exported] = []
    for place in range(first, len(_EXPORTED)):
        table, start = _EXPORTED[place], key if place == first else None
        read = _events if table is HISTORY_BASE else _rows
        found += read(connection, table, place, user_id, start, limit - len(found))
        if len(found) >= limit:
            break
    return found


def _key(table: Table) -> list[Column[Any]]:
    """What the rows of a table are ordered by; of histories, the position in them."""
    if "seq" in table.c:
        return [table.c.seq]
    return list(table.primary_key.columns)


def _is_key(key: Sequence[Any], table: Table) -> bool:
    """Whether rows of the table may be ordered after it: it has come back from outside."""
    kinds = [int] if table is HISTORY_BASE else [column.type.python_type for column in _key(table)]
    return len(key) == len(kinds) and all(_is_a(value, kind) for value, kind in zip(key, kinds, strict=True))


def _is_a(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and -_LARGEST <= value < _LARGEST
    return isinstance(value, str) and "\0" not in value  # which PostgreSQL cannot compare with


def _rows(
    connection: Connection, table: Table, place: int, user_id: str, start: Sequence[Any] | None, limit: int
) -> list[Exported]:
    key = _key(table)
    query = select(table).where(table.c.user_id == user_id)
    if start is not None:
        query = query.where(tuple_(*key) > tuple_(*start))
    rows = connection.execute(query.order_by(*key).limit(limit)).mappings()
    return [
        Exported(table.name, {name: _plain(name, value) for name, value in row.items()}, (place, [row[c] for c in key]))
        for row in rows
    ]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return orjson.loads(value) if name in _JSON and isinstance(value, str) else value


def _events(
    connection: Connection, table: Table, place: int, user_id: str, start: Sequence[Any] | None, limit: int
) -> list[Exported]:
    payload = connection.execute(select(table.c.payload).where(table.c.user_id == user_id)).scalar_one_or_none()
    if payload is None:
        return []
    history, ids = unpack(payload, user_id=user_id), unpack_ids(payload, user_id=user_id)
    first = 0 if start is None else max(start[0] + 1, 0)
    return [
        Exported(
            table.name,
            {
                "event_id": ids[n],
                "user_id": user_id,
                "timestamp": int(history.time_N[n]),
                "item_id": history.items[code] if (code := int(history.item_code_N[n])) >= 0 else None,
                "event_type": history.types[int(history.type_code_N[n])],
                "value": None if np.isnan(history.value_N[n]) else float(history.value_N[n]),
            },
            (place, [n]),
        )
        for n in range(first, min(len(history), first + limit))
    ]
