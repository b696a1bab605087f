"""The short way of a request's body gives what the long way gives, for right and wrong bodies alike."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient

HEADERS = {"Content-Type": "application/json"}
SLOW = {"Content-Type": "application/json; charset=utf-8"}
"""Not the plain media type: this request is read by FastAPI itself."""


@pytest.mark.parametrize(
    "body",
    [
        b'{"user_id": "ann", "candidates": ["i1", "i2"], "k": 2}',
        b'{"user_id": "ann", "k": "2"}',
        b'{"user_id": 1}',
        b'{"user_id": "a\\u0000b"}',
        b'{"user_id": "ann", "unknown": 1}',
        b'{"user_id": "ann", "candidates": []}',
        b'{"user_id": "ann", "recent_events": [{"event_type": "click", "value": NaN}]}',
        b'{"user_id": "ann"',
        b"[]",
        b"",
    ],
)
def test_both_ways_answer_alike(http: TestClient, body: bytes) -> None:
    short, long = (http.post("/v1/recommend", content=body, headers=headers) for headers in (HEADERS, SLOW))
    assert short.status_code == long.status_code
    changing = ("decision_id", "request_id")
    first, second = ({k: v for k, v in r.json().items() if k not in changing} for r in (short, long))
    assert first == second


def test_the_body_is_still_described(http: TestClient) -> None:
    operation = http.get("/openapi.json").json()["paths"]["/v1/recommend"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/RecommendRequest"}
    described = http.get("/openapi.json").json()["components"]["schemas"]["RecommendRequest"]["properties"]
    assert json.dumps(described["user_id"]).count("pattern") == 1
