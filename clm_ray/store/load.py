"""Filling the store with the histories of a prepared dataset.

Shape letters: R rows of one part file, sorted by (user, time, event id). N events of one user.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.errors import StoreError
from clm_ray.schema import EVENTS, validate
from clm_ray.store.events import drop_other_bases
from clm_ray.store.history import StoredHistory
from clm_ray.store.settings import drop_setting, get_setting, put_setting
from clm_ray.store.store import Store

_SETTING = "loaded_dataset"
_COLUMNS = ["event_id", "user_id", "item_id", "event_type", "timestamp", "value"]
_SCHEMA = pa.schema([EVENTS.field(name) for name in _COLUMNS])


@dataclass(frozen=True)
class LoadedDataset:
    """What the store's bases hold. `last_event_us`: the log's last event, where a `log_end` clock starts."""

    dataset: str
    users: int
    events: int
    last_event_us: int


def load_dataset(store: Store, folder: Path) -> LoadedDataset:
    """Make the events of a prepared dataset (`folder`/manifest.json, events/part-*.parquet) the base of every user's history.

    Does nothing when this dataset is loaded already. One transaction per part: a reader sees a user's old base or the
    new one, and an interrupted load is completed by the next call, of whichever dataset. Events in the `events` table are not
    touched.
    Raises StoreError when the folder is not a dataset, a part cannot be read or is not sorted.
    """
    dataset = _dataset_id(folder)
    loaded = loaded_dataset(store)
    if loaded is not None and loaded.dataset == dataset:
        return loaded
    parts = sorted((folder / "events").glob("part-*.parquet"))
    if not parts:
        raise StoreError(
            "there are no events", field="dataset", value=str(folder / "events"), fix="run jobs/prepare.py again"
        )
    with store.writing() as connection:
        drop_setting(connection, _SETTING)  # until the last part is in, the bases are those of no one dataset
    users = events = last = 0
    for path in parts:
        table = _read(path)
        if not table.num_rows:
            continue
        users += store.load_base(_histories(table, path), dataset=dataset)
        events += table.num_rows
        last = max(last, pc.max(table["timestamp"]).cast(pa.int64()).as_py())
    result = LoadedDataset(dataset, users, events, last)
    with store.writing() as connection:
        drop_other_bases(connection, dataset=dataset)
        put_setting(connection, _SETTING, json.dumps(asdict(result)))
    return result


def histories_of(path: Path) -> Iterator[tuple[StoredHistory, list[str]]]:
    """The users' histories in one part of a dataset's events, each with its event ids. Raises StoreError where it cannot be read."""
    table = _read(path)
    if table.num_rows:
        yield from _histories(table, path)


def loaded_dataset(store: Store) -> LoadedDataset | None:
    """The dataset that the bases were made from, None when none was loaded to its end."""
    with store.reading() as connection:
        text = get_setting(connection, _SETTING)
    return None if text is None else LoadedDataset(**json.loads(text))


def _dataset_id(folder: Path) -> str:
    try:
        return str(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            "not a dataset", field="dataset", value=str(folder), fix="run jobs/prepare.py first"
        ) from error


def _read(path: Path) -> pa.Table:
    try:
        return validate(pq.read_table(path, columns=_COLUMNS), _SCHEMA, name=path.name)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"cannot be read: {error}", field="dataset", value=str(path), fix="run jobs/prepare.py again"
        ) from error


def _histories(table: pa.Table, path: Path) -> Iterator[tuple[StoredHistory, list[str]]]:
    """The histories of a part, one per user, each with its event ids."""
    user_R, users = _coded(table["user_id"])
    item_R, items = _coded(table["item_id"])
    type_R, types = _coded(table["event_type"])
    value_R = pc.fill_null(table["value"], float("nan")).to_numpy()
    time_R = table["timestamp"].cast(pa.int64()).to_numpy()
    ids = table["event_id"].to_pylist()
    starts = np.flatnonzero(np.diff(user_R, prepend=-1))
    if len(starts) != len(users):
        raise StoreError(
            "a user's rows are not together", field="dataset", value=str(path), fix="run jobs/prepare.py again"
        )
    for start, stop in zip(starts, [*starts[1:], len(user_R)], strict=True):
        item_N, own_items = _own(item_R[start:stop], items)
        type_N, own_types = _own(type_R[start:stop], types)
        history = StoredHistory(
            user_id=users[user_R[start]],
            items=own_items,
            types=own_types,
            item_code_N=item_N.astype(np.int32),
            type_code_N=type_N.astype(np.int16),
            value_N=value_R[start:stop],
            time_N=time_R[start:stop],
        )
        yield history, ids[start:stop]


def _coded(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Codes [R] (-1 for null) and the values they stand for."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    return pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(), encoded.dictionary.to_pylist()


def _own(code_N: NDArray[np.int64], values: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes over the values that one user has, instead of all."""
    distinct, own_N = np.unique(code_N, return_inverse=True)
    missing = int(len(distinct) > 0 and distinct[0] < 0)
    return own_N - missing, tuple(values[code] for code in distinct[missing:])
