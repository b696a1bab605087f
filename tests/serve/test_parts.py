"""Profiler, ranker and retention on a real store and an untrained release, without Ray."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tiny_release import ITEM_IDS, write_release

from clm_ray.config.serve import ServeConfig, ShopRule
from clm_ray.config.workspace import Workspace
from clm_ray.errors import ReleaseError
from clm_ray.features.history import EMPTY, History
from clm_ray.lifecycle.stages import CODE
from clm_ray.messages import Profile, RetentionAction
from clm_ray.model.calibration import Calibration
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.model.retention_calibration import RetentionCalibration
from clm_ray.policy.epochs import epoch_of
from clm_ray.release.read import thresholds_of
from clm_ray.schema import DAY_US
from clm_ray.serve.catalogue import open_catalogue
from clm_ray.serve.hops import (
    ANYTHING,
    ExplainBatch,
    ProfileAsk,
    ProfileBatch,
    Profiled,
    RankBatch,
    Ranked,
    RetainBatch,
    RetentionFacts,
    Wish,
)
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import Profiler, ProfilerRelease, merged, states_of
from clm_ray.serve.ranker import Ranker, RankerRelease, slate
from clm_ray.serve.retention import Retention, open_retention
from clm_ray.serve.shelf import Shelf
from clm_ray.store.records import RetentionDecision, StoredEvent, UserOverlay
from clm_ray.store.store import Store

NOW = 17_001 * DAY_US + 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(Workspace(tmp_path_factory.mktemp("shop")), "r1", seed=1)


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return Scorer.open(folder)


@pytest.fixture
def profiler(folder: Path, scorer: Scorer, store: Store) -> Profiler:
    release = ProfilerRelease(scorer, thresholds_of(folder))
    return Profiler(releases=Opened(folder, open_release=lambda _: release), store=store)


@pytest.fixture
def ranker(folder: Path, scorer: Scorer) -> Ranker:
    release = RankerRelease(scorer, open_catalogue(folder).shelf)
    return Ranker(releases=Opened(folder, open_release=lambda _: release))


@pytest.fixture
def retention(folder: Path, store: Store) -> Retention:
    return Retention(releases=Opened(folder, open_release=open_retention), store=store)


@pytest.fixture(autouse=True)
def histories(store: Store) -> None:
    """Ann bought i01 forty days ago and i02 yesterday, and will buy i03 the moment after NOW."""
    times = {"i01": NOW - 40 * DAY_US, "i02": NOW - DAY_US, "i03": NOW + 1}
    events = [StoredEvent(f"e-{item}", "ann", "purchase", time, item, 10.0) for item, time in times.items()]
    store.append_events(events, received_at=NOW)


def profiled(profiler: Profiler, *asks: ProfileAsk) -> Profiled:
    return asyncio.run(profiler.profile(ProfileBatch(release="r1", asks=list(asks))))


# profiler


def test_without_the_event_that_is_named_first_the_probability_is_what_the_reason_says(
    profiler: Profiler, scorer: Scorer, store: Store
) -> None:
    rows = np.array([2, 7], np.int32)
    recent = History(
        np.array([7], np.int32), np.array([0], np.int16), np.array([3.0], np.float32), np.array([NOW - 1], np.int64)
    )
    asks = [ProfileAsk("ann", NOW, recent), ProfileAsk("nobody", NOW, EMPTY)]
    ann, nobody = asyncio.run(profiler.explain(ExplainBatch("r1", asks, [rows, rows])))
    assert nobody.moved == [[], []], "no events, no reasons"
    kept = {"i01": (1, NOW - 40 * DAY_US, 10.0), "i02": (2, NOW - DAY_US, 10.0), "i07": (7, NOW - 1, 3.0)}
    for k, row in enumerate(rows.tolist()):
        effects = [abs(moved.effect) for moved in ann.moved[k]]
        assert len(effects) == 3
        assert effects == sorted(effects, reverse=True)
        top = ann.moved[k][0]
        left = [what for what in kept.values() if what[0] != top.row]
        item, time, value = zip(*left, strict=True)
        history = History(
            np.array(item, np.int32),
            np.zeros(len(left), np.int16),
            np.array(value, np.float32),
            np.array(time, np.int64),
        )
        states = scorer.states([UserRequest("ann", history, NOW)])
        without = float(scorer.click(states, [np.array([row], np.int32)])[0][0])
        assert top.effect == pytest.approx(float(ann.probability_K[k]) - without, abs=1e-6)
        assert abs(top.effect) > 1e-5


def test_a_slate_of_no_items_can_be_ranked(profiler: Profiler, ranker: Ranker) -> None:
    states = profiled(profiler, ProfileAsk("ann", NOW, EMPTY)).states
    (slate,) = asyncio.run(ranker.rank(RankBatch("r1", states, [np.empty(0, np.int32)], [5])))
    assert len(slate.row_K) == 0


def test_a_profile_says_who_the_user_is_from_events_before_the_moment(profiler: Profiler) -> None:
    profile = profiled(profiler, ProfileAsk("ann", NOW, EMPTY)).profiles[0]
    assert profile.stage == "established"
    assert profile.why
    assert profile.recency_days == pytest.approx(1.0)
    assert profile.tenure_days == pytest.approx(40.0)
    assert (profile.frequency["28"], profile.frequency["91"]) == (1, 2)
    assert (profile.monetary["28"], profile.monetary["91"]) == (10.0, 20.0)
    assert [interest.category for interest in profile.interests] == ["bread", "fruit"]
    assert profile.events == 2
    assert profile.chance_active is not None
    assert 0 < profile.chance_active["7"] < profile.chance_active["28"] < 1
    assert (profile.expected_spend, profile.next_action) == (None, None)


def test_a_release_with_further_heads_foretells_spend_and_the_next_action(tmp_path: Path, store: Store) -> None:
    folder = write_release(Workspace(tmp_path / "more"), "r1", seed=1, outputs=("value", "next_action"))
    scorer = Scorer.open(folder)
    profiler = Profiler(
        releases=Opened(folder, open_release=lambda _: ProfilerRelease(scorer, thresholds_of(folder))), store=store
    )
    profile = profiled(profiler, ProfileAsk("ann", NOW, EMPTY)).profiles[0]
    assert profile.expected_spend is not None
    assert profile.expected_spend > 0
    assert profile.next_action is not None
    assert list(profile.next_action) == list(scorer.vocabulary.names)
    assert sum(profile.next_action.values()) == pytest.approx(1.0, abs=1e-5)


def test_the_largest_amounts_make_a_profile_that_can_be_read_again(profiler: Profiler, store: Store) -> None:
    events = [StoredEvent(f"large{n}", "ann", "purchase", NOW - DAY_US, "i02", 3e38) for n in range(3)]
    store.append_events(events, received_at=NOW)
    profile = profiled(profiler, ProfileAsk("ann", NOW, EMPTY)).profiles[0]
    assert profile.monetary["7"] == pytest.approx(9e38)
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


def test_another_moment_is_another_profile(profiler: Profiler) -> None:
    early, now = profiled(profiler, ProfileAsk("ann", NOW - 20 * DAY_US, EMPTY), ProfileAsk("ann", NOW, EMPTY)).profiles
    assert (early.stage, early.events) == ("at_risk", 1)
    assert (now.stage, now.events) == ("established", 2)


def test_the_chance_to_come_back_is_calibrated_by_the_stage_of_the_moment(
    profiler: Profiler, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = [ProfileAsk("ann", NOW - 20 * DAY_US, EMPTY), ProfileAsk("ann", NOW, EMPTY)]
    plain = [profile.chance_active for profile in profiled(profiler, *asks).profiles]
    lower = RetentionCalibration(by_stage={"at_risk": Calibration("platt", 0.5, -2.0)})
    monkeypatch.setattr(scorer, "retention", lower)
    at_risk, established = profiled(profiler, *asks).profiles
    assert established.chance_active == plain[1]
    states = states_of(profiled(profiler, asks[0]).states)
    within = scorer.survival(states, stage_B=np.array([CODE["at_risk"]], np.int8))
    assert within is not None
    assert at_risk.chance_active is not None
    assert plain[0] is not None
    for days in scorer.recipe.retention.report_days:
        chance = at_risk.chance_active[str(days)]
        assert chance == pytest.approx(float(within[0, scorer.recipe.retention.bin_ends.index(days)]), abs=1e-6)
        assert chance < 0.9 * plain[0][str(days)]


def test_a_batch_gives_what_single_asks_give(profiler: Profiler) -> None:
    asks = [ProfileAsk("ann", NOW, EMPTY), ProfileAsk("nobody", NOW, EMPTY), ProfileAsk("ann", NOW - DAY_US, EMPTY)]
    together = profiled(profiler, *asks)
    states = states_of(together.states)
    for place, ask in enumerate(asks):
        alone = profiled(profiler, ask)
        np.testing.assert_allclose(states_of(alone.states)[0].profile_D, states[place].profile_D, atol=1e-6)
        assert alone.profiles[0].stage == together.profiles[place].stage


def test_a_user_never_seen_is_a_prospect_with_nothing_to_foresee(profiler: Profiler) -> None:
    profile = profiled(profiler, ProfileAsk("nobody", NOW, EMPTY)).profiles[0]
    assert (profile.stage, profile.events, profile.chance_active) == ("prospect", 0, None)
    assert profile.chance_active_reason


def test_recent_events_of_the_caller_count(profiler: Profiler) -> None:
    recent = History(
        np.array([5], np.int32), np.array([0], np.int16), np.array([3.0], np.float32), np.array([NOW - 1], np.int64)
    )
    profile = profiled(profiler, ProfileAsk("nobody", NOW, recent)).profiles[0]
    assert (profile.stage, profile.events, profile.monetary["7"]) == ("new", 1, 3.0)


def test_a_retention_decision_is_based_on_what_is_stored(profiler: Profiler) -> None:
    recent = History(
        np.array([5], np.int32), np.array([0], np.int16), np.array([3.0], np.float32), np.array([NOW - 20 * DAY_US])
    )
    with_recent, without = (profiled(profiler, ProfileAsk("ann", NOW, r)) for r in (recent, EMPTY))
    assert with_recent.profiles[0].events == without.profiles[0].events + 1
    assert with_recent.facts[0].activity_N.tolist() == [NOW - 40 * DAY_US, NOW - DAY_US]
    assert without.facts[0].activity_N.tolist() == [NOW - 40 * DAY_US, NOW - DAY_US]


def test_the_states_are_those_of_the_one_scoring_path(profiler: Profiler, scorer: Scorer) -> None:
    state = states_of(profiled(profiler, ProfileAsk("ann", NOW, EMPTY)).states)[0]
    history = History(
        np.array([1, 2], np.int32),
        np.zeros(2, np.int16),
        np.array([10.0, 10.0], np.float32),
        np.array([NOW - 40 * DAY_US, NOW - DAY_US], np.int64),
    )
    direct = scorer.states([UserRequest("ann", history, NOW)])[0]
    np.testing.assert_array_equal(state.profile_D, direct.profile_D)
    rows = np.arange(1, 6, dtype=np.int32)
    np.testing.assert_array_equal(scorer.click([state], [rows])[0], scorer.click([direct], [rows])[0])


def test_merging_keeps_time_order_and_puts_recent_events_last_at_equal_times() -> None:
    def history(rows: list[int], times: list[int]) -> History:
        none = np.zeros(len(rows))
        return History(np.array(rows, np.int32), none.astype(np.int16), none.astype(np.float32), np.array(times))

    both = merged(history([1, 2], [10, 30]), history([3, 4], [20, 30]))
    assert both.item_N.tolist() == [1, 3, 2, 4]


# ranker


def rank(ranker: Ranker, states: bytes, rows: list[np.ndarray | None], k: list[int]) -> list[Ranked]:
    return asyncio.run(ranker.rank(RankBatch("r1", states, rows, k)))


def test_the_best_k_of_the_candidates_best_first(profiler: Profiler, ranker: Ranker, scorer: Scorer) -> None:
    states = profiled(profiler, ProfileAsk("ann", NOW, EMPTY), ProfileAsk("nobody", NOW, EMPTY)).states
    rows = [np.array([7, 3, 5], np.int32), np.array([2], np.int32)]
    first, second = rank(ranker, states, rows, [2, 5])
    # Both users at once, as the ranker does: the last digit of a product may depend on its shape.
    score = dict(zip(rows[0].tolist(), scorer.click(states_of(states), rows)[0].tolist(), strict=True))
    assert first.row_K.tolist() == sorted(score, key=lambda row: -score[row])[:2]
    assert first.probability_K.tolist() == [score[row] for row in first.row_K.tolist()]
    assert second.row_K.tolist() == [2]


def test_without_candidates_the_catalogue_is_searched(profiler: Profiler, ranker: Ranker, scorer: Scorer) -> None:
    states = profiled(profiler, ProfileAsk("ann", NOW, EMPTY)).states
    found = rank(ranker, states, [None], [12])[0]
    assert len(found.row_K) == 12, "k may ask for more than `retrieve`"
    assert 0 not in found.row_K
    few = rank(ranker, states, [None], [3])[0]
    retrieved = scorer.retrieve(states_of(states), count=8)[0]
    assert set(few.row_K.tolist()) <= set(retrieved.tolist())


def test_equal_scores_are_in_the_order_of_the_catalogue(scorer: Scorer, folder: Path) -> None:
    (state,) = scorer.states([UserRequest("ann", EMPTY, NOW)])
    release = RankerRelease(scorer, open_catalogue(folder).shelf)
    logits = np.array([0.0, 0.0, 2.0], np.float32)
    ranked = slate(release, state, np.array([9, 4, 7], np.int32), logits, k=3, wish=ANYTHING)
    assert ranked.row_K.tolist() == [7, 4, 9]


# retention


def retain(retention: Retention, *facts: RetentionFacts) -> list[RetentionAction]:
    return asyncio.run(retention.retain(RetainBatch("r1", list(facts))))


def facts(user_id: str, *days_ago: float, time: int = NOW) -> RetentionFacts:
    return RetentionFacts(user_id, time, np.array([time - round(d * DAY_US) for d in days_ago], np.int64))


def test_a_decision_is_booked_once_per_period(retention: Retention, store: Store) -> None:
    first = retain(retention, facts("ann", 90, 50))[0]
    again = retain(retention, facts("ann", 90, 50, 0.01))[0]
    assert first == again
    stored = store.decisions_of([("ann", first.epoch)])["ann", first.epoch]
    assert (stored.action_id, stored.action, stored.propensity) == (first.action_id, first.action, first.propensity)
    assert sum(first.probabilities.values()) == pytest.approx(1.0)


def test_the_stage_is_that_of_the_start_of_the_period(retention: Retention, store: Store) -> None:
    start = epoch_of(NOW, timezone="UTC", epoch_days=7).start
    since = (NOW - start) / DAY_US
    action = retain(retention, facts("ann", since + 20, since - 0.001))[0]
    assert store.decisions_of([("ann", action.epoch)])["ann", action.epoch].stage == "at_risk"
    assert action.epoch_start == start


def test_who_did_not_consent_or_was_never_asked_is_not_contacted(retention: Retention) -> None:
    for action in retain(retention, facts("bob", 90, 50), facts("stranger", 90, 50)):
        assert action.masked is not None
        assert {action.masked[name] for name in ("reminder", "coupon_small", "win_back")} == {"consent"}


def test_what_users_told_us_later_goes_before_the_user_table(retention: Retention, store: Store) -> None:
    store.put_overlays([UserOverlay("bob", consent=True), UserOverlay("ann", consent=False, timezone="Asia/Tokyo")])
    bob, ann = retain(retention, facts("bob", 90, 50), facts("ann", 90, 50))
    assert "consent" not in (bob.masked or {}).values()
    assert "consent" in (ann.masked or {}).values()
    assert ann.epoch_start == epoch_of(NOW, timezone="Asia/Tokyo", epoch_days=7).start
    assert bob.epoch_start == epoch_of(NOW, timezone="Europe/Berlin", epoch_days=7).start


def consent_masks(retention: Retention, user: str, *, time: int = NOW) -> bool:
    (action,) = retain(retention, facts(user, 90, 50, time=time))
    return "consent" in (action.masked or {}).values()


def test_an_erasure_does_not_bring_back_a_consent_that_was_withdrawn(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(folder, tmp_path / folder.name)
    retention = Retention(releases=Opened(own, open_release=open_retention), store=store)
    assert not consent_masks(retention, "ann"), "the user table says yes"
    store.put_overlays([UserOverlay("ann", consent=False)])
    store.erase(["ann"], at=NOW, pending=True)
    assert consent_masks(retention, "ann")
    store.put_overlays([UserOverlay("ann", timezone="Europe/Berlin")])
    assert consent_masks(retention, "ann", time=NOW + 7 * DAY_US), "of consent they said nothing anew"
    store.put_overlays([UserOverlay("ann", consent=True)])
    assert not consent_masks(retention, "ann", time=NOW + 14 * DAY_US)
    # The files are erased too, and this replica has not been deployed anew.
    store.put_overlays([UserOverlay("ann")])
    path, fresh = own / "users.parquet", own / "fresh"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.not_equal(table.column("user_id"), "ann")), fresh)
    fresh.replace(path)
    store.finish_erasures(["ann"])
    assert consent_masks(retention, "ann", time=NOW + 21 * DAY_US)
    # The next release knows them again: of the time since.
    pq.write_table(table, path)
    anew = Retention(releases=Opened(own, open_release=open_retention), store=store)
    assert not consent_masks(anew, "ann", time=NOW + 28 * DAY_US)


def test_a_request_under_way_when_its_user_is_erased_has_no_action(
    retention: Retention, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = store.book

    def erased_meanwhile(batch: Sequence[RetentionDecision]) -> list[RetentionDecision]:
        store.erase(["ann"], at=NOW + 1)
        return book(batch)

    monkeypatch.setattr(store, "book", erased_meanwhile)
    ann, bob = retain(retention, facts("ann", 90, 50), facts("bob", 90, 50))
    assert ann.action == "none"
    stored = store.decisions_of([("ann", ann.epoch), ("bob", bob.epoch)])
    assert list(stored) == [("bob", bob.epoch)]


def test_a_batch_may_hold_the_same_user_twice(retention: Retention) -> None:
    first, second = retain(retention, facts("ann", 50), facts("ann", 50))
    assert first == second


# releases


def test_the_gateway_reads_a_release_without_its_model(folder: Path) -> None:
    served = open_catalogue(folder)
    assert served.catalogue.ids == ITEM_IDS
    assert served.popular_I.tolist() == list(range(12, 0, -1))
    assert served.event_types == ["purchase", "click"]


def test_a_release_with_a_file_missing_is_said(tmp_path: Path) -> None:
    broken = write_release(Workspace(tmp_path), "r1", seed=1)
    (broken / "items.parquet").unlink()
    with pytest.raises(ReleaseError, match=r"items\.parquet"):
        open_catalogue(broken)
    (broken / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ReleaseError, match="thresholds"):
        thresholds_of(broken)


def test_another_release_is_opened_beside_the_own_one_and_only_a_few_are_kept(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_release(folder: Path) -> str:
        opened.append(folder.name)
        return folder.name

    releases = Opened(tmp_path / "r2", open_release=open_release, keep=2)
    assert releases.release == "r2"
    assert [releases.get(name) for name in ("r1", "r2", "r1", "r3", "r2", "r1")] == ["r1", "r2", "r1", "r3", "r2", "r1"]
    assert opened == ["r2", "r1", "r3", "r1"], "the own release stays open"


def test_filters_rules_and_pins_reach_the_slate_and_its_log(folder: Path, scorer: Scorer, profiler: Profiler) -> None:
    served = open_catalogue(folder)
    rules = (
        ShopRule(do="exclude", items=("i02",)),
        ShopRule(do="pin", items=("i03",), place=2),
        ShopRule(do="boost", items=("i11",), times=1e6),
    )
    shelf = Shelf.build(served.catalogue, None, ServeConfig(rules=rules))
    ranker = Ranker(releases=Opened(folder, open_release=lambda _: RankerRelease(scorer, shelf)))
    states = profiled(profiler, ProfileAsk("ann", NOW, EMPTY)).states
    wish = Wish(categories=("fruit",), without_chosen=True, said={"categories": ["fruit"]})
    ask = RankBatch("r1", states, [None], [4], wishes=[wish])
    (found,) = asyncio.run(ranker.rank(ask))
    shown = [served.catalogue.ids[row] for row in found.row_K]
    # Odd rows are fruit; ann chose i01, and i02 is excluded anyway. i11 is lifted to the top, i03 pinned behind it.
    assert shown[:2] == ["i11", "i03"]
    assert set(shown) <= {"i03", "i05", "i07", "i09", "i11"}
    state = states_of(states)[0]
    exact = scorer.click([state], [found.row_K])[0]
    np.testing.assert_allclose(found.probability_K, exact, rtol=1e-5, err_msg="probabilities stay the model's")
    assert found.shaping == {"filters": {"categories": ["fruit"]}, "boosts": 1, "pins": ["i03"]}
