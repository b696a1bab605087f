"""The client: typed answers, errors with their field, and retries that do no harm."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from clm_ray.client import AsyncClient, Client
from clm_ray.errors import ConflictError, EndpointError, ForbiddenError, OverloadedError, RequestError
from clm_ray.messages import MAX_EVENTS, Event, Filters, Problem, RankRequest, RecommendRequest

VERSION: dict[str, Any] = {
    "name": "clm_ray",
    "version": "0.1.0",
    "release": "r1",
    "recipe": "tiny",
    "clock": "wall",
    "time": 1,
    "event_types": ["click"],
    "limits": {"default_k": 10, "max_k": 500, "max_candidates": 5000, "max_events": 1000, "max_batch": 100},
}


class Blocking:
    """An asynchronous client, each of whose methods is waited for."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def wait(*args: Any, **named: Any) -> Any:
            async def ask() -> Any:
                return await getattr(self._client, name)(*args, **named)

            return asyncio.run(ask())

        return wait


@pytest.fixture(params=["sync", "async"], autouse=True)
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is about both clients."""
    monkeypatch.setattr(Endpoint, "asynchronous", request.param == "async")


class Endpoint:
    """Answers from a list, remembers what it was asked; an exception in the list is raised."""

    asynchronous = False

    def __init__(self, *answers: httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        given = answer if isinstance(answer, httpx.Response) else answer(request)
        # A response can be read once; parameters of tests are shared.
        return httpx.Response(given.status_code, headers=given.headers, content=given.content)

    def client(self, **options: Any) -> Any:
        transport = httpx.MockTransport(self)
        if not self.asynchronous:
            return Client("http://shop", transport=transport, sleep=self.pauses.append, **options)

        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        return Blocking(AsyncClient("http://shop", transport=transport, sleep=sleep, **options))


def problem(status: int, **fields: Any) -> httpx.Response:
    body = Problem(type="about:blank", title="t", status=status, **{"detail": "d", **fields}).model_dump_json()
    return httpx.Response(status, content=body, headers={"content-type": "application/problem+json"})


def all_accepted(request: httpx.Request) -> httpx.Response:
    events = json.loads(request.content)["events"]
    verdicts = [{"index": n, "event_id": e["event_id"], "status": "accepted"} for n, e in enumerate(events)]
    return httpx.Response(200, json={"accepted": len(events), "duplicate": 0, "rejected": 0, "verdicts": verdicts})


def test_an_answer_is_typed_and_unknown_fields_of_a_later_version_do_no_harm() -> None:
    endpoint = Endpoint(httpx.Response(200, json={**VERSION, "later": True}))
    assert endpoint.client().version().limits.max_candidates == 5000


@pytest.mark.parametrize(
    ("status", "kind"), [(403, ForbiddenError), (422, RequestError), (404, RequestError), (413, RequestError)]
)
def test_a_refusal_is_raised_at_once_with_field_and_fix(status: int, kind: type[RequestError]) -> None:
    endpoint = Endpoint(problem(status, field="k", value="0", fix="at least 1"))
    with pytest.raises(kind) as caught:
        endpoint.client().recommend("u", k=0)
    assert (caught.value.field, caught.value.value, caught.value.fix, caught.value.status) == (
        "k",
        "0",
        "at least 1",
        status,
    )
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("gone"),
        httpx.Response(502),
        httpx.Response(503),
        httpx.Response(504),
        httpx.Response(500, text="Internal Server Error"),
        problem(429),
    ],
)
def test_what_fails_on_the_way_is_tried_again(failure: httpx.Response | Exception) -> None:
    endpoint = Endpoint(failure, httpx.Response(200, json=VERSION))
    assert endpoint.client().version().release == "r1"
    assert len(endpoint.pauses) == 1


def test_a_failure_of_the_endpoint_itself_is_not_repeated() -> None:
    endpoint = Endpoint(problem(500))
    with pytest.raises(EndpointError):
        endpoint.client().version()
    assert len(endpoint.requests) == 1


def test_retries_end_and_the_last_failure_is_raised() -> None:
    endpoint = Endpoint(*(httpx.ConnectError("refused") for _ in range(3)))
    with pytest.raises(EndpointError, match="cannot be reached"):
        endpoint.client(retries=2).version()
    assert endpoint.pauses == [0.1, 0.2]


def test_the_endpoint_says_how_long_to_wait() -> None:
    busy = problem(429)
    busy.headers["Retry-After"] = "2"
    endpoint = Endpoint(busy, problem(429))
    with pytest.raises(OverloadedError):
        endpoint.client(retries=1).version()
    assert endpoint.pauses == [2.0]


def test_a_repeated_batch_of_events_carries_the_same_ids() -> None:
    endpoint = Endpoint(httpx.Response(503), all_accepted)
    answer = endpoint.client().events([{"user_id": "u", "event_type": "click"}])
    first, second = (json.loads(request.content)["events"][0]["event_id"] for request in endpoint.requests)
    assert first == second == answer.verdicts[0].event_id
    assert first


def test_given_event_ids_are_kept_and_models_will_do_as_well() -> None:
    endpoint = Endpoint(all_accepted)
    events = [
        Event(event_id="a", user_id="u", event_type="click"),
        {"event_id": "b", "user_id": "u", "event_type": "click", "timestamp": datetime(2017, 1, 1, tzinfo=UTC)},
    ]
    endpoint.client().events(events)
    sent = json.loads(endpoint.requests[0].content)["events"]
    assert [event["event_id"] for event in sent] == ["a", "b"]
    assert sent[1]["timestamp"] == 1_483_228_800_000_000


def test_many_events_go_in_bounded_batches_and_the_verdicts_count_through() -> None:
    endpoint = Endpoint(all_accepted, all_accepted)
    answer = endpoint.client().events({"user_id": "u", "event_type": "click"} for _ in range(MAX_EVENTS + 5))
    assert answer.accepted == MAX_EVENTS + 5
    assert [verdict.index for verdict in answer.verdicts] == list(range(MAX_EVENTS + 5))
    assert len(endpoint.requests) == 2


def test_users_of_any_name_are_asked_for() -> None:
    endpoint = Endpoint(problem(404))
    with pytest.raises(RequestError):
        endpoint.client().profile("a/b c?")
    assert endpoint.requests[0].url.raw_path == b"/v1/users/a%2Fb%20c%3F/profile"


def test_as_of_and_the_admin_token_are_sent() -> None:
    endpoint = Endpoint(problem(403), problem(403))
    client = endpoint.client(admin_token="secret")
    with pytest.raises(ForbiddenError):
        client.recommend("u", as_of="2017-01-01T00:00:00Z")
    with pytest.raises(ForbiddenError):
        client.profile("u", as_of=datetime(2017, 1, 1, tzinfo=UTC))
    assert json.loads(endpoint.requests[0].content)["as_of"] == 1_483_228_800_000_000
    assert endpoint.requests[1].url.params["as_of"] == "1483228800000000"
    assert {request.headers["x-admin-token"] for request in endpoint.requests} == {"secret"}


def test_a_time_without_an_offset_is_refused_before_it_is_sent() -> None:
    endpoint = Endpoint()
    with pytest.raises(RequestError, match="offset"):
        endpoint.client().recommend("u", as_of=datetime(2017, 1, 1))
    assert not endpoint.requests


def test_something_else_at_the_address_is_said() -> None:
    endpoint = Endpoint(httpx.Response(200, text="<html>welcome</html>"))
    with pytest.raises(EndpointError, match="not a Version"):
        endpoint.client().version()


RECOMMENDATION: dict[str, Any] = {
    "decision_id": "d",
    "user_id": "u",
    "time": 1,
    "release": "r1",
    "items": [],
    "profile": None,
    "retention": None,
    "degraded": [],
}


def test_a_repeated_recommendation_carries_the_same_key_and_another_one_another() -> None:
    answer = httpx.Response(200, json=RECOMMENDATION)
    endpoint = Endpoint(httpx.Response(503), answer, answer)
    client = endpoint.client()
    client.recommend("u")
    client.recommend("u", idempotency_key="mine")
    first, again, other = (request.headers["idempotency-key"] for request in endpoint.requests)
    assert first == again
    assert (len(first), other) == (32, "mine")


def test_a_conflict_is_repeated_only_where_the_endpoint_says_when_to_come_back() -> None:
    busy = problem(409)
    busy.headers["Retry-After"] = "1"
    endpoint = Endpoint(busy, httpx.Response(200, json=RECOMMENDATION))
    assert endpoint.client().recommend("u").decision_id == "d"
    endpoint = Endpoint(problem(409, field="Idempotency-Key"))
    with pytest.raises(ConflictError):
        endpoint.client().recommend("u")
    assert len(endpoint.requests) == 1


def test_all_pages_come_together() -> None:
    pages = [
        {"user_id": "u", "time": 1, "release": "r", "records": [{"kind": "events", "data": {"n": n}}], "next": after}
        for n, after in enumerate(["a", "b", None])
    ]
    endpoint = Endpoint(*(httpx.Response(200, json=page) for page in pages))
    assert [record.data["n"] for record in endpoint.client().export_user("a/b")] == [0, 1, 2]
    assert [request.url.params.get("cursor") for request in endpoint.requests] == [None, "a", "b"]
    assert endpoint.requests[0].url.raw_path == b"/v1/users/a%2Fb/export"


@pytest.mark.parametrize(("method", "message"), [("recommend", RecommendRequest), ("rank", RankRequest)])
def test_whatever_may_be_asked_can_be_asked_by_the_client(method: str, message: type[RankRequest]) -> None:
    arguments = {name for name in inspect.signature(getattr(Client, method)).parameters if name != "self"}
    assert arguments - {"idempotency_key"} == set(message.model_fields)


def test_filters_and_the_shape_of_the_slate_are_sent() -> None:
    ranking = {"user_id": "ann", "time": 1, "release": "r1", "items": [], "degraded": []}
    endpoint = Endpoint(*[httpx.Response(200, json=ranking)] * 2)
    client = endpoint.client()
    client.rank("ann", filters=Filters(deny=["7"]), diversity=0.3, stage_strategy=False)
    client.rank("ann", filters={"flags": ["new"]})
    sent = [json.loads(request.content) for request in endpoint.requests]
    assert [body["filters"].get("deny") for body in sent] == [["7"], None]
    assert (sent[0]["diversity"], sent[0]["stage_strategy"]) == (0.3, False)
    assert sent[1]["filters"] == {"flags": ["new"]}
    for body in sent:
        RankRequest.model_validate(body)


def test_both_clients_have_the_same_methods_with_their_descriptions() -> None:
    def methods(kind: type) -> dict[str, str | None]:
        own = {"close", "aclose"}
        return {name: inspect.getdoc(m) for name, m in vars(kind).items() if name[0] != "_" and name not in own}

    assert methods(Client) == methods(AsyncClient)
    assert all(methods(Client).values())
    assert "recommend_batch" in methods(Client)
