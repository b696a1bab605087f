"""A user of each stage gets that stage's strategy: in the slate, in the answer, in the log; and no probability is touched."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from tiny_release import write_release

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.config.stages import STAGES, Stage
from clm_ray.config.workspace import Workspace
from clm_ray.features.history import History
from clm_ray.messages import Ranking, Recommendation, UserProfile
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.release.read import thresholds_of
from clm_ray.schema import DAY_US
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue, open_catalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.hops import ANYTHING, Hops, Ranked, Wish
from clm_ray.serve.http import build_http
from clm_ray.serve.near import NearCategories
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import Profiler, ProfilerRelease
from clm_ray.serve.ranker import Ranker, RankerRelease, slate
from clm_ray.serve.retention import Retention, open_retention
from clm_ray.serve.shelf import Shelf
from clm_ray.store.clock import Clock
from clm_ray.store.records import StoredEvent
from clm_ray.store.store import Store

NOW = 17_001 * DAY_US + 1000
DAYS_AGO: dict[Stage, tuple[int, ...]] = {
    "prospect": (),
    "new": (1,),
    "established": (40, 30, 20, 10, 1),
    "at_risk": (40, 30, 20),
    "churned": (90,),
    "reactivated": (90, 1),
}
"""When the user of each stage, who is named after it, bought i02 or i04."""
NAMES = ("convert", "teach", "deepen", "treat", "win_back", "watch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(Workspace(tmp_path_factory.mktemp("shop")), "r1", seed=1)


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return Scorer.open(folder)


def strategic(**strategy: Any) -> Recipe:
    raw = {
        "name": "tiny",
        "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
        "event_types": {"purchase": {"roles": ["positive", "context", "activity"], "value": "amount"}},
        "strategy": strategy,
    }
    return recipe_from(raw)


@pytest.fixture
def served(folder: Path) -> ServedCatalogue:
    return open_catalogue(folder)


# the slate


LOGITS = np.array([3.0, 2.9, 2.0, 1.0, 0.9, 0.8], np.float32)
ROWS = np.array([1, 2, 3, 4, 5, 6], np.int32)
BREAD = History(
    np.array([2, 4], np.int32), np.zeros(2, np.int16), np.ones(2, np.float32), np.array([NOW - DAY_US, NOW - 1])
)


def ranked(
    scorer: Scorer, served: ServedCatalogue, recipe: Recipe, stage: Stage | None, wish: Wish = ANYTHING, k: int = 4
) -> Ranked:
    """Rows 1 to 6 in this order of merit, for a user who chose bread, which even rows are; 12, 11 ... are popular in that order."""
    told = copy.copy(scorer)
    told.recipe = recipe
    (state,) = scorer.states([UserRequest("u", BREAD, NOW)])
    shelf = Shelf.build(served.catalogue, served.stock, recipe.serve, popular=served.shelf.popular)
    near = NearCategories.of(scorer.items, scorer.item_vectors, most=1)
    return slate(RankerRelease(told, shelf, near), state, ROWS, LOGITS, k=k, wish=wish, stage=stage)


def test_near_categories_are_sought_only_where_a_strategy_asks_for_them(
    scorer: Scorer, served: ServedCatalogue
) -> None:
    def release(recipe: Recipe) -> RankerRelease:
        told = copy.copy(scorer)
        told.recipe = recipe
        return RankerRelease.of(told, served.shelf)

    assert release(strategic()).near is not None
    assert release(strategic(enabled=False)).near is None
    assert release(strategic(established={"adjacent_share": 0.0})).near is None
    assert release(strategic(established={"adjacent_share": 0.0}, churned={"adjacent_share": 0.1})).near is not None


def test_without_a_strategy_the_most_likely_come_first(scorer: Scorer, served: ServedCatalogue) -> None:
    for recipe, stage in ((strategic(), None), (strategic(enabled=False), "prospect")):
        found = ranked(scorer, served, recipe, stage)  # type: ignore[arg-type]
        assert (found.row_K.tolist(), found.brought_K, found.shaping) == ([1, 2, 3, 4], None, {})


@pytest.mark.parametrize("stage", ["at_risk", "reactivated"])
def test_who_is_treated_or_watched_is_shown_what_suits_them_best(
    scorer: Scorer, served: ServedCatalogue, stage: Stage
) -> None:
    found = ranked(scorer, served, strategic(), stage)
    assert found.row_K.tolist() == [1, 2, 3, 4]
    assert found.brought_K is not None
    assert not found.brought_K.any()
    assert found.shaping["strategy"]["brought_in"] == 0


def test_prospects_are_shown_what_others_chose_first_on_every_second_place(
    scorer: Scorer, served: ServedCatalogue
) -> None:
    # Of the candidates 6 and 5 are among the eight most popular: 12 ... 5.
    found = ranked(scorer, served, strategic(popular_items=8), "prospect")
    assert found.row_K.tolist() == [1, 5, 2, 6]
    assert found.brought_K is not None
    assert found.brought_K.tolist() == [False, True, False, True]
    assert found.shaping == {
        "strategy": {"name": "convert", "stage": "prospect", "popular_share": 0.5, "brought_in": 2}
    }
    at = replace(served, popular_at={"prospect": np.array([3, 4], np.int32)})
    assert ranked(scorer, at, strategic(), "prospect").row_K.tolist() == [1, 3, 2, 4], "those of the stage count"


def test_new_users_get_a_more_diverse_slate(scorer: Scorer, served: ServedCatalogue) -> None:
    def likeness(row_K: np.ndarray) -> float:
        vectors = scorer.item_vectors(row_K)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return float(np.triu(unit @ unit.T, 1).sum())

    found = ranked(scorer, served, strategic(new={"diversity": 0.8}), "new", k=3)
    assert likeness(found.row_K) < likeness(ROWS[:3])
    assert found.row_K[0] == 1, "the best comes first"
    assert found.shaping["diversity"] == 0.8


def test_established_users_get_some_of_what_lies_next_to_what_they_choose(
    scorer: Scorer, served: ServedCatalogue
) -> None:
    recipe = strategic(established={"adjacent_share": 0.5})
    found = ranked(scorer, served, recipe, "established", k=6)
    # Bread (even rows) is theirs, fruit is next to it; the best of fruit stood at the top anyway.
    assert found.row_K.tolist() == [1, 2, 3, 4, 5, 6]
    more = ranked(scorer, served, strategic(established={"adjacent_share": 1.0}), "established", k=3)
    assert more.row_K.tolist() == [1, 3, 5]
    assert more.brought_K is not None
    assert more.brought_K.tolist() == [False, False, True]


def test_what_came_since_they_left_moves_up_for_users_who_have_gone(scorer: Scorer, served: ServedCatalogue) -> None:
    assert served.stock is not None
    column = served.stock.schema.field("available_from")
    came = pa.array([NOW - DAY_US if row == 4 else None for row in range(len(served.catalogue))]).cast(column.type)
    stock = served.stock.set_column(served.stock.column_names.index(column.name), column, came)
    younger = replace(served, stock=stock)
    eager = strategic(churned={"freshness": {"times": 100.0}})
    assert ranked(scorer, younger, eager, "churned").row_K.tolist() == [4, 1, 2, 3]
    assert ranked(scorer, younger, eager, "at_risk").row_K.tolist() == [1, 2, 3, 4]


def test_what_the_request_states_goes_before_the_strategy(scorer: Scorer, served: ServedCatalogue) -> None:
    recipe = strategic(new={"diversity": 0.8})
    asked = ranked(scorer, served, recipe, "new", Wish(diversity=0.0))
    assert asked.row_K.tolist() == [1, 2, 3, 4]
    assert "diversity" not in asked.shaping


@pytest.mark.parametrize("stage", STAGES)
def test_probabilities_stay_those_of_the_model(scorer: Scorer, served: ServedCatalogue, stage: Stage) -> None:
    eager = {"popular_share": 0.4, "adjacent_share": 0.4, "diversity": 0.7, "freshness": {"times": 9.0}}
    found = ranked(scorer, served, strategic(popular_items=3, **{stage: eager}), stage)
    expected = dict(zip(ROWS.tolist(), (1 / (1 + np.exp(-LOGITS))).tolist(), strict=True))
    np.testing.assert_allclose(found.probability_K, [expected[row] for row in found.row_K.tolist()], rtol=1e-6)
    assert len(set(found.row_K.tolist())) == 4


# the endpoint


@pytest.fixture
def http(folder: Path, scorer: Scorer, served: ServedCatalogue, store: Store) -> Iterator[TestClient]:
    """The real parts behind the real routes; each user has lived through what DAYS_AGO says."""
    events = [
        StoredEvent(f"{stage}-{days}", stage, "purchase", NOW - days * DAY_US, f"i{2 + 2 * (days % 2):02d}", 5.0)
        for stage, all_days in DAYS_AGO.items()
        for days in all_days
    ]
    store.append_events(events, received_at=NOW)
    known, ranking = ProfilerRelease(scorer, thresholds_of(folder)), RankerRelease.of(scorer, served.shelf)
    profiler = Profiler(releases=Opened(folder, open_release=lambda _: known), store=store)
    ranker = Ranker(releases=Opened(folder, open_release=lambda _: ranking))
    retention = Retention(releases=Opened(folder, open_release=open_retention), store=store)
    gateway = Gateway(
        served=served,
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=Hops(profile=profiler.profile, rank=ranker.rank, retain=retention.retain, loaded={}),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(profiler_s=30, ranker_s=30, retention_s=30),
    )
    with TestClient(build_http(gateway, admin_token=None), raise_server_exceptions=False) as client:
        yield client


def ask(http: TestClient, user: str, **body: Any) -> Recommendation:
    response = http.post("/v1/recommend", json={"user_id": user, **body})
    assert response.status_code == 200, response.text
    return Recommendation.model_validate_json(response.content)


@pytest.mark.parametrize(("stage", "name"), list(zip(STAGES, NAMES, strict=True)))
def test_a_user_of_each_stage_is_told_the_strategy_of_the_stage(
    http: TestClient, store: Store, folder: Path, stage: Stage, name: str
) -> None:
    answer = ask(http, stage)
    assert answer.profile is not None
    assert answer.profile.stage == stage
    told = answer.profile.strategy
    recipe = open_catalogue(folder).recipe
    assert told is not None
    assert (told.name, told.why, told.slate) == (
        name,
        recipe.strategy.of(stage).why,
        recipe.strategy.of(stage).options(),
    )
    assert told.actions == ["none", *(a.name for a in recipe.policy.actions if stage in a.stages)]
    plain = {item.item_id for item in ask(http, stage, stage_strategy=False).items}
    assert told.brought_in == [item.item_id for item in answer.items if item.item_id not in plain]
    logged = store.slates_of([str(answer.decision_id)])[str(answer.decision_id)].shaping["strategy"]
    assert (logged["name"], logged["stage"], logged["brought_in"]) == (name, stage, len(told.brought_in))
    assert answer.retention is not None
    assert set(answer.retention.probabilities) <= set(told.actions)


def test_who_wants_no_strategy_is_shown_the_most_likely_and_told_so(http: TestClient, store: Store) -> None:
    answer = ask(http, "new", stage_strategy=False)
    chances = [item.probability or 0.0 for item in answer.items]
    assert chances == sorted(chances, reverse=True)
    assert answer.profile is not None
    assert answer.profile.strategy is not None
    assert answer.profile.strategy.brought_in is None
    assert "strategy" not in store.slates_of([str(answer.decision_id)])[str(answer.decision_id)].shaping


def test_a_profile_by_itself_and_an_order_by_itself_go_by_the_same_strategy(http: TestClient) -> None:
    told = UserProfile.model_validate_json(http.get("/v1/users/churned/profile").content).profile.strategy
    assert told is not None
    assert (told.name, told.brought_in) == ("win_back", None)
    order = Ranking.model_validate_json(http.post("/v1/rank", json={"user_id": "new"}).content)
    assert [item.item_id for item in order.items] == [item.item_id for item in ask(http, "new").items]


def test_an_empty_slate_has_nothing_brought_in(http: TestClient) -> None:
    answer = ask(http, "established", candidates=["i02"], filters={"deny": ["i02"]})
    assert answer.items == []
    assert answer.profile is not None
    assert answer.profile.strategy is not None
    assert answer.profile.strategy.brought_in == []
