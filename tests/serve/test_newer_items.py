"""Parts look at the store at moments of their own: an item that one of them does not know yet costs at most itself, and nobody else's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from recorded import Recorded
from serve_fakes import NOW, Parts
from test_item_rules import COLUMNS, FLAGS, POLICY
from tiny_release import write_release

from clm_ray.config.workspace import Workspace
from clm_ray.errors import StoreError
from clm_ray.features.history import EMPTY, History
from clm_ray.messages import Recommendation
from clm_ray.model.inference import Scorer
from clm_ray.release.read import thresholds_of
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue, open_catalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.hops import ExplainBatch, Explained, Moved, ProfileAsk, ProfileBatch, RankBatch, Ranked, Wish
from clm_ray.serve.http import build_http
from clm_ray.serve.item_rules import ItemRules
from clm_ray.serve.live_items import LiveItems, amended_scorer, amended_shelf
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import Profiler, ProfilerRelease
from clm_ray.serve.ranker import Ranker, RankerRelease
from clm_ray.serve.shadow import ShadowAsk, ShadowLine
from clm_ray.store.clock import Clock
from clm_ray.store.items import ChangedItem, PutItem
from clm_ray.store.store import Store


def put(store: Store, item_id: str, *flags: str, vector: bytes = b"") -> None:
    """As another replica does it."""
    store.put_items([(item_id, PutItem(item_id, "text", ("fruit",), flags=flags))], now=1)
    waiting = store.unencoded_items(release="r1", limit=9)
    store.put_item_vectors([(one.item_id, one.version, vector) for one in waiting], release="r1")


def unreadable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(store, "changed_items", refuse)


# the gateway is behind


@dataclass
class Ahead(Parts):
    """Parts that know of the item in row 10. `offered`: what shadows were offered."""

    offered: list[ShadowAsk] = field(default_factory=list)

    async def rank(self, batch: RankBatch) -> list[Ranked]:
        self.rank_batches.append(batch)
        scores = np.array([0.9, 0.8, 0.7], np.float32)
        return [
            Ranked(np.array([1, 10, 2], np.int32), scores, brought_K=np.array([False, True, False])) for _ in batch.k
        ]

    async def explain(self, batch: ExplainBatch) -> list[Explained]:
        moved = [Moved("click", row, NOW - 86_400_000_000, 0.1) for row in (3, 10, 99)]
        return [Explained(np.full(len(rows), 0.5), [moved for _ in rows]) for rows in batch.rows]

    async def shadow(self, asks: list[ShadowAsk]) -> int:
        self.offered += asks
        return len(asks)


@pytest.fixture
def ahead(store: Store) -> Ahead:
    return Ahead(store=store)


@pytest.fixture
def shop(served: ServedCatalogue, store: Store, ahead: Ahead) -> Iterator[TestClient]:
    """An endpoint that has just looked at the store, with a shadow."""
    gateway = Gateway(
        served=replace(served, item_rules=ItemRules(POLICY, FLAGS, COLUMNS)),
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=ahead.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(),
        shadow=ShadowLine(ahead.shadow, release="r2", telemetry=Recorded().telemetry, max_waiting=8),
    )
    with TestClient(build_http(gateway, admin_token=None), raise_server_exceptions=False) as http:
        ask(http)
        yield http


def ask(http: TestClient, **body: object) -> Recommendation:
    response = http.post("/v1/recommend", json={"user_id": "adult", **body})
    assert response.status_code == 200, response.text
    return Recommendation.model_validate_json(response.content)


def shown(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def test_an_item_that_the_ranker_knew_first_is_shown_logged_and_told_to_the_shadow(
    shop: TestClient, store: Store, ahead: Ahead
) -> None:
    put(store, "new")
    answer = ask(shop)
    assert (shown(answer), answer.degraded) == (["i1", "new", "i2"], [])
    name = str(answer.decision_id)
    assert store.slates_of([name])[name].items == ("i1", "new", "i2")
    shop.get("/healthz")
    assert ahead.offered[-1].shown == ("i1", "new", "i2")


def test_where_the_store_does_not_say_what_it_is_the_slate_does_without(
    shop: TestClient, store: Store, ahead: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "new")
    unreadable(store, monkeypatch)
    answer = ask(shop, explain=True)
    assert (shown(answer), answer.degraded) == (["i1", "i2"], [])
    name = str(answer.decision_id)
    assert store.slates_of([name])[name].items == ("i1", "i2")
    shop.get("/healthz")
    assert ahead.offered[-1].shown == ("i1", "i2")


def test_rules_about_items_hold_for_what_the_ranker_knew_first(shop: TestClient, store: Store) -> None:
    put(store, "beer", "alcohol")
    assert shown(ask(shop, user_id="nobody")) == ["i2"], "i1 is beer too"
    assert shown(ask(shop, user_id="adult")) == ["i1", "beer", "i2"]


def test_an_event_on_an_item_that_nobody_here_knows_is_a_reason_without_a_name(
    shop: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable(store, monkeypatch)
    reasons = ask(shop, explain=True).items[0].reasons
    assert reasons is not None
    assert [reason.item_id for reason in reasons] == ["i3", None, None]
    assert reasons[0].text.startswith("click of “text of i3” 24 hours before")
    assert reasons[1].text.startswith("click 24 hours before")


def test_a_shadow_that_cannot_be_offered_anything_costs_no_answer(
    served: ServedCatalogue, store: Store, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ShadowLine(Ahead().shadow, release="r2", telemetry=Recorded().telemetry, max_waiting=8)

    def broken(*_: object, **__: object) -> None:
        raise IndexError("no such row")

    monkeypatch.setattr(line, "offer", broken)
    gateway = Gateway(
        served=served,
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=parts.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(),
        shadow=line,
    )
    with TestClient(build_http(gateway, admin_token=None), raise_server_exceptions=False) as http:
        assert ask(http).degraded == []


# profiler and ranker are behind

NEW = 13
"""The row of the first item that is put."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(Workspace(tmp_path_factory.mktemp("shop")), "r1", seed=1)


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return Scorer.open(folder)


@pytest.fixture
def profiler(folder: Path, scorer: Scorer, store: Store) -> Profiler:
    """As the application makes it; it has just looked at the store, and time stands still."""

    def amend(release: ProfilerRelease, changes: Sequence[ChangedItem], at: int) -> ProfilerRelease:
        return replace(release, scorer=amended_scorer(release.scorer, changes, at))

    def live(release: ProfilerRelease, name: str) -> LiveItems[ProfilerRelease]:
        return LiveItems(release, release=name, store=store, amend=amend, now=lambda: NOW, timer=lambda: 0.0)

    opened = ProfilerRelease(scorer, thresholds_of(folder))
    releases = Opened(folder, open_release=lambda _: opened, live=live)
    releases.get("r1")
    return Profiler(releases=releases, store=store)


@pytest.fixture
def ranker(folder: Path, scorer: Scorer, store: Store) -> Ranker:
    """As the application makes it; it has just looked at the store, and time stands still."""

    def amend(release: RankerRelease, changes: Sequence[ChangedItem], at: int) -> RankerRelease:
        amended = amended_scorer(release.scorer, changes, at)
        return replace(release, scorer=amended, shelf=amended_shelf(release.shelf, amended.items, changes))

    def live(release: RankerRelease, name: str) -> LiveItems[RankerRelease]:
        return LiveItems(release, release=name, store=store, amend=amend, now=lambda: NOW, timer=lambda: 0.0)

    opened = RankerRelease.of(scorer, open_catalogue(folder).shelf)
    releases = Opened(folder, open_release=lambda _: opened, live=live)
    releases.get("r1")
    return Ranker(releases=releases)


@pytest.fixture
def put_new(store: Store, scorer: Scorer, profiler: Profiler, ranker: Ranker) -> Callable[[], None]:
    """Puts an item after both have looked."""
    vector = np.zeros(scorer.network.sizes.width, "<f4").tobytes()
    return lambda: put(store, "new", vector=vector)


def rows(*given: int) -> NDArray[np.int32]:
    return np.array(given, np.int32)


def clicked(*items: int) -> History:
    count = len(items)
    times = np.arange(count, dtype=np.int64) + NOW - 1000
    return History(rows(*items), np.zeros(count, np.int16), np.full(count, 2.0, np.float32), times)


def asks(*recent: History) -> list[ProfileAsk]:
    return [ProfileAsk(f"user-{n}", NOW, one) for n, one in enumerate(recent)]


@pytest.mark.parametrize("readable", [True, False])
def test_a_recent_event_on_a_new_item_costs_no_profile(
    profiler: Profiler, put_new: Callable[[], None], store: Store, readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_new()
    if not readable:
        unreadable(store, monkeypatch)
    batch = ProfileBatch("r1", asks(clicked(2, NEW), EMPTY))
    mine, other = asyncio.run(profiler.profile(batch)).profiles
    assert {one.category for one in mine.interests} == ({"bread", "fruit"} if readable else {"bread"})
    assert (mine.events, other.events) == (2, 0)


def test_a_slate_with_a_new_item_has_its_reasons(profiler: Profiler, put_new: Callable[[], None]) -> None:
    put_new()
    batch = ExplainBatch("r1", asks(clicked(2, NEW), EMPTY), [rows(1, NEW), rows(2)])
    mine, other = asyncio.run(profiler.explain(batch))
    assert (len(mine.probability_K), len(other.probability_K)) == (2, 1)


@pytest.mark.parametrize("readable", [True, False])
def test_wishes_candidates_and_histories_may_speak_of_what_the_ranker_does_not_know(
    profiler: Profiler,
    ranker: Ranker,
    put_new: Callable[[], None],
    store: Store,
    readable: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_new()
    allowing = Wish(allow=rows(1, NEW), said={"allow": ["i01", "new"]})
    denying = Wish(deny=rows(NEW), said={"deny": ["new"]})
    states = asyncio.run(profiler.profile(ProfileBatch("r1", asks(clicked(NEW), EMPTY, EMPTY, EMPTY)))).states
    if not readable:
        unreadable(store, monkeypatch)
    batch = RankBatch(
        "r1", states, [None, None, rows(3, NEW), rows(4)], [20] * 4, wishes=[allowing, denying, *[Wish()] * 2]
    )
    allowed, denied, given, other = (set(one.row_K.tolist()) for one in asyncio.run(ranker.rank(batch)))
    assert allowed == ({1, NEW} if readable else {1})
    assert denied == set(range(1, NEW))
    assert given == ({3, NEW} if readable else {3})
    assert other == {4}
