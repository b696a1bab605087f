"""The running policy over HTTP: kill switch, approvals, stops, consent by channel; for administrators, and in the audit log."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from serve_fakes import ADMIN, NOW

from clm_ray.decide.controls import read_controls, stop_actions
from clm_ray.store.contacts import channel_consents
from clm_ray.store.store import Store

TOKEN = {"X-Admin-Token": ADMIN}
SAID = {"by": "ann", "reason": "wrong prices"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/policy", None),
        ("PUT", "/v1/policy/kill-switch", {"on": True, **SAID}),
        ("POST", "/v1/policy/release-guardrail", {"key": "guardrail:complaints:coupon", **SAID}),
        ("GET", "/v1/approvals", None),
        ("POST", "/v1/approvals", {"kind": "new_action", "subject": "letter", **SAID}),
        ("POST", "/v1/approvals/apr-1", {"status": "refused", **SAID}),
    ],
)
def test_only_administrators_may(http: TestClient, store: Store, method: str, path: str, body: Any) -> None:
    for headers in ({}, {"X-Admin-Token": "guess"}):
        assert http.request(method, path, json=body, headers=headers).status_code == 403
    assert read_controls(store, now=NOW).settings == {}


def test_the_kill_switch(http: TestClient, store: Store) -> None:
    answer = http.put("/v1/policy/kill-switch", json={"on": True, **SAID}, headers=TOKEN).json()
    assert (answer["killed"], answer["time"]) == ("wrong prices", NOW)
    assert read_controls(store, now=NOW).killed == "wrong prices"
    assert http.put("/v1/policy/kill-switch", json={"on": False, **SAID}, headers=TOKEN).json()["killed"] is None
    for wrong in ({"on": "yes", **SAID}, {"on": True}, {"on": True, "by": "ann", "reason": " "}):
        assert http.put("/v1/policy/kill-switch", json=wrong, headers=TOKEN).status_code == 422


def test_approvals_are_asked_answered_and_end(http: TestClient, store: Store) -> None:
    asked = http.post("/v1/approvals", json={"kind": "new_action", "subject": "letter", **SAID}, headers=TOKEN).json()
    assert (asked["status"], asked["requested_by"]) == ("pending", "ann")
    assert http.get("/v1/policy", headers=TOKEN).json()["pending"] == 1
    path = f"/v1/approvals/{asked['approval_id']}"
    for wrong in ({"status": "approved"}, {"status": "approved", "expires_at": NOW}, {"status": "perhaps"}):
        assert http.post(path, json={**wrong, **SAID}, headers=TOKEN).status_code == 422
    for unknown in ("apr-0", "apr-%00", "%E2%80%AE"):
        refused = http.post(f"/v1/approvals/{unknown}", json={"status": "refused", **SAID}, headers=TOKEN)
        assert (refused.status_code, refused.json()["field"]) == (422, "approval_id")
    done = http.post(path, json={"status": "approved", "expires_at": NOW + 5, **SAID}, headers=TOKEN).json()
    assert (done["status"], done["decided_by"], done["expires_at"]) == ("approved", "ann", NOW + 5)
    assert read_controls(store, now=NOW).approved(NOW) == {("new_action", "letter")}
    assert read_controls(store, now=NOW).approved(NOW + 5) == frozenset()
    again = http.post("/v1/approvals", json={"kind": "new_action", "subject": "letter", **SAID}, headers=TOKEN).json()
    assert again["status"] == "approved"
    assert [one["status"] for one in http.get("/v1/approvals", headers=TOKEN).json()["approvals"]] == ["approved"]
    assert http.post(path, json={"status": "revoked", **SAID}, headers=TOKEN).json()["status"] == "revoked"
    assert read_controls(store, now=NOW).approved(NOW) == frozenset()


def test_what_a_guardrail_stopped_is_listed_and_released(http: TestClient, store: Store) -> None:
    stop_actions(store, "complaints", action="coupon_small", reason="9 of 100 complained", now=NOW - 1)
    (stop,) = http.get("/v1/policy", headers=TOKEN).json()["stops"]
    assert stop == {"key": "guardrail:complaints:coupon_small", "reason": "9 of 100 complained", "since": NOW - 1}
    freed = {"key": stop["key"], **SAID}
    assert http.post("/v1/policy/release-guardrail", json=freed, headers=TOKEN).json()["stops"] == []
    assert http.post("/v1/policy/release-guardrail", json=freed, headers=TOKEN).status_code == 422
    assert (
        http.post("/v1/policy/release-guardrail", json={"key": "kill_switch", **SAID}, headers=TOKEN).status_code == 422
    )


def test_users_say_by_which_channels_they_may_be_contacted(http: TestClient, store: Store) -> None:
    answer = http.put("/v1/users/a%2Fb/channels", json={"channels": {"email": False, "push": True}})
    assert answer.json() == {"user_id": "a/b", "channels": {"email": False, "push": True}}
    assert http.put("/v1/users/a%2Fb/channels", json={"channels": {"email": True}}).json()["channels"]["email"] is True
    with store.reading() as connection:
        assert channel_consents(connection, ["a/b"]) == {"a/b": {"email": True, "push": True}}
    wrong = http.put("/v1/users/a/channels", json={"channels": {"telepathy": True}})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "channels")
    assert http.put("/v1/users/a", json={"consent": True, "timezone": None}).status_code == 200
