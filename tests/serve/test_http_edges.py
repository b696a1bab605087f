"""Every other route, and whatever else may come in: always an answer in one shape, never a 500 for the caller's mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_fakes import ADMIN, NOW, Parts

from clm_ray.messages import Problem, Readiness, UserProfile, Version
from clm_ray.serve.gateway import Gateway

JSON = {"Content-Type": "application/json"}


def refused(response: Any, status: int) -> Problem:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return Problem.model_validate_json(response.content)


def test_a_profile_by_itself(http: TestClient, parts: Parts) -> None:
    answer = UserProfile.model_validate_json(http.get("/v1/users/u/profile").content)
    assert (answer.user_id, answer.time, answer.release) == ("u", NOW, "r1")
    assert answer.profile.chance_active == {"7": 0.5, "28": 0.75}
    assert not parts.rank_batches


@pytest.mark.parametrize(("path", "user"), [("a%2Fb", "a/b"), ("%C3%BC%20x", "ü x"), ("profile", "profile")])
def test_user_ids_may_be_anything(http: TestClient, parts: Parts, path: str, user: str) -> None:
    assert http.get(f"/v1/users/{path}/profile").json()["user_id"] == user
    assert parts.profile_batches[0].asks[0].user_id == user


def test_a_profile_as_of_a_moment_is_for_administrators(http: TestClient, parts: Parts) -> None:
    refused(http.get(f"/v1/users/u/profile?as_of={NOW - 9}"), 403)
    for moment in (str(NOW - 9), "2017-11-06T20:26:39.999991Z"):
        answer = http.get("/v1/users/u/profile", params={"as_of": moment}, headers={"X-Admin-Token": ADMIN})
        assert answer.json()["time"] == NOW - 9
    problem = refused(http.get("/v1/users/u/profile?as_of=soon", headers={"X-Admin-Token": ADMIN}), 422)
    assert problem.field == "as_of"


@pytest.mark.parametrize("user", ["x" * 201, "%00", "a%1fb"])
def test_impossible_user_ids_are_refused(http: TestClient, user: str) -> None:
    assert refused(http.get(f"/v1/users/{user}/profile"), 422).field == "user_id"


def test_a_profile_that_cannot_be_had_is_a_503(http: TestClient, parts: Parts) -> None:
    parts.trouble["profiler"] = RuntimeError("broken")
    refused(http.get("/v1/users/u/profile"), 503)


def test_version_says_what_callers_need_to_know(http: TestClient) -> None:
    version = Version.model_validate_json(http.get("/v1/version").content)
    assert (version.release, version.recipe, version.clock, version.time) == ("r1", "shop", "wall", NOW)
    assert version.event_types == ["purchase", "rating", "mailing", "click"]
    assert (version.limits.default_k, version.limits.max_candidates) == (3, 8)


def test_alive_and_ready(http: TestClient) -> None:
    assert http.get("/healthz").json() == {"status": "alive"}
    ready = Readiness.model_validate_json(http.get("/readyz").content)
    assert (ready.ready, ready.release) == (True, "r1")
    assert ready.parts == {"gateway": "r1", "profiler": "r1", "ranker": "r1"}


def test_not_ready_names_the_part_but_alive_all_the_same(http: TestClient, parts: Parts) -> None:
    parts.trouble["loaded"] = RuntimeError("no weights")
    response = http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["parts"]["ranker"] == "RuntimeError: no weights"
    assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", JSON, 422),
        (b"{", JSON, 400),
        (b'{"user_id": "u", }', JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b'{"user_id": "u", "k": ' + b"9" * 5000 + b"}", JSON, 400),
        (b'{"user_id": "\\ud800"}', JSON, 422),
        (b"[]", JSON, 422),
        (b'"u"', JSON, 422),
        (b'{"user_id": "u"}', {"Content-Type": "text/plain"}, 422),
        (b'{"user_id": "u"}', {}, 422),
        (b'{"user_id": "' + b"u" * 5_000_000 + b'"}', JSON, 413),
    ],
)
def test_bodies_that_cannot_be_read(http: TestClient, body: bytes, headers: dict[str, str], status: int) -> None:
    problem = refused(http.post("/v1/recommend", content=body, headers=headers), status)
    assert problem.detail
    assert problem.fix


def test_unknown_paths_and_methods_have_the_same_shape(http: TestClient) -> None:
    refused(http.get("/v2/recommend"), 404)
    refused(http.get("/v1/recommend"), 405)


def test_a_bug_is_a_500_without_its_details(
    http: TestClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_request: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(gateway, "recommend", broken)
    response = http.post("/v1/recommend", json={"user_id": "u"})
    refused(response, 500)
    assert "secret" not in response.text


_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_NAMES = (
    "user_id",
    "candidates",
    "k",
    "context",
    "recent_events",
    "explain",
    "as_of",
    "anonymous",
    "unknown_items",
    "deadline_ms",
    "debug",
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(_NAMES, _VALUE)) | _VALUE)
def test_no_body_whatever_is_a_500(http: TestClient, body: object) -> None:
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    response = http.post("/v1/recommend", content=content, headers=JSON)
    assert response.status_code in {200, 400, 403, 422}, response.text
    if response.status_code != 200:
        assert Problem.model_validate_json(response.content).detail


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_no_bytes_whatever_are_a_500(http: TestClient, body: bytes) -> None:
    assert http.post("/v1/events", content=body, headers=JSON).status_code in {400, 422}


def test_openapi_describes_what_is_really_sent(http: TestClient) -> None:
    spec = http.get("/openapi.json").json()
    assert set(spec["paths"]) == {
        "/v1/recommend",
        "/v1/recommend/batch",
        "/v1/rank",
        "/v1/events",
        "/v1/items",
        "/v1/items/{item_id}",
        "/v1/users/{user_id}",
        "/v1/users/{user_id}/profile",
        "/v1/users/{user_id}/export",
        "/v1/users/{user_id}/channels",
        "/v1/policy",
        "/v1/policy/kill-switch",
        "/v1/policy/release-guardrail",
        "/v1/approvals",
        "/v1/approvals/{approval_id}",
        "/v1/version",
        "/healthz",
        "/readyz",
    }
    schemas = spec["components"]["schemas"]
    assert schemas["RecommendRequest"]["additionalProperties"] is False
    sent = http.post("/v1/recommend", json={"user_id": "u", "explain": True}).json()
    assert set(sent) <= set(schemas["Recommendation"]["properties"])
    assert set(schemas["Recommendation"]["required"]) <= set(sent)
    assert set(sent["items"][0]) <= set(schemas["RecommendedItem"]["properties"])
    for status in ("403", "422", "429"):
        content = spec["paths"]["/v1/recommend"]["post"]["responses"][status]["content"]
        assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem"), content
