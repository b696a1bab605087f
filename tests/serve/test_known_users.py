"""What a profiler remembers holds until the user's history changes, and not a moment longer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from tiny_release import write_release

from clm_ray.config.workspace import Workspace
from clm_ray.features.history import EMPTY
from clm_ray.model.inference import Scorer
from clm_ray.release.read import thresholds_of
from clm_ray.schema import DAY_US
from clm_ray.serve import measures
from clm_ray.serve.hops import ProfileAsk, ProfileBatch, Profiled
from clm_ray.serve.live_items import LiveItems, amended_scorer
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import Profiler, ProfilerRelease, states_of
from clm_ray.serve.telemetry import Telemetry
from clm_ray.store.items import ChangedItem, PutItem
from clm_ray.store.records import StoredEvent
from clm_ray.store.store import Store

NOW = 17_001 * DAY_US


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProfilerRelease]:
    folder = write_release(Workspace(tmp_path_factory.mktemp("shop")), "r1", seed=1)
    return folder, ProfilerRelease(Scorer.open(folder), thresholds_of(folder))


class Counted:
    """A profiler whose look-ups are counted."""

    def __init__(self, release: tuple[Path, ProfilerRelease], store: Store, *, remembered: int) -> None:
        folder, opened = release
        self.results: list[tuple[str, float]] = []
        self.telemetry = Telemetry(self._write)
        self.profiler = Profiler(
            releases=Opened(folder, open_release=lambda _: opened),
            store=store,
            telemetry=self.telemetry,
            remembered=remembered,
        )

    def _write(self, measure: measures.Measure, value: float, tags: dict[str, str]) -> None:
        if measure is measures.CACHE:
            self.results.append((tags["result"], value))

    def ask(self, *users: str, time: int = NOW) -> Profiled:
        asks = [ProfileAsk(user, time, EMPTY) for user in users]
        answer = asyncio.run(self.profiler.profile(ProfileBatch("r1", asks)))
        self.telemetry.flush()
        return answer

    def seen(self) -> dict[str, float]:
        found, self.results = dict(self.results), []
        return found


def event(name: str, user: str, time: int) -> StoredEvent:
    return StoredEvent(name, user, "purchase", time, "i03", 5.0)


def test_a_user_asked_again_is_remembered_until_there_is_a_new_event(
    release: tuple[Path, ProfilerRelease], store: Store
) -> None:
    store.append_events([event("e1", "ann", NOW - 3 * DAY_US)], received_at=NOW)
    counted, fresh = (Counted(release, store, remembered=n) for n in (8, 0))
    first = counted.ask("ann", "bob")
    assert counted.seen() == {"miss": 2}
    later = counted.ask("ann", "bob", time=NOW + DAY_US)
    assert counted.seen() == {"hit": 2}
    assert later.profiles[0].recency_days == pytest.approx(4.0)
    assert _same(later, fresh.ask("ann", "bob", time=NOW + DAY_US))
    store.append_events([event("e0", "ann", NOW - 9 * DAY_US)], received_at=NOW)  # late, and in its place
    again = counted.ask("ann", "bob")
    assert counted.seen() == {"hit": 1, "miss": 1}
    assert (first.profiles[0].events, again.profiles[0].events) == (1, 2)
    store.erase(["ann"])
    assert counted.ask("ann").profiles[0].events == 0


def test_a_moment_within_the_history_is_answered_from_what_was_before_it(
    release: tuple[Path, ProfilerRelease], store: Store
) -> None:
    store.append_events([event("e1", "ann", NOW - 9 * DAY_US), event("e2", "ann", NOW - DAY_US)], received_at=NOW)
    counted, fresh = (Counted(release, store, remembered=n) for n in (8, 0))
    counted.ask("ann")
    past = counted.ask("ann", time=NOW - 5 * DAY_US)
    assert past.profiles[0].events == 1
    assert _same(past, fresh.ask("ann", time=NOW - 5 * DAY_US))


def test_only_so_many_users_are_remembered(release: tuple[Path, ProfilerRelease], store: Store) -> None:
    counted = Counted(release, store, remembered=1)
    counted.ask("ann", "bob")
    counted.seen()
    counted.ask("bob")
    assert counted.seen() == {"hit": 1}
    counted.ask("ann")
    assert counted.seen() == {"miss": 1}


def _same(one: Profiled, other: Profiled) -> bool:
    assert one.profiles == other.profiles
    for mine, theirs in zip(states_of(one.states), states_of(other.states), strict=True):
        np.testing.assert_array_equal(mine.profile_D, theirs.profile_D)
        np.testing.assert_array_equal(mine.token_TD, theirs.token_TD)
        assert (mine.time, len(mine.history)) == (theirs.time, len(theirs.history))
    for fact, expected in zip(one.facts, other.facts, strict=True):
        np.testing.assert_array_equal(fact.activity_N, expected.activity_N)
    return True


def test_an_item_that_was_put_since_counts_in_a_history_that_spoke_of_it_before(
    release: tuple[Path, ProfilerRelease], store: Store
) -> None:
    folder, opened = release

    def amend(base: ProfilerRelease, changes: Sequence[ChangedItem], at: int) -> ProfilerRelease:
        return replace(base, scorer=amended_scorer(base.scorer, changes, at))

    def live(base: ProfilerRelease, name: str) -> LiveItems[ProfilerRelease]:
        return LiveItems(base, release=name, store=store, amend=amend, now=lambda: NOW, timer=count().__next__)

    profiler = Profiler(releases=Opened(folder, open_release=lambda _: opened, live=live), store=store)

    def interests() -> list[str]:
        batch = ProfileBatch("r1", [ProfileAsk("ann", NOW, EMPTY)])
        return [one.category for one in asyncio.run(profiler.profile(batch)).profiles[0].interests]

    store.append_events([StoredEvent("e", "ann", "purchase", NOW - 5, "new", 1.0)], received_at=NOW)
    assert interests() == []
    store.put_items([("new", PutItem("new", "text", ("fruit",)))], now=NOW)
    (waiting,) = store.unencoded_items(release="r1", limit=9)
    vector = np.zeros(opened.scorer.network.sizes.width, "<f4").tobytes()
    store.put_item_vectors([("new", waiting.version, vector)], release="r1")
    interests()  # the look at the store that brings the news
    assert interests() == ["fruit"]
