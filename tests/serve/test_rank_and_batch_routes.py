"""POST /v1/rank and POST /v1/recommend/batch."""

from __future__ import annotations

from fastapi.testclient import TestClient
from serve_fakes import NOW, Parts
from sqlalchemy import select

from clm_ray.messages import BatchAnswer, Ranking
from clm_ray.store.store import Store
from clm_ray.store.tables import SERVED_SLATES


def test_a_ranking_is_items_in_order_and_leaves_no_trace(http: TestClient, parts: Parts, store: Store) -> None:
    body = {"user_id": "u", "candidates": ["i5", "nope", "i2"], "unknown_items": "skip", "explain": True}
    response = http.post("/v1/rank", json=body)
    ranking = Ranking.model_validate_json(response.content)
    assert [item.item_id for item in ranking.items] == ["i2", "i5"]
    assert [item.text for item in ranking.items] == ["text of i2", "text of i5"]
    assert (ranking.time, ranking.release, ranking.skipped, ranking.degraded) == (NOW, "r1", ["nope"], [])
    assert set(response.json()) == {"user_id", "time", "release", "items", "skipped", "degraded"}
    assert not parts.retain_batches
    with store.reading() as connection:
        assert connection.execute(select(SERVED_SLATES)).all() == []


def test_a_ranking_takes_no_context_and_asks_administrators_only_for_other_moments(http: TestClient) -> None:
    assert http.post("/v1/rank", json={"user_id": "u", "context": {}}).json()["field"] == "context"
    assert http.post("/v1/rank", json={"user_id": "u", "as_of": NOW - 5}).status_code == 403


def test_each_request_of_a_batch_has_its_own_result_in_its_place(http: TestClient, parts: Parts) -> None:
    requests = [
        {"user_id": "a", "k": 1},
        {"user_id": "b", "candidates": ["nope"]},
        {"anonymous": True, "candidates": ["i4"]},
    ]
    response = http.post("/v1/recommend/batch", json={"requests": requests}, headers={"X-Request-Id": "r"})
    first, second, third = BatchAnswer.model_validate_json(response.content).results
    assert [one.index for one in (first, second, third)] == [0, 1, 2]
    assert first.answer is not None
    assert (first.status, first.answer.user_id, len(first.answer.items)) == (200, "a", 1)
    assert second.problem is not None
    assert (second.status, second.problem.field, second.answer) == (422, "candidates[0]", None)
    assert third.answer is not None
    assert [item.item_id for item in third.answer.items] == ["i4"]
    assert len(parts.profile_batches) == 1, "they travel together"


def test_a_batch_is_bounded_and_may_not_look_back_without_the_token(http: TestClient) -> None:
    assert http.post("/v1/recommend/batch", json={"requests": []}).status_code == 422
    assert http.post("/v1/recommend/batch", json={"requests": [{"user_id": "u"}] * 101}).status_code == 422
    looking_back = {"requests": [{"user_id": "u", "as_of": NOW - 5}]}
    assert http.post("/v1/recommend/batch", json=looking_back).status_code == 403
