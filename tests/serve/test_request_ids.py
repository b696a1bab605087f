"""Every answer and every line has the id of its request; no line says anything of a person."""

from __future__ import annotations

import json
import logging

import pytest
from fastapi.testclient import TestClient
from serve_fakes import Parts

from clm_ray.serve.gateway import Gateway


def test_a_given_id_comes_back_and_one_is_made_where_none_can_be_read(http: TestClient) -> None:
    assert http.get("/healthz", headers={"X-Request-Id": "shop-17"}).headers["x-request-id"] == "shop-17"
    made = {http.get("/healthz", headers=h).headers["x-request-id"] for h in ({}, {"X-Request-Id": "a b\tc"})}
    assert len(made) == 2
    assert all(len(request_id) == 32 for request_id in made)


@pytest.mark.parametrize(("path", "status"), [("/v1/recommend", 422), ("/v9", 404)])
def test_problems_carry_it_too(http: TestClient, path: str, status: int) -> None:
    response = http.post(path, json={"user_id": "u", "k": 0}, headers={"X-Request-Id": "r-1"})
    assert (response.status_code, response.json()["request_id"]) == (status, "r-1")
    assert response.headers["x-request-id"] == "r-1"


def test_so_does_an_answer_that_nobody_foresaw(
    http: TestClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_request: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(gateway, "recommend", broken)
    response = http.post("/v1/recommend", json={"user_id": "u"}, headers={"X-Request-Id": "r-2"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "r-2")
    (record,) = (r for r in caplog.records if r.levelno == logging.ERROR)
    assert json.loads(record.message) == {"event": "failed", "request_ids": ["r-2"]}
    assert record.exc_info is not None


def test_lines_are_json_about_requests_and_never_about_people(
    http: TestClient, parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    parts.trouble["ranker"] = RuntimeError("broken")
    with caplog.at_level(logging.INFO, logger="clm_ray.serve"):
        http.post("/v1/recommend", json={"user_id": "mrs-smith"}, headers={"X-Request-Id": "r-3"})
        http.get("/v1/users/mrs-smith/profile", headers={"X-Request-Id": "r-4"})
    lines = [json.loads(r.message) for r in caplog.records if r.name == "clm_ray.serve"]
    failed, answered, profile = lines
    assert failed == {"event": "part failed", "request_ids": ["r-3"], "part": "ranker", "cause": "RuntimeError: broken"}
    assert (answered["request_ids"], answered["route"], answered["status"]) == (["r-3"], "/v1/recommend", 200)
    assert profile["route"] == "/v1/users/{user_id:path}/profile"
    assert "mrs-smith" not in caplog.text
