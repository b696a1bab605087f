"""Stored histories: packing loses nothing, merging keeps the order whatever came in when."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.errors import StoreError
from clm_ray.store.history import StoredHistory, empty_history, merge, pack, unpack, unpack_ids
from clm_ray.store.records import StoredEvent

TEXT = st.text(max_size=4)
EVENTS = st.lists(
    st.builds(
        StoredEvent,
        event_id=TEXT,
        user_id=st.just("u"),
        event_type=st.sampled_from(["purchase", "click"]),
        timestamp=st.integers(0, 5),
        item_id=st.none() | TEXT,
        value=st.none() | st.floats(allow_nan=False),
    ),
    max_size=12,
    unique_by=lambda event: event.event_id,
)


def in_order(events: list[StoredEvent]) -> list[StoredEvent]:
    return sorted(events, key=lambda e: (e.timestamp, e.event_id))


def read(history: StoredHistory) -> list[tuple[object, ...]]:
    """The rows of a history, as a person would write them."""
    return [
        (time, history.types[kind], None if item < 0 else history.items[item], None if math.isnan(value) else value)
        for time, kind, item, value in zip(
            history.time_N.tolist(),
            history.type_code_N.tolist(),
            history.item_code_N.tolist(),
            history.value_N.tolist(),
            strict=True,
        )
    ]


def rows(events: list[StoredEvent]) -> list[tuple[object, ...]]:
    return [(e.timestamp, e.event_type, e.item_id, e.value) for e in in_order(events)]


@given(EVENTS)
def test_a_payload_holds_everything(events: list[StoredEvent]) -> None:
    history = merge(empty_history("u"), [], events)
    assert read(history) == rows(events)
    ids = [event.event_id for event in in_order(events)]
    payload = pack(history, event_ids=ids)
    assert read(unpack(payload, user_id="u")) == rows(events)
    assert unpack_ids(payload, user_id="u") == ids


@given(EVENTS, st.integers(0, 12), st.randoms(use_true_random=False))
def test_merging_is_sorting_by_time_and_id(events: list[StoredEvent], cut: int, random: object) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    base, live = in_order(shuffled[:cut]), shuffled[cut:]
    known = [event.event_id for event in base]
    history = merge(merge(empty_history("u"), [], base), known, live + base[:2])
    assert read(history) == rows(events)


def test_before_is_strict() -> None:
    events = [StoredEvent(str(n), "u", "click", time) for n, time in enumerate((1, 2, 2, 3))]
    history = merge(empty_history("u"), [], events)
    assert [len(history.before(time)) for time in (0, 1, 2, 3, 4)] == [0, 0, 1, 3, 4]


def test_a_release_maps_ids_to_its_rows() -> None:
    events = [
        StoredEvent("1", "u", "click", 1, item_id="known", value=0.1),
        StoredEvent("2", "u", "forgotten", 2, item_id="known"),
        StoredEvent("3", "u", "view", 3, item_id="new"),
        StoredEvent("4", "u", "view", 4),
    ]
    history = merge(empty_history("u"), [], events).history(row_of={"known": 7}, event_of={"view": 0, "click": 1})
    assert history.item_N.tolist() == [7, 0, 0]
    assert history.event_N.tolist() == [1, 0, 0]
    assert history.time_N.tolist() == [1, 3, 4]
    assert history.value_N.dtype == np.float32
    assert history.value_N[0] == np.float32(0.1)
    assert np.isnan(history.value_N[1:]).all()
    assert len(empty_history("u").history(row_of={}, event_of={})) == 0


def test_damage_and_disorder_are_told() -> None:
    with pytest.raises(StoreError, match="damaged"):
        unpack(b"something else, long enough to hold a header", user_id="u")
    backwards = merge(empty_history("u"), [], [StoredEvent("1", "u", "click", 1), StoredEvent("2", "u", "click", 2)])
    backwards = StoredHistory(
        "u", (), ("click",), backwards.item_code_N, backwards.type_code_N, backwards.value_N, np.array([2, 1])
    )
    with pytest.raises(StoreError, match="not sorted"):
        pack(backwards, event_ids=["1", "2"])
