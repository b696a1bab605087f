"""Idempotency-Key: a repeated request gets the same answer, and books nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from serve_fakes import NOW, Parts
from sqlalchemy import select

from clm_ray.errors import StoreError
from clm_ray.messages import BatchAnswer
from clm_ray.serve import once
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.http import build_http
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store
from clm_ray.store.tables import SERVED_SLATES


def ask(http: TestClient, key: str, **body: Any) -> httpx.Response:
    return http.post("/v1/recommend", json={"user_id": "u", **body}, headers={"Idempotency-Key": key})


def slates(store: Store) -> int:
    with store.reading() as connection:
        return len(connection.execute(select(SERVED_SLATES)).all())


def test_the_same_key_and_body_get_the_same_answer_and_one_slate(http: TestClient, store: Store, parts: Parts) -> None:
    first, second = (ask(http, "k", explain=True, debug=True) for _ in range(2))
    assert first.status_code == 200
    assert first.content == second.content
    assert first.json()["decision_id"]
    assert slates(store) == 1
    assert len(parts.profile_batches) == 1
    assert ask(http, "k2").json()["decision_id"] != first.json()["decision_id"]


def test_the_same_key_with_another_body_is_a_conflict(http: TestClient, store: Store) -> None:
    ask(http, "k")
    response = ask(http, "k", k=2)
    problem = response.json()
    assert (response.status_code, problem["field"], problem["type"]) == (409, "Idempotency-Key", "urn:clm-ray:conflict")
    assert problem["fix"]
    assert "Retry-After" not in response.headers, "it will be a conflict tomorrow too"
    assert slates(store) == 1


def test_retries_at_the_same_time_through_two_replicas_are_one_request(
    served: ServedCatalogue, store: Store, parts: Parts
) -> None:
    parts.trouble["profiler"] = 0.1
    replicas = []
    for _ in range(2):
        gateway = Gateway(
            served=served,
            store=store,
            clock=Clock(kind="wall", wall=lambda: NOW),
            hops=parts.hops(),
            coalesce=CoalesceArgs(),
            timeouts=TimeoutArgs(),
        )
        replicas.append(TestClient(build_http(gateway, admin_token=None)))
    with replicas[0], replicas[1], ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda n: ask(replicas[n % 2], "k"), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.content for answer in answers}) == 1
    assert slates(store) == 1
    assert len(parts.retain_batches) == 1


def test_who_waits_too_long_for_the_first_answer_is_told_to_come_back(
    http: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "_WAIT_S", 0.0)
    parts.trouble["profiler"] = 0.2
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(http, "k"), range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert "not answered yet" in refused.json()["detail"]
    assert refused.headers["Retry-After"] == "1"


def test_what_was_refused_or_not_logged_may_be_tried_again(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(http, "k", candidates=["nope"]).status_code == 422
    assert ask(http, "k", candidates=["i1"]).status_code == 200
    with monkeypatch.context() as broken:

        def refuse(*_args: object, **_more: object) -> None:
            raise StoreError("disk full")

        broken.setattr(store, "log_slates", refuse)
        assert ask(http, "k2").json()["degraded"] == ["slate_not_logged"]
    again = ask(http, "k2").json()
    assert again["degraded"] == []
    assert again["decision_id"]


def test_a_batch_is_repeated_as_a_whole_and_each_of_its_requests_booked_once(http: TestClient, store: Store) -> None:
    def batch(*users: str) -> httpx.Response:
        requests = [{"user_id": user} for user in users] + [{"user_id": "x", "candidates": ["nope"]}]
        return http.post("/v1/recommend/batch", json={"requests": requests}, headers={"Idempotency-Key": "b"})

    first, second = batch("a", "b"), batch("a", "b")
    assert first.content == second.content
    results = BatchAnswer.model_validate_json(first.content).results
    assert [one.status for one in results] == [200, 200, 422]
    assert slates(store) == 2
    assert batch("a", "c").status_code == 409
    assert slates(store) == 2


def test_an_anonymous_answer_is_repeated_too(http: TestClient, store: Store) -> None:
    body = {"anonymous": True}
    first, second = (http.post("/v1/recommend", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.content == second.content
    assert slates(store) == 0


@pytest.mark.parametrize("key", ["", "k" * 201])
def test_keys_are_bounded(http: TestClient, key: str) -> None:
    assert ask(http, key).status_code == 422


def test_an_answer_is_repeated_when_its_request_is_no_longer_valid(http: TestClient, store: Store) -> None:
    first = ask(http, "k", candidates=["i9", "i2"])
    requests = [{"user_id": "u", "candidates": ["i9"]}, {"user_id": "v"}, {"user_id": "w", "candidates": ["nope"]}]
    together = [{"requests": requests}, {"Idempotency-Key": "b"}]
    batch = http.post("/v1/recommend/batch", json=together[0], headers=together[1])
    assert [one["status"] for one in batch.json()["results"]] == [200, 200, 422]
    assert http.delete("/v1/items/i9").status_code == 200
    assert ask(http, "k", candidates=["i9", "i2"]).content == first.content
    assert http.post("/v1/recommend/batch", json=together[0], headers=together[1]).content == batch.content
    assert slates(store) == 3
    for other in (ask(http, "another", candidates=["i9", "i2"]), ask(http, "k", candidates=["i9"])):
        assert (other.status_code, other.json()["field"]) == (422, "candidates[0]")


def test_a_refusal_stands_where_the_store_cannot_say_more(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(store, "kept_answers", refuse)
    assert ask(http, "k", candidates=["nope"]).status_code == 422


class Held:
    """A call of the store that goes on once it may."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.may, self.over = threading.Event(), threading.Event()
        self._call = call

    def __call__(self, *args: Any, **more: Any) -> Any:
        assert self.may.wait(60)
        try:
            return self._call(*args, **more)
        finally:
            self.over.set()


@pytest.fixture
def hold(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Held]]:
    """Holds a method of the store until the test says so, or is over."""
    held: list[Held] = []

    def hold(method: str) -> Held:
        held.append(Held(getattr(store, method)))
        monkeypatch.setattr(store, method, held[-1])
        return held[-1]

    yield hold
    for one in held:
        one.may.set()


def test_who_could_not_be_logged_does_not_wait_until_the_key_is_given_back(
    http: TestClient, store: Store, hold: Callable[[str], Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        def refuse(*_args: object, **_more: object) -> None:
            raise StoreError("disk full")

        broken.setattr(store, "log_slates", refuse)
        held = hold("release_answers")
        assert ask(http, "k").json()["degraded"] == ["slate_not_logged"]
        assert not held.over.is_set()
        broken.setattr(store, "release_answers", refuse)
        assert ask(http, "k2").status_code == 200, "the store refuses to take the key back"
    held.may.set()
    assert ask(http, "k").json()["degraded"] == []


def test_a_claim_that_is_late_is_refused_within_the_deadline_and_given_back(
    http: TestClient, hold: Callable[[str], Held]
) -> None:
    held = hold("claim_answers")
    response = ask(http, "k", deadline_ms=50)
    assert (response.status_code, response.json()["field"]) == (503, "Idempotency-Key")
    assert response.headers["Retry-After"] == "1"
    held.may.set()
    assert held.over.wait(60)
    assert ask(http, "k", deadline_ms=50_000).json()["degraded"] == []
