"""The encoder: what waits gets its vector for every release that is served, by itself and when it is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from clm_ray.errors import ReleaseError
from clm_ray.model.encode import NewItem
from clm_ray.serve.encoder import Encoder
from clm_ray.store.items import Mark, PutItem
from clm_ray.store.store import Store


class Lengths:
    """An encoder whose vectors are the lengths of texts."""

    def encode(self, items: Sequence[NewItem]) -> NDArray[np.float32]:
        return np.array([[len(item.text)] for item in items], np.float32)


def put(store: Store, *ids: str) -> None:
    store.put_items([(item, PutItem(item, f"text of {item}")) for item in ids], now=1)


def vectors(store: Store, release: str) -> dict[str, float]:
    found, _ = store.changed_items(release=release, after=Mark())
    return {one.item_id: float(np.frombuffer(one.vector, "<f4")[0]) for one in found if one.vector is not None}


def test_everything_that_waits_is_encoded_for_each_release_and_opened_once(store: Store) -> None:
    opened: list[str] = []

    def open_encoder(release: str) -> Lengths:
        opened.append(release)
        return Lengths()

    encoder = Encoder(releases=("r1", "r2"), store=store, open_encoder=open_encoder)  # type: ignore[arg-type]
    assert asyncio.run(encoder.encode()) == 0
    assert opened == [], "a text tower is opened when there is something to encode"
    put(store, "a", "bcd")
    store.put_items([("gone", None)], now=2)
    assert asyncio.run(encoder.encode()) == 4
    assert vectors(store, "r1") == vectors(store, "r2") == {"a": 9.0, "bcd": 11.0}
    put(store, "e")
    assert asyncio.run(encoder.loaded()) == "r1"
    assert set(vectors(store, "r2")) == {"a", "bcd", "e"}
    assert opened == ["r1", "r2"]


def test_a_release_without_a_text_tower_says_so_and_is_ready_all_the_same(store: Store) -> None:
    def open_encoder(_release: str) -> Lengths:
        raise ReleaseError("has no text tower")

    encoder = Encoder(releases=("r1",), store=store, open_encoder=open_encoder)  # type: ignore[arg-type]
    put(store, "a")
    with pytest.raises(ReleaseError, match="no text tower"):
        asyncio.run(encoder.encode())
    assert asyncio.run(encoder.loaded()) == "r1"
    assert vectors(store, "r1") == {}


def test_what_is_encoded_later_does_not_make_it_unready(store: Store) -> None:
    encoding, may = threading.Event(), threading.Event()

    class Slow(Lengths):
        def encode(self, items: Sequence[NewItem]) -> NDArray[np.float32]:
            encoding.set()
            assert may.wait(60)
            return super().encode(items)

    encoder = Encoder(releases=("r1",), store=store, open_encoder=lambda _: Slow())  # type: ignore[arg-type, return-value]
    assert asyncio.run(encoder.loaded()) == "r1"
    put(store, "a")
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(encoder.encode_waiting)
        assert encoding.wait(60)
        ready = pool.submit(lambda: asyncio.run(encoder.loaded()))
        try:
            assert ready.result(timeout=30) == "r1"
            assert not busy.done()
        finally:
            may.set()
    assert vectors(store, "r1") == {"a": 9.0}
