"""How a replica learns of items: about once a second, each row with the same meaning everywhere."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from clm_ray.errors import StoreError
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.live_items import LiveItems, amended_catalogue
from clm_ray.store.items import ChangedItem, Mark, PutItem
from clm_ray.store.store import Store


class Time:
    """Seconds of a timer and microseconds of the endpoint's clock, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.now = 1_000


@pytest.fixture
def time() -> Time:
    return Time()


def replica(served: ServedCatalogue, store: Store, time: Time) -> LiveItems[ServedCatalogue]:
    return LiveItems(
        served,
        release="r1",
        store=store,
        amend=amended_catalogue,
        now=lambda: time.now,
        timer=lambda: time.seconds,
    )


def put(store: Store, item_id: str, *, encoded: bool = True, text: str = "text", **more: int) -> None:
    store.put_items([(item_id, PutItem(item_id, text, **more))], now=1)  # type: ignore[arg-type]
    if encoded:
        waiting = store.unencoded_items(release="r1", limit=9)
        store.put_item_vectors(
            [(one.item_id, one.version, b"") for one in waiting if one.item_id == item_id], release="r1"
        )


def test_news_come_once_a_second_and_at_once_when_asked(served: ServedCatalogue, store: Store, time: Time) -> None:
    live = replica(served, store, time)
    live.get()
    put(store, "new")
    time.seconds = 0.5
    assert "new" not in live.get().catalogue.row_of
    assert live.get(every_s=0.1).catalogue.row_of["new"] == 10
    put(store, "newer")
    time.seconds = 1.6
    assert live.get().catalogue.row_of["newer"] == 11
    assert served.catalogue.row_of.get("new") is None


def test_two_replicas_agree_on_rows_whatever_they_saw_first(served: ServedCatalogue, store: Store, time: Time) -> None:
    early, late = (replica(served, store, time) for _ in range(2))
    for item in ("a", "b", "c"):
        put(store, item, encoded=item != "b")
        early.get(every_s=0.0)
    put(store, "i5", text="another text")
    rows = [live.get(every_s=0.0).catalogue.row_of for live in (early, late)]
    assert rows[0] == rows[1]
    assert (rows[0]["a"], rows[0]["c"], rows[0]["i5"]) == (10, 12, 5)
    assert "b" not in rows[0], "it has no vector yet"
    assert late.get().catalogue.texts[5] == "another text"


def test_a_changed_item_stays_as_it_was_until_it_is_encoded(served: ServedCatalogue, store: Store, time: Time) -> None:
    live = replica(served, store, time)
    put(store, "new", text="first")
    live.get(every_s=0.0)
    put(store, "new", text="second", encoded=False)
    assert live.get(every_s=0.0).catalogue.texts[10] == "first"
    assert live.current.catalogue.offered(["new"])[0] == 10
    put(store, "new", text="third")
    assert live.get(every_s=0.0).catalogue.texts[10] == "third"


def test_time_alone_ends_an_offer(served: ServedCatalogue, store: Store, time: Time) -> None:
    live = replica(served, store, time)
    put(store, "new", available_from=2_000, available_until=3_000)
    seen = []
    for now in (1_999, 2_000, 2_999, 3_000):
        time.now = now
        seen.append(bool(live.get(every_s=0.0).catalogue.offered(["new"])[0]))
    assert seen == [False, True, True, False]


def test_a_store_that_cannot_be_read_costs_the_news_only(
    served: ServedCatalogue, store: Store, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = replica(served, store, time)
    put(store, "new")
    live.get()

    def refuse(**_: object) -> tuple[Sequence[ChangedItem], object]:
        raise StoreError("gone")

    monkeypatch.setattr(store, "changed_items", refuse)
    assert live.get(every_s=0.0).catalogue.row_of["new"] == 10


def test_who_looks_by_the_clock_does_not_wait_for_who_is_looking(
    served: ServedCatalogue, store: Store, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = replica(served, store, time)
    put(store, "new")
    looking, may = threading.Event(), threading.Event()
    read, asked = store.changed_items, []

    def slow(*, release: str, after: Mark) -> tuple[Sequence[ChangedItem], Mark]:
        asked.append(1)
        looking.set()
        assert may.wait(60)
        return read(release=release, after=after)

    monkeypatch.setattr(store, "changed_items", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(live.get)
        assert looking.wait(60)
        time.seconds = 5.0
        assert live.due()
        assert live.get() is served, "as it was"
        may.set()
        assert "new" in first.result().catalogue.row_of
    assert len(asked) == 1
    assert not live.due(), "the look has just ended"
