"""Two releases side by side: the split of the users, the shadow, and the look at outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from recorded import Recorded
from serve_fakes import NOW, Parts
from tiny_release import write_release

from clm_ray.config.workspace import Workspace
from clm_ray.errors import ConfigError
from clm_ray.features.catalogue import Catalogue
from clm_ray.messages import Recommendation
from clm_ray.schema import HOUR_US
from clm_ray.serve.args import AppArgs, CoalesceArgs, OutcomeArgs, ShadowArgs, SplitArgs, TimeoutArgs, resolve
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.hops import RankBatch, Ranked
from clm_ray.serve.http import build_http
from clm_ray.serve.opened import Opened
from clm_ray.serve.outcome_watch import OutcomeWatch
from clm_ray.serve.shadow import Shadow, ShadowAsk, ShadowLine
from clm_ray.serve.split import CHALLENGER, INCUMBENT, Challenger
from clm_ray.store.clock import Clock
from clm_ray.store.outcomes import Meaning
from clm_ray.store.records import ServedSlate, StoredEvent
from clm_ray.store.shadow import shadows_of
from clm_ray.store.store import Store

Make = Callable[..., TestClient]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def other(served: ServedCatalogue) -> ServedCatalogue:
    """The release r2: without i1, with i10, in another order of rows."""
    ids = ["", *(f"i{n}" for n in range(10, 1, -1))]
    catalogue = Catalogue.build(ids, [f"text of {i}" for i in ids], [[] for _ in ids])
    return replace(served, release="r2", catalogue=catalogue)


@pytest.fixture
def make(served: ServedCatalogue, store: Store, parts: Parts, recorded: Recorded) -> Iterator[Make]:
    """An endpoint with what the test puts beside the answers."""
    opened: list[TestClient] = []

    def build(**beside: object) -> TestClient:
        gateway = Gateway(
            served=replace(served, arm=INCUMBENT) if "challenger" in beside else served,
            store=store,
            clock=Clock(kind="wall", wall=lambda: NOW),
            hops=parts.hops(),
            coalesce=CoalesceArgs(),
            timeouts=TimeoutArgs(),
            telemetry=recorded.telemetry,
            **beside,  # type: ignore[arg-type]
        )
        opened.append(TestClient(build_http(gateway, admin_token=None)).__enter__())
        return opened[-1]

    yield build
    for client in opened:
        client.__exit__(None, None, None)


def ask(http: TestClient, user: str, **body: object) -> Recommendation:
    return Recommendation.model_validate_json(http.post("/v1/recommend", json={"user_id": user, **body}).content)


# the split


def test_a_share_of_the_users_goes_to_the_challenger_and_stays(other: ServedCatalogue) -> None:
    users = [f"user-{n}" for n in range(4000)]
    takes = {share: {u for u in users if Challenger(other, share, "e").takes(u)} for share in (0.1, 0.3)}
    assert len(takes[0.1]) / len(users) == pytest.approx(0.1, abs=0.02)
    assert takes[0.1] < takes[0.3], "a larger share only adds users"
    redrawn = {u for u in users if Challenger(other, 0.1, "another").takes(u)}
    assert len(redrawn & takes[0.1]) < 0.5 * len(takes[0.1]), "another experiment draws anew"


def test_each_arm_answers_with_its_own_release_and_both_say_so(
    make: Make, other: ServedCatalogue, store: Store, parts: Parts, recorded: Recorded
) -> None:
    challenger = Challenger(replace(other, arm=CHALLENGER), share=0.5, experiment="e")
    http = make(challenger=challenger)
    seen = set()
    for n in range(24):
        answer = ask(http, f"u{n}")
        theirs = challenger.takes(f"u{n}")
        assert (answer.arm, answer.release) == ((CHALLENGER, "r2") if theirs else (INCUMBENT, "r1"))
        assert [item.item_id for item in answer.items] == (["i10", "i9", "i8"] if theirs else ["i1", "i2", "i3"])
        slate = store.slates_of([str(answer.decision_id)])[str(answer.decision_id)]
        assert (slate.arm, slate.release_id) == (answer.arm, answer.release)
        assert http.get(f"/v1/users/u{n}/profile").json()["release"] == answer.release
        seen.add(answer.arm)
    assert seen == {INCUMBENT, CHALLENGER}
    assert {b.release for b in parts.profile_batches} == {b.release for b in parts.retain_batches} == {"r1", "r2"}
    recorded.telemetry.flush()
    counted = {key[1:]: n for key, n in recorded.counters.items() if key[0] == "clm_answers"}
    assert counted.keys() == {("r1", INCUMBENT), ("r2", CHALLENGER)}
    assert sum(counted.values()) == 24


def test_candidates_are_those_of_the_arm(make: Make, other: ServedCatalogue) -> None:
    challenger = Challenger(replace(other, arm=CHALLENGER), share=0.5, experiment="e")
    http = make(challenger=challenger)
    theirs = next(f"u{n}" for n in range(50) if challenger.takes(f"u{n}"))
    ours = next(f"u{n}" for n in range(50) if not challenger.takes(f"u{n}"))
    assert ask(http, theirs, candidates=["i10"]).items[0].item_id == "i10"
    assert http.post("/v1/recommend", json={"user_id": ours, "candidates": ["i10"]}).status_code == 422


def test_without_a_split_no_answer_speaks_of_arms(make: Make) -> None:
    assert "arm" not in make().post("/v1/recommend", json={"user_id": "u"}).json()


# the shadow


@pytest.fixture
def shadow(other: ServedCatalogue, store: Store, parts: Parts) -> Shadow:
    """The release r2 over the fakes: it prefers low rows, so that its i10 is its best."""
    return Shadow(served=other, store=store, profile=parts.profile, rank=parts.rank)


def test_the_shadow_scores_what_was_shown_and_its_own_slate_and_nobody_sees_it(
    make: Make, shadow: Shadow, store: Store, parts: Parts, recorded: Recorded
) -> None:
    line = ShadowLine(shadow.score, release="r2", telemetry=recorded.telemetry, max_waiting=8)
    http = make(shadow=line)
    body = {"recent_events": [{"event_type": "click", "item_id": "i9"}, {"event_type": "click", "item_id": "i1"}]}
    answer = ask(http, "u", **body)
    assert (answer.release, [item.item_id for item in answer.items]) == ("r1", ["i1", "i2", "i3"])
    name = str(answer.decision_id)
    _until(http, lambda: shadows_of(store, [name], release="r2"))
    logged = shadows_of(store, [name], release="r2")[name]
    assert logged.items == ("i10", "i9", "i8")
    assert logged.shown == (None, pytest.approx(0.81), pytest.approx(0.82)), "i1 is not in its catalogue"
    assert (logged.user_id, logged.time) == ("u", answer.time)
    theirs = next(b for b in parts.profile_batches if b.release == "r2").asks[0].recent
    assert theirs.item_N.tolist() == [2, 0], "rows of its own catalogue"
    _until(http, lambda: (recorded.telemetry.flush(), recorded.counters.get(("clm_shadow", "r2", "logged")))[1] == 1)


def test_given_candidates_are_given_to_the_shadow_too(
    store: Store, shadow: Shadow, parts: Parts, make: Make, recorded: Recorded
) -> None:
    http = make(shadow=ShadowLine(shadow.score, release="r2", telemetry=recorded.telemetry, max_waiting=8))
    name = str(ask(http, "u", candidates=["i1", "i4", "i7"]).decision_id)
    _until(http, lambda: shadows_of(store, [name], release="r2"))
    assert set(shadows_of(store, [name], release="r2")[name].items) == {"i4", "i7"}


def _until(http: TestClient, ask: Callable[[], object]) -> None:
    """Let the endpoint's event loop go on until `ask` finds something."""
    for _ in range(200):
        if ask():
            return
        http.get("/healthz")
    raise AssertionError("it did not come")


def test_a_shadow_that_is_behind_is_dropped_and_counted_and_never_waited_for(make: Make, recorded: Recorded) -> None:
    held = asyncio.Event()

    async def never(asks: list[ShadowAsk]) -> int:
        await held.wait()
        return len(asks)

    http = make(shadow=ShadowLine(never, release="r2", telemetry=recorded.telemetry, max_waiting=2, max_batch=1))
    for n in range(6):
        assert ask(http, f"u{n}").degraded == []
    recorded.telemetry.flush()
    # One is on its way (taken when the loop came to it), two wait, the others are dropped.
    assert recorded.counters["clm_shadow", "r2", "dropped"] == 3


def test_a_shadow_that_fails_costs_no_answer(make: Make, recorded: Recorded) -> None:
    async def broken(asks: list[ShadowAsk]) -> int:
        raise RuntimeError("no such model")

    http = make(shadow=ShadowLine(broken, release="r2", telemetry=recorded.telemetry, max_waiting=2))
    for n in range(3):
        assert ask(http, f"u{n}").degraded == []
    http.get("/healthz")
    recorded.telemetry.flush()
    assert recorded.counters["clm_shadow", "r2", "failed"] == 3


def test_the_shadow_retrieves_what_is_popular_for_a_user_without_a_history(
    shadow: Shadow, parts: Parts, other: ServedCatalogue, served: ServedCatalogue
) -> None:
    from clm_ray.features.history import EMPTY
    from clm_ray.serve.hops import ProfileAsk

    parts.newcomers.add("new")
    batches: list[RankBatch] = []

    async def rank(batch: RankBatch) -> list[Ranked]:
        batches.append(batch)
        return await parts.rank(batch)

    watched = Shadow(served=other, store=shadow._store, profile=parts.profile, rank=rank)
    one = ShadowAsk("d", ProfileAsk("new", NOW, EMPTY), (), (), None, ("i2",), 3)
    asyncio.run(watched.score([one]))
    rows = batches[0].rows[0]
    assert rows is not None
    assert rows.tolist() == other.popular_I[: other.recipe.serve.retrieve].tolist()


# what may be beside a release


@pytest.mark.parametrize("field", ["split", "shadow"])
@pytest.mark.parametrize(("name", "said"), [("r9", "no such release"), ("r1", "is the release"), ("../r2", "no such")])
def test_the_other_release_must_lie_beside_and_be_another(tmp_path: Path, field: str, name: str, said: str) -> None:
    workspace = Workspace(tmp_path / "shop")
    write_release(workspace, "r2", seed=2)
    write_release(workspace, "r1", seed=1)
    made = {"split": SplitArgs(release=name, share=0.5)} if field == "split" else {"shadow": ShadowArgs(release=name)}
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(AppArgs(root=str(workspace.root), **made))  # type: ignore[arg-type]
    assert caught.value.field == f"{field}.release"
    resolve(AppArgs(root=str(workspace.root), split=SplitArgs(release="r2", share=0.5)))


def test_a_replica_keeps_both_releases_open_whatever_else_it_meets(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_release(folder: Path) -> str:
        opened.append(folder.name)
        return folder.name

    releases = Opened(tmp_path / "r1", open_release=open_release, also=("r2",))
    assert opened == ["r1", "r2"]
    for name in ("r3", "r4", "r1", "r2", "r5", "r2", "r1"):
        assert releases.get(name) == name
    assert opened == ["r1", "r2", "r3", "r4", "r5"]


# outcomes


def watch(store: Store, recorded: Recorded, **args: object) -> OutcomeWatch:
    return OutcomeWatch(
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        meaning=Meaning(positive={"click": None}, amounts=frozenset()),
        window_hours=2.0,
        args=OutcomeArgs(**args),  # type: ignore[arg-type]
        telemetry=recorded.telemetry,
    )


def test_a_look_sets_what_was_promised_beside_what_came(store: Store, recorded: Recorded) -> None:
    random = np.random.default_rng(0)
    slates, events = [], []
    for n in range(400):
        arm, claimed = (CHALLENGER, 0.5) if n % 2 else (INCUMBENT, 0.25)
        time = NOW - 3 * HOUR_US - n
        slates.append(ServedSlate(f"d{n}", f"u{n}", time, f"r{1 + n % 2}", ("a", "b"), (claimed, claimed / 2), arm=arm))
        for item, p in (("a", 0.25), ("b", 0.125)):
            if random.random() < p:
                events.append(StoredEvent(f"e{n}{item}", f"u{n}", "click", time + 5, item_id=item, decision_id=f"d{n}"))
    slates.append(ServedSlate("young", "u", NOW - HOUR_US, "r1", ("a",), (0.25,), arm=INCUMBENT))
    store.log_slates(slates)
    store.append_events(events, received_at=NOW)
    watch(store, recorded).look()
    recorded.telemetry.flush()
    gauges = recorded.gauges
    assert gauges["clm_outcome_slates", "r1", INCUMBENT] == 200, "the young one may still be answered"
    assert gauges["clm_calibration_ratio", "r1", INCUMBENT] == pytest.approx(1.0, abs=0.25)
    assert gauges["clm_calibration_ratio", "r2", CHALLENGER] == pytest.approx(0.5, abs=0.15)
    assert gauges["clm_calibration_error", "r2", CHALLENGER] > 2 * gauges["clm_calibration_error", "r1", INCUMBENT]
    predicted = [gauges["clm_outcome_predicted", "r1", INCUMBENT, str(b)] for b in (1, 2)]
    assert predicted == pytest.approx([0.125, 0.25])
    assert gauges["clm_outcome_observed", "r1", INCUMBENT, "2"] == pytest.approx(0.25, abs=0.1)


def test_a_look_at_a_store_without_slates_says_nothing(store: Store, recorded: Recorded) -> None:
    watch(store, recorded).look()
    recorded.telemetry.flush()
    assert recorded.gauges == {}


def test_looks_go_on_after_one_that_failed(store: Store, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(store, recorded, every_s=0.01)
    looks = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 1:
            raise OSError("the store is away")
        watched.stop()

    monkeypatch.setattr(watched, "look", look)
    watched._run()
    recorded.telemetry.flush()
    assert recorded.counters == {("clm_outcome_looks", "failed"): 1, ("clm_outcome_looks", "done"): 1}
