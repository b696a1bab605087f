"""The generated OpenAPI schema says what is really taken and really sent: every route is asked, well and badly, and held against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient
from serve_fakes import ADMIN, NOW

from clm_ray.decide.controls import stop_actions
from clm_ray.store.store import Store

EVENT = {"event_id": "e", "user_id": "u", "event_type": "click", "item_id": "i1"}
ITEM = {"item_id": "new", "text": "text", "categories": ["fruit"], "numeric": {"p": 1.0}, "available_from": NOW - 5}
ASK = {"user_id": "u", "candidates": ["i1", "nope"], "unknown_items": "skip", "explain": True, "debug": True, "k": 2}
SAID = {"by": "ann", "reason": "a test"}
RECENT = [{"event_type": "click", "item_id": "i3"}]

GOOD: list[tuple[str, str, Any]] = [
    ("post", "/v1/recommend", ASK),
    ("post", "/v1/recommend", {"anonymous": True, "recent_events": RECENT, "deadline_ms": 60_000}),
    ("post", "/v1/recommend", {"user_id": "u", "as_of": NOW - 5, "context": {"page": "home"}}),
    ("post", "/v1/recommend/batch", {"requests": [ASK, {"user_id": "u", "candidates": ["nope"]}]}),
    ("post", "/v1/rank", ASK),
    ("post", "/v1/events", {"events": [EVENT, EVENT, {**EVENT, "event_type": "kiss"}]}),
    ("get", "/v1/users/u/profile", None),
    ("put", "/v1/users/u", {"consent": True, "timezone": "UTC"}),
    ("get", "/v1/users/u/export", None),
    ("put", "/v1/items", {"items": [ITEM]}),
    ("get", "/v1/items", None),
    ("delete", "/v1/items/new", None),
    ("delete", "/v1/users/u", None),
    ("put", "/v1/users/u/channels", {"channels": {"email": True}}),
    ("get", "/v1/policy", None),
    ("put", "/v1/policy/kill-switch", {"on": True, **SAID}),
    ("post", "/v1/policy/release-guardrail", {"key": "guardrail:complaints:coupon_small", **SAID}),
    ("get", "/v1/approvals", None),
    ("post", "/v1/approvals", {"kind": "new_action", "subject": "letter", **SAID}),
    ("post", "/v1/approvals/{asked}", {"status": "refused", **SAID}),
    ("get", "/v1/version", None),
    ("get", "/healthz", None),
    ("get", "/readyz", None),
]
BAD: list[tuple[str, str, Any, int]] = [
    ("post", "/v1/recommend", {"user_id": "u", "k": 0}, 422),
    ("post", "/v1/recommend", {"user_id": "u", "candidates": ["nope"]}, 422),
    ("put", "/v1/users/u", {"timezone": "Mars"}, 422),
    ("get", "/v1/items?limit=0", None, 422),
    ("delete", "/v1/items/unheard-of", None, 404),
]


def operation(spec: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    """The operation that takes the path: the longest template that fits it."""
    for template in sorted(spec["paths"], key=len, reverse=True):
        parts, given = template.split("/"), path.split("?")[0].split("/")
        fits = len(parts) == len(given) and all(p == g or p[:1] == "{" for p, g in zip(parts, given, strict=True))
        if fits and method in spec["paths"][template]:
            one: dict[str, Any] = spec["paths"][template][method]
            return one
    raise AssertionError(f"{method} {path} is not described")


def closed(schema: Any) -> Any:
    """The schema with no room for what it does not name."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    if "properties" in made and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


def check(value: object, schema: dict[str, Any], spec: dict[str, Any]) -> None:
    whole = closed({**schema, "components": spec["components"]})
    jsonschema.Draft202012Validator(whole).validate(value)


def answer(http: TestClient, method: str, path: str, body: object) -> Any:
    return http.request(method, path, json=body, headers={"X-Admin-Token": ADMIN})


@pytest.mark.parametrize(("method", "path", "body"), GOOD)
def test_answers_and_the_requests_they_answer_are_as_described(
    http: TestClient, spec: dict[str, Any], store: Store, method: str, path: str, body: object
) -> None:
    if method == "delete" and path.startswith("/v1/items"):
        answer(http, "put", "/v1/items", {"items": [ITEM]})
    if path.endswith("/release-guardrail"):
        stop_actions(store, "complaints", action="coupon_small", reason="complaints", now=NOW - 1)
    if path.endswith("/{asked}"):
        asked = answer(http, "post", "/v1/approvals", {"kind": "new_action", "subject": "letter", **SAID}).json()
        path = path.format(asked=asked["approval_id"])
    described = operation(spec, method, path)
    if body is not None:
        check(body, described["requestBody"]["content"]["application/json"]["schema"], spec)
    response = answer(http, method, path, body)
    assert response.status_code == 200, response.text
    check(response.json(), described["responses"]["200"]["content"]["application/json"]["schema"], spec)


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD)
def test_problems_are_as_described(
    http: TestClient, spec: dict[str, Any], method: str, path: str, body: object, status: int
) -> None:
    response = answer(http, method, path, body)
    assert response.status_code == status
    content = operation(spec, method, path)["responses"][str(status)]["content"]
    check(response.json(), content["application/problem+json"]["schema"], spec)


def test_every_operation_is_asked_here(spec: dict[str, Any]) -> None:
    described = {(method, path) for path, methods in spec["paths"].items() for method in methods}
    asked = set()
    for method, path, _ in GOOD:
        one = operation(spec, method, path)
        asked |= {(m, p) for m, p in described if spec["paths"][p][m] is one}
    assert described == asked


def wrong(schema: dict[str, Any], spec: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """For each property of an object schema a value that its schema refuses."""
    for name, one in schema["properties"].items():
        whole = {**one, "components": spec["components"]}
        for value in ([], {}, "", "x", -1, 1.5, True, 10**9, None, ["\0"], "x" * 300_000):
            if not jsonschema.Draft202012Validator(whole).is_valid(value):
                yield name, value


@pytest.mark.parametrize(
    ("path", "model", "least"),
    [
        ("/v1/recommend", "RecommendRequest", {"user_id": "u"}),
        ("/v1/rank", "RankRequest", {"user_id": "u"}),
        ("/v1/items", "Item", {"item_id": "new"}),
        ("/v1/users/u", "UserSettings", {}),
    ],
)
def test_what_the_schema_refuses_is_refused(
    http: TestClient, spec: dict[str, Any], path: str, model: str, least: dict[str, object]
) -> None:
    schema = spec["components"]["schemas"][model]
    assert schema["additionalProperties"] is False
    method = "post" if path in ("/v1/recommend", "/v1/rank") else "put"
    tried = 0
    for name, value in [*wrong(schema, spec), ("no_such_field", 1)]:
        body: dict[str, object] = {**least, name: value}
        response = answer(http, method, path, {"items": [body]} if model == "Item" else body)
        assert response.status_code == 422, (name, str(value)[:40], response.text[:200])
        tried += 1
    assert tried > len(schema["properties"])
