"""What callers may do with a user: consent and time zone, export, erasure."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from serve_fakes import ADMIN, NOW

from clm_ray.messages.users import MAX_PAGE, Erasure, UserExport
from clm_ray.schema import USERS
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.users import Users
from clm_ray.store.clock import Clock
from clm_ray.store.records import StoredEvent
from clm_ray.store.store import Store

TOKEN = {"X-Admin-Token": ADMIN}


def click(http: TestClient, event_id: str, **more: object) -> str:
    event = {"event_id": event_id, "user_id": "u/1", "event_type": "click", "item_id": "i1", **more}
    return str(http.post("/v1/events", json={"events": [event]}).json()["verdicts"][0]["status"])


def test_consent_and_time_zone_replace_what_was_told_before(http: TestClient, store: Store) -> None:
    answer = http.put("/v1/users/u%2F1", json={"consent": True, "timezone": "Asia/Tokyo"})
    assert answer.json() == {"user_id": "u/1", "consent": True, "timezone": "Asia/Tokyo"}
    overlay = store.overlays(["u/1"])["u/1"]
    assert (overlay.consent, overlay.timezone) == (True, "Asia/Tokyo")
    http.put("/v1/users/u%2F1", json={"consent": False})
    overlay = store.overlays(["u/1"])["u/1"]
    assert (overlay.consent, overlay.timezone) == (False, None)


@pytest.mark.parametrize(
    ("body", "field"), [({"timezone": "Mars/Olympus"}, "timezone"), ({"consent": "yes"}, "consent"), ({"x": 1}, "x")]
)
def test_settings_that_make_no_sense_are_refused(http: TestClient, body: dict[str, object], field: str) -> None:
    response = http.put("/v1/users/u", json=body)
    assert (response.status_code, response.json()["field"]) == (422, field)


def test_only_administrators_read_or_erase_everything_about_somebody(http: TestClient) -> None:
    for method, path in (("GET", "/v1/users/u/export"), ("DELETE", "/v1/users/u")):
        response = http.request(method, path, headers={"X-Admin-Token": "guess"})
        assert (response.status_code, response.json()["field"]) == (403, "user_id")


def test_an_export_has_all_pages_in_a_stable_order(http: TestClient) -> None:
    for n in range(3):
        click(http, f"e{n}", timestamp=NOW - n)
    http.post("/v1/recommend", json={"user_id": "u/1"})
    http.post("/v1/recommend", json={"user_id": "somebody else"})

    def page(**query: object) -> UserExport:
        response = http.get("/v1/users/u%2F1/export", params=query, headers=TOKEN)
        assert response.status_code == 200, response.text
        return UserExport.model_validate_json(response.content)

    whole = page()
    kinds = ["events"] * 3 + ["served_slates", "retention_decisions", "audit_log"]
    assert [one.kind for one in whole.records] == kinds
    assert [one.data.get("event_id") for one in whole.records[:3]] == ["e0", "e1", "e2"]
    assert whole.next is None
    first = page(limit=4)
    assert first.records == whole.records[:4]
    assert page(limit=4, cursor=first.next).records == whole.records[4:]
    for nonsense in ("x", "bm8", first.next + "AA" if first.next else ""):
        refused = http.get("/v1/users/u%2F1/export", params={"cursor": nonsense}, headers=TOKEN)
        assert (refused.status_code, refused.json()["field"]) == (422, "cursor")


@pytest.mark.parametrize(
    "place", [[0, ["abc"]], [1, ["1"]], [1, [2**63]], [2, [1]], [5, ["\0"]], [True, [1]], [1.0, [1]], [1, 1], 7, {}]
)
def test_a_cursor_that_is_none_of_ours_is_refused(http: TestClient, place: Any) -> None:
    click(http, "e1")
    cursor = base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")
    refused = http.get("/v1/users/u%2F1/export", params={"cursor": cursor}, headers=TOKEN)
    assert (refused.status_code, refused.json()["field"]) == (422, "cursor")


@pytest.fixture
def users(served: ServedCatalogue, store: Store, tmp_path: Path) -> Users:
    """Of a release whose user table has ann and bob."""
    row = {
        "user_id": "ann",
        "categorical": [("town", "x")],
        "numeric": [("age", 30.0)],
        "consent": True,
        "timezone": "UTC",
    }
    pq.write_table(pa.Table.from_pylist([row, {**row, "user_id": "bob"}], schema=USERS), tmp_path / "users.parquet")
    clock = Clock(kind="wall", wall=lambda: NOW)
    return Users(served=dataclasses.replace(served), store=store, clock=clock, folder=tmp_path)


def page_of(users: Users, *, limit: int, cursor: str | None = None) -> UserExport:
    return asyncio.run(users.export("ann", cursor=cursor, limit=limit))


def test_what_the_release_says_of_the_user_is_part_of_it(users: Users) -> None:
    answer = page_of(users, limit=10)
    (record,) = answer.records
    assert (record.kind, record.data["numeric"], record.data["user_id"]) == ("user_table", {"age": 30.0}, "ann")
    assert answer.next is None


@pytest.mark.parametrize(("events", "limit"), [(MAX_PAGE, MAX_PAGE), (MAX_PAGE - 1, MAX_PAGE), (3, 1), (3, 2), (0, 1)])
def test_the_users_own_row_takes_a_place_of_the_page(users: Users, store: Store, events: int, limit: int) -> None:
    store.append_events([StoredEvent(f"e{n}", "ann", "click", NOW) for n in range(events)], received_at=NOW)
    answers = [page_of(users, limit=limit)]
    while answers[-1].next is not None:
        answers.append(page_of(users, limit=limit, cursor=answers[-1].next))
    assert all(len(answer.records) == limit for answer in answers[:-1])
    records = [record for answer in answers for record in answer.records]
    assert [record.kind for record in records] == ["user_table"] + ["events"] * events
    assert len({record.data.get("event_id") for record in records}) == 1 + events


def test_an_erased_user_is_gone_and_the_time_before_does_not_come_back(http: TestClient, store: Store) -> None:
    assert click(http, "e1", timestamp=NOW - 5) == "accepted"
    erasure = Erasure.model_validate_json(http.delete("/v1/users/u%2F1", headers=TOKEN).content)
    assert (erasure.erased_at, erasure.removed["events"]) == (NOW, 1)
    assert "erase.py --pending" in erasure.remains
    assert store.pending_erasures() == ["u/1"]
    assert len(store.histories(["u/1"])["u/1"]) == 0
    assert click(http, "e1", timestamp=NOW - 5) == "rejected"
    assert click(http, "e2") == "accepted"
    assert len(store.histories(["u/1"])["u/1"]) == 1
