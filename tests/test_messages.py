"""What the wire accepts and refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clm_ray.messages import MAX_CONTEXT, MAX_EVENTS, Event, EventsRequest, RecommendRequest, parse_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("2017-11-05T10:00:00.000001+00:00", 1_509_876_000_000_001),
        ("2017-11-05T11:00:00+01:00", 1_509_876_000_000_000),
    ],
)
def test_iso_times_are_exact_to_the_microsecond(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@given(st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC)))
def test_every_time_survives_its_iso_text(moment: datetime) -> None:
    micros = parse_time(moment.isoformat())
    assert datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000) == moment


@pytest.mark.parametrize(
    "bad", ["2017-11-05T10:00:00", "yesterday", "", -1, 5_000_000_000_000_000, 1.5, True, None, []]
)
def test_ambiguous_or_impossible_times_are_refused(bad: object) -> None:
    with pytest.raises(ValueError):
        parse_time(bad)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"user_id": None, "user": "u"}, ("user",)),
        ({"user_id": ""}, ("user_id",)),
        ({"user_id": "u" * 201}, ("user_id",)),
        ({"user_id": 7}, ("user_id",)),
        ({"user_id": "a\x00b"}, ("user_id",)),
        ({"user_id": "u", "k": 0}, ("k",)),
        ({"user_id": "u", "k": 501}, ("k",)),
        ({"user_id": "u", "k": "10"}, ("k",)),
        ({"user_id": "u", "k": True}, ("k",)),
        ({"user_id": "u", "candidates": []}, ("candidates",)),
        ({"user_id": "u", "candidates": ["a", 1]}, ("candidates", 1)),
        ({"user_id": "u", "candidate": ["a"]}, ("candidate",)),
        ({"user_id": "u", "context": {"page": 3}}, ("context", "page")),
        ({"user_id": "u", "context": {str(n): "" for n in range(MAX_CONTEXT + 1)}}, ("context",)),
        ({"user_id": "u", "as_of": "2017-11-05"}, ("as_of",)),
        (
            {"user_id": "u", "recent_events": [{"event_type": "x", "value": float("nan")}]},
            ("recent_events", 0, "value"),
        ),
        ({"user_id": "u", "recent_events": [{"event_type": "x", "user_id": "u"}]}, ("recent_events", 0, "user_id")),
    ],
)
def test_malformed_recommend_requests_name_their_field(body: dict[str, Any], where: tuple[object, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        RecommendRequest.model_validate(body)
    assert caught.value.errors()[0]["loc"] == where


def test_the_shortest_request_is_a_user() -> None:
    request = RecommendRequest.model_validate({"user_id": "u"})
    assert (request.k, request.candidates, request.as_of, request.explain) == (None, None, None, False)


def test_an_event_needs_its_id_so_that_a_retry_cannot_double_it() -> None:
    with pytest.raises(ValidationError) as caught:
        Event.model_validate({"user_id": "u", "event_type": "click"})
    assert caught.value.errors()[0]["loc"] == ("event_id",)


def test_a_value_that_a_history_cannot_hold_is_refused() -> None:
    event = {"event_id": "1", "user_id": "u", "event_type": "click"}
    assert Event.model_validate(event | {"value": 1e30}).value == 1e30
    with pytest.raises(ValidationError) as caught:
        Event.model_validate(event | {"value": 1e39})
    assert caught.value.errors()[0]["loc"] == ("value",)


def test_a_batch_is_bounded_but_its_events_are_left_to_their_own_verdicts() -> None:
    assert EventsRequest.model_validate({"events": [{"nonsense": 1}, 7]}).events == [{"nonsense": 1}, 7]
    for events in ([], [{}] * (MAX_EVENTS + 1), {}, None):
        with pytest.raises(ValidationError):
            EventsRequest.model_validate({"events": events})


def test_the_schema_of_a_batch_shows_what_an_event_is() -> None:
    items = EventsRequest.model_json_schema()["properties"]["events"]["items"]
    assert set(items["required"]) == {"event_id", "user_id", "event_type"}
    assert items["additionalProperties"] is False
