"""A user's stored history, and its compact form in `history_base`.

The payload is one header and two zstd frames, so that a reader who needs no event ids does not unpack them:

    "CLH1" · events · raw size of frame 1 · its packed size · raw size of frame 2
    frame 1   time (int64, differences) · value (float64) · item code (int32) · type code (int16) · JSON [items, types]
    frame 2   JSON [event ids]

Decision ids and contexts are not in it: nothing that is computed from a history looks at them.

Shape letters: N events of one user, sorted by (time, event id).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from clm_ray.errors import StoreError
from clm_ray.features.history import History
from clm_ray.store.records import StoredEvent

_HEADER = struct.Struct("<4sIIII")
_MAGIC = b"CLH1"
_EVENT_BYTES = 8 + 8 + 4 + 2
_ZSTD = pa.Codec("zstd", compression_level=3)


@dataclass(frozen=True)
class StoredHistory:
    """All events of one user, sorted by (time, event id), with ids as strings: a release maps them to its own rows.

    items, types: the distinct item ids and event types; item_code_N int32 and type_code_N int16 are positions in them (-1: the event
    has no item). value_N float64, NaN: none. time_N int64, UTC µs.
    """

    user_id: str
    items: tuple[str, ...]
    types: tuple[str, ...]
    item_code_N: NDArray[np.int32]
    type_code_N: NDArray[np.int16]
    value_N: NDArray[np.float64]
    time_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_N)

    def before(self, time: int) -> StoredHistory:
        """The events strictly before `time` (µs)."""
        stop = int(np.searchsorted(self.time_N, time, side="left"))
        return replace(
            self,
            item_code_N=self.item_code_N[:stop],
            type_code_N=self.type_code_N[:stop],
            value_N=self.value_N[:stop],
            time_N=self.time_N[:stop],
        )

    def history(self, *, row_of: Mapping[str, int], event_of: Mapping[str, int]) -> History:
        """The arrays features are computed from. Items that `row_of` does not know become row 0; types not in `event_of` are left out."""
        row_I = np.fromiter(map(row_of.get, self.items, repeat(0)), np.int32, len(self.items))
        event_T = np.fromiter(map(event_of.get, self.types, repeat(-1)), np.int16, len(self.types))
        row_I, event_T = np.append(row_I, np.int32(0)), np.append(event_T, np.int16(-1))  # code -1 reads the last one
        found = History(
            row_I[self.item_code_N], event_T[self.type_code_N], self.value_N.astype(np.float32), self.time_N
        )
        return found if (found.event_N >= 0).all() else found.select(found.event_N >= 0)


def since(history: StoredHistory, event_ids: Sequence[str], time: int | None) -> tuple[StoredHistory, Sequence[str]]:
    """The events at or after `time` (µs; None: all), with their ids; of the others not even the names of items stay."""
    if time is None:
        return history, event_ids
    start = int(np.searchsorted(history.time_N, time, side="left"))
    kept = [
        NewEvent(
            event_ids[n],
            int(history.time_N[n]),
            history.items[history.item_code_N[n]] if history.item_code_N[n] >= 0 else None,
            history.types[history.type_code_N[n]],
            float(history.value_N[n]),
        )
        for n in range(start, len(history))
    ]
    return merge(empty_history(history.user_id), [], kept), event_ids[start:]


def empty_history(user_id: str) -> StoredHistory:
    """The history of a user never seen."""
    none = np.empty(0, np.int64)
    return StoredHistory(user_id, (), (), none.astype(np.int32), none.astype(np.int16), none.astype(np.float64), none)


def pack(history: StoredHistory, *, event_ids: Sequence[str]) -> bytes:
    """The payload of a history whose events have these ids, in the same order."""
    if len(event_ids) != len(history) or (len(history) and (np.diff(history.time_N) < 0).any()):
        raise StoreError(
            "history is not sorted by time", field="history_base.payload", value=history.user_id, fix="prepare again"
        )
    columns = (
        np.diff(history.time_N, prepend=np.int64(0)).astype("<i8").tobytes(),
        history.value_N.astype("<f8").tobytes(),
        history.item_code_N.astype("<i4").tobytes(),
        history.type_code_N.astype("<i2").tobytes(),
        orjson.dumps([history.items, history.types]),
    )
    main, ids = b"".join(columns), orjson.dumps(list(event_ids))
    packed_main, packed_ids = _ZSTD.compress(main, asbytes=True), _ZSTD.compress(ids, asbytes=True)
    header = _HEADER.pack(_MAGIC, len(history), len(main), len(packed_main), len(ids))
    return b"".join((header, packed_main, packed_ids))


def unpack(payload: bytes, *, user_id: str) -> StoredHistory:
    """The history of a payload. Raises StoreError where it was not written by `pack`."""
    count, main_size, main_packed, _ = _read_header(payload, user_id)
    start = _HEADER.size
    main = _ZSTD.decompress(payload[start : start + main_packed], main_size, asbytes=True)
    items, types = orjson.loads(main[count * _EVENT_BYTES :])
    return StoredHistory(
        user_id=user_id,
        items=tuple(items),
        types=tuple(types),
        item_code_N=np.frombuffer(main, "<i4", count, count * 16),
        type_code_N=np.frombuffer(main, "<i2", count, count * 20),
        value_N=np.frombuffer(main, "<f8", count, count * 8),
        time_N=np.cumsum(np.frombuffer(main, "<i8", count)),
    )


def unpack_ids(payload: bytes, *, user_id: str) -> list[str]:
    """The event ids of a payload, in the order of its events."""
    _, _, main_packed, ids_size = _read_header(payload, user_id)
    ids: list[str] = orjson.loads(_ZSTD.decompress(payload[_HEADER.size + main_packed :], ids_size, asbytes=True))
    return ids


class NewEvent(NamedTuple):
    """What a history keeps of an event."""

    event_id: str
    timestamp: int
    item_id: str | None
    event_type: str
    value: float | None


def merge(base: StoredHistory, base_ids: Sequence[str], events: Iterable[NewEvent | StoredEvent]) -> StoredHistory:
    """`base` with `events` in their places, whatever order they came in. An id that was there before is dropped."""
    known = set(base_ids)
    new: dict[str, NewEvent | StoredEvent] = {}
    for event in events:
        if event.event_id not in known:
            new.setdefault(event.event_id, event)
    if not new:
        return base
    fresh = sorted(new.values(), key=lambda e: (e.timestamp, e.event_id))
    places = np.searchsorted(base.time_N, np.array([e.timestamp for e in fresh]), side="right").tolist()
    for n, event in enumerate(fresh):  # among events of the same microsecond the id decides
        while (
            (place := places[n]) and base.time_N[place - 1] == event.timestamp and base_ids[place - 1] > event.event_id
        ):
            places[n] -= 1
    item_of, type_of = _codes(base.items), _codes(base.types)
    items = [-1 if e.item_id is None else item_of.setdefault(e.item_id, len(item_of)) for e in fresh]
    types = [type_of.setdefault(e.event_type, len(type_of)) for e in fresh]
    return StoredHistory(
        user_id=base.user_id,
        items=tuple(item_of),
        types=tuple(type_of),
        item_code_N=np.insert(base.item_code_N, places, items),
        type_code_N=np.insert(base.type_code_N, places, types),
        value_N=np.insert(base.value_N, places, [np.nan if e.value is None else e.value for e in fresh]),
        time_N=np.insert(base.time_N, places, [e.timestamp for e in fresh]),
    )


def _codes(names: Sequence[str]) -> dict[str, int]:
    return {name: code for code, name in enumerate(names)}


def _read_header(payload: bytes, user_id: str) -> tuple[int, int, int, int]:
    if len(payload) >= _HEADER.size:
        magic, count, main_size, main_packed, ids_size = _HEADER.unpack_from(payload)
        if magic == _MAGIC:
            return count, main_size, main_packed, ids_size
    raise StoreError("payload is damaged", field="history_base.payload", value=user_id, fix="load the dataset again")
