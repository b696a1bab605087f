"""POST /v1/events: a verdict for each event, and nothing acknowledged that is not durable."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_fakes import NOW

from clm_ray.data.clean import ROW, clean_rows, rules_of
from clm_ray.data.normalise import as_ids
from clm_ray.errors import StoreError
from clm_ray.messages import EventsAnswer
from clm_ray.schema import EVENTS
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.checks import check_id
from clm_ray.serve.intake import admit
from clm_ray.store.store import Store


def event(**fields: Any) -> dict[str, Any]:
    return {"event_id": "e1", "user_id": "u", "event_type": "click", "item_id": "i1", **fields}


def send(http: TestClient, *events: Any) -> EventsAnswer:
    response = http.post("/v1/events", json={"events": list(events)})
    assert response.status_code == 200, response.text
    return EventsAnswer.model_validate_json(response.content)


def test_an_accepted_event_is_in_the_history(http: TestClient, store: Store) -> None:
    answer = send(http, event(value=2.5))
    assert [verdict.status for verdict in answer.verdicts] == ["accepted"]
    history = store.histories(["u"])["u"]
    assert (history.items, history.types, history.time_N.tolist()) == (("i1",), ("click",), [NOW])


def test_the_same_event_twice_is_one_event_in_and_across_batches(http: TestClient, store: Store) -> None:
    first = send(http, event(), event(item_id="i2"))
    second = send(http, event())
    assert [v.status for v in first.verdicts + second.verdicts] == ["accepted", "duplicate", "duplicate"]
    assert (first.accepted, first.duplicate, second.duplicate) == (1, 1, 1)
    assert len(store.histories(["u"])["u"]) == 1


def test_late_events_land_in_their_place(http: TestClient, store: Store) -> None:
    send(http, event(event_id="b", timestamp=NOW - 10))
    send(http, event(event_id="a", timestamp="2017-11-06T20:26:39.5Z", item_id="i2"))
    assert store.histories(["u"])["u"].time_N.tolist() == [NOW - 500_000, NOW - 10]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"event_type": "kiss"}, "event_type"),
        ({"event_type": "impression"}, "event_type"),
        ({"event_id": None}, "event_id"),
        ({"event_id": "impression:x"}, "event_id"),
        ({"user_id": ""}, "user_id"),
        ({"timestamp": NOW + 301_000_000}, "timestamp"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": 1_509_876_000}, "timestamp"),
        ({"event_type": "rating", "value": None}, "value"),
        ({"event_type": "purchase"}, "value"),
        ({"item_id": None}, "item_id"),
        ({"item_id": " "}, "item_id"),
        ({"item_id": "i1 "}, "item_id"),
        ({"user_id": "   "}, "user_id"),
        ({"user_id": "\u2003u"}, "user_id"),
        ({"user_id": "17.0"}, "user_id"),
        ({"event_id": " e1"}, "event_id"),
        ({"decision_id": "d "}, "decision_id"),
        ({"value": "5"}, "value"),
        ({"context": {"a": 1}}, "context.a"),
        ({"price": 5}, "price"),
    ],
)
def test_a_wrong_event_is_rejected_with_field_reason_and_fix_and_costs_no_other(
    http: TestClient, store: Store, bad: dict[str, Any], field: str
) -> None:
    answer = send(http, event(event_id="before"), event(**bad), event(event_id="after"))
    assert [verdict.status for verdict in answer.verdicts] == ["accepted", "rejected", "accepted"]
    verdict = answer.verdicts[1]
    assert verdict.field == field
    assert verdict.reason
    assert verdict.fix
    assert len(store.histories(["u"])["u"]) == 2


def test_a_little_ahead_of_the_clock_is_tolerated(http: TestClient) -> None:
    assert send(http, event(timestamp=NOW + 299_000_000)).accepted == 1


def test_what_is_not_even_an_object_gets_its_verdict(http: TestClient) -> None:
    answer = send(http, 7, "x", None, [])
    assert (answer.rejected, answer.accepted) == (4, 0)


def test_an_unknown_item_is_kept_and_noted(http: TestClient, store: Store) -> None:
    answer = send(http, event(item_id="brand-new"), event(event_id="e2", event_type="mailing", item_id=None))
    assert [verdict.status for verdict in answer.verdicts] == ["accepted", "accepted"]
    assert "not in the catalogue" in (answer.verdicts[0].note or "")
    assert answer.verdicts[1].note is None
    assert store.histories(["u"])["u"].items == ("brand-new",)


def test_nothing_is_acknowledged_when_the_store_refuses(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise StoreError("disk full", fix="make room")

    monkeypatch.setattr(store, "append_events", refuse)
    response = http.post("/v1/events", json={"events": [event()]})
    assert response.status_code == 503
    assert response.json()["fix"] == "make room"
    assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": [event()] * 1001}, {"events": event()}, [event()], 7])
def test_a_request_that_is_no_batch_is_refused_as_a_whole(http: TestClient, body: object) -> None:
    response = http.post("/v1/events", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_NEARLY_EVENT = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("event_id", "user_id", "event_type", "item_id", "timestamp", "value", "decision_id", "context"), _ANYTHING
    ),
)


_ID = st.sampled_from(
    [
        "u",
        " u",
        "u ",
        " ",
        "\u00a0",
        "5.0",
        "10",
        "-3.00",
        "a b",
        "\x85x",
        "1e+5",
        "1.5E+17",
        "2e+",
        "9007199254740993.0",
    ]
) | st.text(min_size=1, max_size=4)
_PLAUSIBLE = st.fixed_dictionaries(
    {
        "event_id": _ID,
        "user_id": _ID,
        "event_type": st.sampled_from(["purchase", "rating", "mailing", "impression", "click"]),
    },
    optional={
        "item_id": st.none() | _ID,
        "value": st.none() | st.floats(allow_nan=False) | st.just(3e38),
        "timestamp": st.integers(0, NOW + 400_000_000) | st.just(631_152_000_000_000),
        "decision_id": st.none() | _ID,
        "context": st.dictionaries(_ID, _ID, max_size=2),
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.lists(_PLAUSIBLE, min_size=1, max_size=6))
def test_cleaning_keeps_what_was_admitted_as_it_is(served: ServedCatalogue, raw: list[dict[str, Any]]) -> None:
    admitted = admit(raw, served=served, now=NOW).events
    columns: dict[str, list[Any]] = {name: [getattr(one, name) for one in admitted] for name in EVENTS.names}
    columns["context"] = [list(one.context.items()) for one in admitted]
    rows = pa.table(columns, schema=EVENTS).append_column(ROW, pa.array(range(len(admitted)), pa.int64()))
    cleaned = clean_rows(rows, rules=rules_of(served.recipe, now_us=NOW), file=0)
    assert cleaned.column("reason").null_count == len(admitted), cleaned.column("reason").to_pylist()
    for name in ("event_id", "user_id", "item_id", "event_type", "decision_id", "value"):
        assert cleaned.column(name).to_pylist() == columns[name], name


def test_ids_that_cleaning_would_trim_are_refused_whatever_the_space() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    trimmed = as_ids(pa.array([f"{c}u" for c in characters]), name="id")[0].to_pylist()
    changed = [c for c, kept in zip(characters, trimmed, strict=True) if kept != f"{c}u"]
    assert len(changed) > 20
    assert all(check_id("user_id", f"{c}u") and check_id("user_id", f"u{c}") for c in changed)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_NEARLY_EVENT | _ANYTHING, max_size=4))
def test_whatever_the_events_are_each_has_a_verdict(http: TestClient, events: list[object]) -> None:
    response = http.post("/v1/events", content=_json(events), headers={"Content-Type": "application/json"})
    assert response.status_code in {200, 400, 422}, response.text
    if response.status_code == 200:
        assert len(response.json()["verdicts"]) == len(events)


def _json(events: list[object]) -> bytes:
    import json

    return json.dumps({"events": events}).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("value", ["1e+5", "1.5E+17", "9007199254740992.0"])
def test_ids_that_cleaning_would_reject_are_refused(value: str) -> None:
    refusal = check_id("item_id", value)
    assert refusal is not None
    assert "lost digits" in refusal.reason
    assert check_id("item_id", "a+b") is None
