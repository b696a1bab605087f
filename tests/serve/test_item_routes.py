"""PUT, GET and DELETE of items: durable, rankable, listed; and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from serve_fakes import NOW, Parts

from clm_ray.errors import ReleaseError
from clm_ray.messages import Recommendation
from clm_ray.messages.items import ItemPage, ItemsAnswer
from clm_ray.store.store import Store


def put(http: TestClient, *items: dict[str, Any]) -> ItemsAnswer:
    response = http.put("/v1/items", json={"items": list(items)})
    assert response.status_code == 200, response.text
    return ItemsAnswer.model_validate_json(response.content)


def ask(http: TestClient, **body: Any) -> Recommendation:
    response = http.post("/v1/recommend", json={"user_id": "u", **body})
    assert response.status_code == 200, response.text
    return Recommendation.model_validate_json(response.content)


def test_an_item_that_was_put_can_be_ranked_and_explained_at_once(http: TestClient, parts: Parts) -> None:
    answer = put(http, {"item_id": "new/1", "text": "a new thing", "categories": ["fruit"]}, {"item_id": "i3"})
    assert [(one.item_id, one.status, one.note) for one in answer.items] == [
        ("new/1", "rankable", None),
        ("i3", "rankable", None),
    ]
    (_, known), (shown) = ask(http, candidates=["new/1", "i3"], explain=True).items, parts.rank_batches[-1].rows[0]
    assert (known.item_id, known.text, known.matches) == ("new/1", "a new thing", ["fruit"])
    assert shown is not None
    assert shown.tolist() == [10, 3], "a row behind the catalogue's, and its own"
    event = {"event_id": "e", "user_id": "u", "event_type": "click", "item_id": "new/1"}
    (verdict,) = http.post("/v1/events", json={"events": [event]}).json()["verdicts"]
    assert verdict["status"] == "accepted"
    assert "note" not in verdict, "it is in the catalogue"


def test_a_deleted_item_is_offered_no_longer_until_it_is_put_again(http: TestClient, parts: Parts) -> None:
    assert http.delete("/v1/items/i9").json() == {"item_id": "i9", "deleted": True}
    assert http.delete("/v1/items/i9").status_code == 200
    response = http.post("/v1/recommend", json={"user_id": "u", "candidates": ["i9"]})
    assert (response.status_code, response.json()["field"]) == (422, "candidates[0]")
    http.delete("/v1/items/i1")
    assert [item.item_id for item in ask(http).items] == ["i2", "i3"], "nor where a ranker has not heard of it yet"
    parts.trouble["ranker"] = RuntimeError("broken")
    assert [item.item_id for item in ask(http, k=2).items] == ["i8", "i7"], "nor among what is popular"
    put(http, {"item_id": "i9", "text": "text of i9"})
    assert [item.item_id for item in ask(http, candidates=["i9"]).items] == ["i9"]


def test_nobody_can_delete_what_nobody_heard_of(http: TestClient) -> None:
    response = http.delete("/v1/items/nope")
    assert (response.status_code, response.json()["field"]) == (404, "item_id")


def test_items_are_offered_in_their_time_only(http: TestClient) -> None:
    early, late, now = put(
        http,
        {"item_id": "early", "available_from": NOW + 1},
        {"item_id": "late", "available_until": NOW},
        {"item_id": "now", "available_from": NOW, "available_until": NOW + 1},
    ).items
    assert (early.status, late.status, now.status) == ("stored", "stored", "rankable")
    assert early.note == late.note == "outside its time of availability"
    answer = ask(http, candidates=["early", "late", "now"], unknown_items="skip")
    assert ([item.item_id for item in answer.items], answer.skipped) == (["now"], ["early", "late"])


@pytest.mark.parametrize(
    ("trouble", "said"), [(ReleaseError("has no text tower"), "has no text tower"), (9.0, "the encoder is busy")]
)
def test_what_cannot_be_encoded_yet_is_durable_and_says_why(
    http: TestClient, parts: Parts, trouble: Exception | float, said: str
) -> None:
    parts.trouble["encoder"] = trouble
    (verdict,) = put(http, {"item_id": "new"}).items
    assert verdict.status == "stored"
    assert said in (verdict.note or "")
    assert http.post("/v1/recommend", json={"user_id": "u", "candidates": ["new"]}).status_code == 422
    assert http.get("/v1/items").json()["items"][0]["item_id"] == "new"
    del parts.trouble["encoder"]
    assert put(http, {"item_id": "new"}).items[0].status == "rankable"


def test_pages_list_what_was_put_and_taken_out_by_id(http: TestClient) -> None:
    full = {
        "item_id": "c",
        "text": "text",
        "categories": ["x"],
        "numeric": {"price": 2.5},
        "vectors": [0.5, 1.0],
        "available_from": 5,
        "available_until": 2 * NOW,
        "flags": ["new"],
    }
    put(http, full, {"item_id": "a"}, {"item_id": "b"})
    http.delete("/v1/items/b")
    whole = ItemPage.model_validate_json(http.get("/v1/items").content)
    assert [(one.item_id, one.deleted, one.text) for one in whole.items] == [
        ("a", False, "a"),
        ("b", True, None),
        ("c", False, "text"),
    ]
    assert whole.next is None
    assert whole.items[2].model_dump(exclude={"deleted"}) == full
    first = ItemPage.model_validate_json(http.get("/v1/items", params={"limit": 2}).content)
    rest = ItemPage.model_validate_json(http.get("/v1/items", params={"limit": 2, "cursor": first.next}).content)
    assert (first.items + rest.items, rest.next) == (whole.items, None)


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"item_id": ""}, "items[0].item_id"),
        ({"item_id": " a"}, "items[0].item_id"),
        ({"item_id": "a", "numeric": {"price": "2"}}, "items[0].numeric.price"),
        ({"item_id": "a", "available_from": 5, "available_until": 5}, "items[0].available_until"),
        ({"item_id": "a", "colour": "red"}, "items[0].colour"),
    ],
)
def test_what_is_no_item_is_refused_and_nothing_kept(http: TestClient, item: dict[str, Any], field: str) -> None:
    response = http.put("/v1/items", json={"items": [item, {"item_id": "fine"}]})
    assert (response.status_code, response.json()["field"]) == (422, field)
    twice = http.put("/v1/items", json={"items": [{"item_id": "a"}, {"item_id": "a"}]})
    assert twice.json()["field"] == "items[1].item_id"
    assert http.get("/v1/items").json()["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("DELETE", "/v1/items/%00", "item_id"),
        ("DELETE", "/v1/items/a%1Fb", "item_id"),
        ("DELETE", f"/v1/items/{'a' * 201}", "item_id"),
        ("GET", "/v1/items?cursor=%00", "cursor"),
        ("GET", "/v1/items?cursor=a%7F", "cursor"),
    ],
)
def test_what_can_be_no_id_does_not_reach_the_store(
    http: TestClient, store: Store, method: str, path: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the store was asked")

    monkeypatch.setattr(store, "known_items", never)
    monkeypatch.setattr(store, "item_page", never)
    response = http.request(method, path)
    problem = response.json()
    assert (response.status_code, problem["field"]) == (422, field)
    assert problem["fix"]
