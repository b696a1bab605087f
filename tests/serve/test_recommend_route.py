"""POST /v1/recommend: what is answered, what is logged, what is refused, and how it degrades."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serve_fakes import ADMIN, NOW, Parts
from sqlalchemy import Connection, select

from clm_ray.errors import StoreError
from clm_ray.messages import Recommendation
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.http import build_http
from clm_ray.store import decisions
from clm_ray.store.clock import Clock
from clm_ray.store.records import ServedSlate
from clm_ray.store.store import Store
from clm_ray.store.tables import SERVED_SLATES


def ask(http: TestClient, headers: dict[str, str] | None = None, **body: Any) -> Recommendation:
    response = http.post("/v1/recommend", json={"user_id": "u", **body}, headers=headers)
    assert response.status_code == 200, response.text
    return Recommendation.model_validate_json(response.content)


def items(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def test_a_full_answer_has_slate_profile_and_action(http: TestClient) -> None:
    answer = ask(http, candidates=["i5", "i2", "i7", "i3"], k=2)
    assert items(answer) == ["i2", "i3"]
    assert [item.position for item in answer.items] == [1, 2]
    assert answer.items[0].probability == pytest.approx(0.88)
    assert answer.profile is not None
    assert answer.profile.stage == "established"
    assert answer.retention is not None
    assert (answer.retention.action, answer.retention.masked) == ("none", None)
    assert (answer.time, answer.release, answer.degraded) == (NOW, "r1", [])


def test_without_candidates_they_are_retrieved_and_the_recipe_says_how_many_are_shown(
    http: TestClient, parts: Parts
) -> None:
    assert items(ask(http)) == ["i1", "i2", "i3"]
    assert parts.rank_batches[0].rows == [None]


def test_the_slate_is_in_the_log_when_the_answer_is_there(http: TestClient, store: Store) -> None:
    answer = ask(http, candidates=["i4", "i2"], context={"page": "home"})
    assert answer.decision_id is not None
    slate = store.slates_of([answer.decision_id])[answer.decision_id]
    assert slate.items == ("i2", "i4")
    assert slate.probabilities == pytest.approx((0.88, 0.86))
    assert (slate.user_id, slate.time, slate.release_id) == ("u", NOW, "r1")
    assert (slate.context, slate.degraded) == ({"page": "home"}, "")


def test_every_answer_has_its_own_decision_id(http: TestClient) -> None:
    assert ask(http).decision_id != ask(http).decision_id


def test_repeated_candidates_count_once(http: TestClient) -> None:
    assert items(ask(http, candidates=["i4", "i4", "i2", "i4"], k=10)) == ["i2", "i4"]


def test_explain_adds_texts_matches_and_the_rules_that_ruled_actions_out(http: TestClient) -> None:
    answer = ask(http, candidates=["i2", "i3"], explain=True)
    assert [item.text for item in answer.items] == ["text of i2", "text of i3"]
    assert [item.matches for item in answer.items] == [[], ["fruit"]]
    assert answer.retention is not None
    assert answer.retention.masked == {"coupon": "eligibility"}
    first, second = (item.reasons for item in answer.items)
    assert first is not None
    assert second is not None
    assert (first[0].event_type, first[0].item_id, first[0].effect) == ("click", "i3", 0.01)
    assert second[0].text == "click of “text of i3” 24 hours before makes it more likely: 50.000% instead of 48.000%"
    assert ask(http).items[0].reasons is None


@pytest.mark.parametrize(("trouble", "said"), [(RuntimeError("broken"), "explainer_failed"), (9.0, "explainer_late")])
def test_without_an_explainer_there_are_no_reasons_and_the_slate_is_whole(
    http: TestClient, parts: Parts, store: Store, trouble: Exception | float, said: str
) -> None:
    parts.trouble["explainer"] = trouble
    answer = ask(http, candidates=["i2"], explain=True)
    assert answer.degraded == [said]
    assert (answer.items[0].text, answer.items[0].reasons) == ("text of i2", None)
    assert answer.decision_id is not None
    assert store.slates_of([answer.decision_id])[answer.decision_id].degraded == ""


def test_recent_events_reach_the_profiler_in_time_order_and_are_not_stored(
    http: TestClient, parts: Parts, store: Store
) -> None:
    ask(
        http,
        recent_events=[
            {"event_type": "click", "item_id": "i3"},
            {"event_type": "rating", "item_id": "nowhere", "value": 5, "timestamp": NOW - 10},
        ],
    )
    recent = parts.profile_batches[0].asks[0].recent
    assert recent.time_N.tolist() == [NOW - 10, NOW - 1]
    assert recent.item_N.tolist() == [0, 3]
    assert recent.event_N.tolist() == [1, 4]
    assert len(store.histories(["u"])["u"]) == 0


def test_concurrent_requests_share_batches_and_keep_their_own_answers(http: TestClient, parts: Parts) -> None:
    parts.trouble["profiler"] = 0.05
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda n: ask(http, user_id=f"u{n}", candidates=[f"i{n % 9 + 1}"]), range(24)))
    assert [answer.user_id for answer in answers] == [f"u{n}" for n in range(24)]
    assert [items(answer) for answer in answers] == [[f"i{n % 9 + 1}"] for n in range(24)]
    assert len(parts.profile_batches) < 24
    assert sum(len(batch.asks) for batch in parts.profile_batches) == 24


@pytest.mark.parametrize(
    ("body", "field", "named"),
    [
        ({"candidates": ["i1", "nope", "neither"]}, "candidates[1]", "nope, neither"),
        ({"candidates": [f"i{n}" for n in range(1, 10)]}, "candidates", "more than 8"),
        ({"recent_events": [{"event_type": "kiss"}]}, "recent_events[0].event_type", "not an event type"),
        ({"recent_events": [{"event_type": "impression"}]}, "recent_events[0].event_type", "logged by the endpoint"),
        ({"recent_events": [{"event_type": "rating", "item_id": "i1"}]}, "recent_events[0].value", "needs its value"),
        ({"recent_events": [{"event_type": "click"}]}, "recent_events[0].item_id", "needs its item"),
        (
            {"recent_events": [{"event_type": "mailing"}, {"event_type": "mailing", "timestamp": NOW + 301_000_000}]},
            "recent_events[1].timestamp",
            "lies in the future",
        ),
        ({"user_id": " u"}, "user_id", "spaces"),
        ({"k": 0}, "k", "greater than or equal to 1"),
        ({"kk": 1}, "kk", "no such field"),
        ({"user_id": None}, "user_id", "is missing"),
        ({"anonymous": True}, "user_id", "no id"),
        ({"unknown_items": "guess"}, "unknown_items", "refuse"),
        ({"deadline_ms": 5}, "deadline_ms", "greater than or equal to 10"),
        ({"as_of": "soon"}, "as_of", "ISO 8601"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_field_and_a_fix(
    http: TestClient, parts: Parts, body: dict[str, Any], field: str, named: str
) -> None:
    response = http.post("/v1/recommend", json={"user_id": "u", **body})
    problem = response.json()
    assert response.status_code == problem["status"] == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["field"] == field
    assert named in problem["detail"]
    assert problem["fix"]
    assert not parts.profile_batches


def test_unknown_candidates_are_left_out_and_named_where_that_is_asked_for(http: TestClient) -> None:
    answer = ask(http, candidates=["nope", "i5", "neither", "i2"], unknown_items="skip")
    assert items(answer) == ["i2", "i5"]
    assert answer.skipped == ["nope", "neither"]
    assert ask(http, candidates=["i5"], unknown_items="skip").skipped == []
    assert ask(http, candidates=["i5"]).skipped is None


def test_nothing_is_stored_of_an_anonymous_user_and_nothing_decided(
    http: TestClient, parts: Parts, store: Store
) -> None:
    events = [{"event_type": "click", "item_id": "i3"}]
    response = http.post("/v1/recommend", json={"anonymous": True, "recent_events": events})
    answer = Recommendation.model_validate_json(response.content)
    assert (answer.user_id, answer.decision_id, answer.retention, answer.degraded) == (None, None, None, [])
    assert "anonymous" in (answer.retention_reason or "")
    assert answer.profile is not None
    assert answer.profile.events == 6, "five that the stand-in makes up, and that of the request"
    assert parts.profile_batches[0].asks[0].user_id == ""
    assert not parts.retain_batches
    with store.reading() as connection:
        assert connection.execute(select(SERVED_SLATES)).all() == []


def test_timings_of_every_part_are_there_for_who_asks(http: TestClient) -> None:
    timings = ask(http, debug=True).timings
    assert timings is not None
    assert set(timings) == {"waiting", "profiler", "ranker", "retention", "store", "total"}
    assert 0 <= timings["ranker"] <= timings["total"]
    assert ask(http).timings is None


# as_of


def test_only_an_administrator_may_ask_for_another_moment(http: TestClient) -> None:
    for headers in ({}, {"X-Admin-Token": "guess"}):
        response = http.post("/v1/recommend", json={"user_id": "u", "as_of": NOW - 5}, headers=headers)
        assert response.status_code == 403
        assert response.json()["field"] == "as_of"


def test_an_as_of_answer_books_nothing_and_logs_nothing(http: TestClient, parts: Parts, store: Store) -> None:
    answer = ask(http, {"X-Admin-Token": ADMIN}, as_of=NOW - 5)
    assert answer.time == NOW - 5
    assert parts.profile_batches[0].asks[0].time == NOW - 5
    assert answer.decision_id is None
    assert answer.retention is None
    assert "as_of" in (answer.retention_reason or "")
    assert not parts.retain_batches
    assert answer.degraded == []


def test_the_future_is_not_known_to_administrators_either(http: TestClient) -> None:
    response = http.post("/v1/recommend", json={"user_id": "u", "as_of": NOW + 5}, headers={"X-Admin-Token": ADMIN})
    assert (response.status_code, response.json()["field"]) == (422, "as_of")


# degrading


def test_a_user_without_a_history_gets_what_is_popular_ranked(http: TestClient, parts: Parts) -> None:
    parts.newcomers.add("u")
    answer = ask(http)
    assert parts.rank_batches[0].rows[0].tolist() == [9, 8, 7, 6], "the `retrieve` most popular"
    assert items(answer) == ["i6", "i7", "i8"]
    assert answer.degraded == ["no_history"]
    assert answer.profile is not None
    assert answer.profile.stage == "prospect"


def test_users_of_whom_nothing_is_known_get_what_users_of_their_stage_choose(
    served: ServedCatalogue, store: Store, parts: Parts
) -> None:
    first = np.array([4, 2, 9, 8, 7, 6, 5, 3, 1], np.int32)
    other = Gateway(
        served=dataclasses.replace(served, popular_at={"prospect": first}),
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=parts.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(),
    )
    parts.newcomers.add("u")
    with TestClient(build_http(other, admin_token=ADMIN)) as http:
        ask(http)
        assert parts.rank_batches[-1].rows[0].tolist() == [4, 2, 9, 8], "the `retrieve` first of prospects"
        parts.trouble["ranker"] = RuntimeError("broken")
        assert items(ask(http, k=2)) == ["i4", "i2"]
        assert items(ask(http, user_id="known", k=2)) == ["i9", "i8"], "of other stages the log says nothing"
        http.delete("/v1/items/i4")
        assert items(ask(http, k=2)) == ["i2", "i9"]


@pytest.mark.parametrize(("trouble", "said"), [(RuntimeError("broken"), "ranker_failed"), (9.0, "ranker_late")])
def test_without_a_ranker_the_popular_candidates_are_shown_unscored(
    http: TestClient, parts: Parts, store: Store, trouble: Exception | float, said: str
) -> None:
    parts.trouble["ranker"] = trouble
    answer = ask(http, candidates=["i2", "i5", "i4"], k=2)
    assert items(answer) == ["i5", "i4"]
    assert [item.probability for item in answer.items] == [None, None]
    assert answer.degraded == [said]
    assert answer.profile is not None
    assert answer.retention is not None
    assert answer.decision_id is not None
    slate = store.slates_of([answer.decision_id])[answer.decision_id]
    assert (slate.degraded, slate.probabilities, slate.items) == (said, (), ("i5", "i4"))


@pytest.mark.parametrize(("trouble", "said"), [(RuntimeError("broken"), "retention_failed"), (9.0, "retention_late")])
def test_without_retention_there_is_no_action(
    http: TestClient, parts: Parts, trouble: Exception | float, said: str
) -> None:
    parts.trouble["retention"] = trouble
    answer = ask(http)
    assert items(answer) == ["i1", "i2", "i3"]
    assert answer.retention is None
    assert answer.retention_reason
    assert answer.degraded == [said]


@pytest.mark.parametrize(("trouble", "said"), [(RuntimeError("broken"), "profiler_failed"), (9.0, "profiler_late")])
def test_without_a_profiler_there_is_still_a_slate(
    http: TestClient, parts: Parts, trouble: Exception | float, said: str
) -> None:
    parts.trouble["profiler"] = trouble
    answer = ask(http)
    assert items(answer) == ["i9", "i8", "i7"]
    assert (answer.profile, answer.retention, answer.degraded) == (None, None, [said])
    assert answer.decision_id is not None


def test_a_store_that_refuses_the_slate_costs_the_decision_id_and_not_the_answer(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(store, "log_slates", refuse)
    answer = ask(http)
    assert items(answer) == ["i1", "i2", "i3"]
    assert (answer.decision_id, answer.degraded) == (None, ["slate_not_logged"])


def test_who_is_erased_while_being_answered_gets_no_decision_id(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = store.log_slates

    def erased_before(slates: Sequence[ServedSlate], **more: Any) -> Any:
        store.erase([slate.user_id for slate in slates], at=NOW + 1)
        return log(slates, **more)

    monkeypatch.setattr(store, "log_slates", erased_before)
    answer = ask(http)
    assert (answer.decision_id, answer.degraded) == (None, ["slate_not_logged"])
    assert items(answer) == ["i1", "i2", "i3"]


def test_a_slate_that_was_called_not_logged_is_not_logged_later(
    served: ServedCatalogue, store: Store, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    insert = decisions.log_slates

    def slow(connection: Connection, slates: Sequence[ServedSlate]) -> None:
        insert(connection, slates)
        answered.wait(60)

    monkeypatch.setattr(decisions, "log_slates", slow)
    gateway = Gateway(
        served=served,
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=parts.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(store_s=0.1),
    )
    with TestClient(build_http(gateway, admin_token=None)) as http:
        assert ask(http).degraded == ["slate_not_logged"]
        answered.set()
        with store.writing() as connection:  # waits for the transaction that is still open
            assert connection.execute(select(SERVED_SLATES)).all() == []
