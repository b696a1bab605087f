"""A look at the store that takes long costs the news: answers wait a moment for it, together, and go out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest
from fastapi.testclient import TestClient
from serve_fakes import NOW

from clm_ray.serve import live_releases
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.live_items import EVERY_S, SOON_S
from clm_ray.serve.live_releases import LiveReleases
from clm_ray.store.clock import Clock
from clm_ray.store.items import ChangedItem, Mark, PutItem
from clm_ray.store.store import Store


class Held:
    """`Store.changed_items` that answers once it may; `asked` counts the calls."""

    def __init__(self, store: Store) -> None:
        self.may = threading.Event()
        self.asked = 0
        self._read = store.changed_items

    def __call__(self, *, release: str, after: Mark) -> tuple[list[ChangedItem], Mark]:
        self.asked += 1
        assert self.may.wait(60)
        return self._read(release=release, after=after)


@pytest.fixture
def held(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The store's answer is held back until the test says so, or is over."""
    found = Held(store)
    monkeypatch.setattr(store, "changed_items", found)
    monkeypatch.setattr(live_releases, "LOOK_S", 0.05)
    yield found
    found.may.set()


def put(store: Store, item_id: str) -> None:
    store.put_items([(item_id, PutItem(item_id, "text"))], now=1)
    store.put_item_vectors([(one.item_id, one.version, b"") for one in waiting(store)], release="r1")


def waiting(store: Store) -> Sequence[ChangedItem]:
    return store.unencoded_items(release="r1", limit=9)


@pytest.fixture
def releases(served: ServedCatalogue, store: Store) -> LiveReleases:
    return LiveReleases(served, store=store, clock=Clock(kind="wall", wall=lambda: NOW))


def test_nobody_waits_long_for_a_look_and_it_is_one_look_for_all(
    releases: LiveReleases, held: Held, store: Store
) -> None:
    put(store, "new")

    async def run() -> None:
        async with asyncio.timeout(30):
            await asyncio.gather(*(releases.look(every_s=EVERY_S) for _ in range(20)))
            for every_s in (EVERY_S, SOON_S, 0.0):
                await releases.look(every_s=every_s)
        assert held.asked == 1
        assert "new" not in releases.served.catalogue.row_of
        held.may.set()
        while "new" not in releases.served.catalogue.row_of:
            await asyncio.sleep(0.01)
            await releases.look(every_s=0.0)

    asyncio.run(run())


def test_a_look_does_not_stand_in_line_with_what_else_waits_for_the_store(releases: LiveReleases, store: Store) -> None:
    put(store, "new")

    async def run() -> None:
        over = threading.Event()
        others = [asyncio.create_task(asyncio.to_thread(over.wait, 60)) for _ in range(100)]
        await asyncio.sleep(0)
        while "new" not in releases.served.catalogue.row_of:
            await asyncio.sleep(0.01)
            await releases.look(every_s=0.0)
        assert not any(one.done() for one in others)
        over.set()
        await asyncio.gather(*others)

    asyncio.run(run())


def test_a_look_that_fails_costs_the_news_only(
    releases: LiveReleases, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("nobody foresaw this")

    with monkeypatch.context() as patched:
        patched.setattr(store, "changed_items", broken)
        asyncio.run(releases.look(every_s=0.0))
    put(store, "new")
    asyncio.run(releases.look(every_s=0.0))
    assert "new" in releases.served.catalogue.row_of


def test_answers_go_out_while_the_store_says_nothing_of_items(http: TestClient, held: Held) -> None:
    event = {"event_id": "e", "user_id": "u", "event_type": "click", "item_id": "i1"}
    for _ in range(3):
        answer = http.post("/v1/recommend", json={"user_id": "u", "candidates": ["i1"]}).json()
        assert (answer["degraded"], answer["items"][0]["item_id"]) == ([], "i1")
        assert http.post("/v1/rank", json={"user_id": "u"}).status_code == 200
        assert http.post("/v1/events", json={"events": [event]}).status_code == 200
    batch = {"requests": [{"user_id": "u", "candidates": ["nope"]}] * 100}
    results = http.post("/v1/recommend/batch", json=batch).json()["results"]
    assert {one["status"] for one in results} == {422}
    assert held.asked == 1
