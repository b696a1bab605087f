"""A typed client of the endpoint.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.recommend("user-17", k=5)
        client.events([{"user_id": "user-17", "event_type": "click", "item_id": answer.items[0].item_id,
                        "decision_id": answer.decision_id}])

Calls that fail on the way (no connection, a proxy without a free replica) are repeated. That is safe: events are known by
their ids, a retention decision is booked once per user and period, and a slate that was logged but never reached the
caller costs one unseen impression.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from clm_ray.errors import ClmError, EndpointError, ForbiddenError, OverloadedError, RequestError
from clm_ray.messages import (
    MAX_EVENTS,
    Event,
    EventsAnswer,
    Problem,
    Readiness,
    RecentEvent,
    Recommendation,
    UserProfile,
    Verdict,
    Version,
    parse_time,
)

M = TypeVar("M", bound=BaseModel)

ADMIN_HEADER = "X-Admin-Token"
_PROBLEM = "application/problem+json"
_LONGEST_WAIT_S = 5.0
_BY_STATUS: dict[int, type[RequestError]] = {403: ForbiddenError, 429: OverloadedError}


@dataclass(frozen=True)
class _Call:
    """One request, before any transport: what a synchronous and an asynchronous client have in common."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    query: dict[str, Any] = field(default_factory=dict)


class Client:
    """Calls one endpoint. Thread-safe; closes its connections on `close` or at the end of a `with` block."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        admin_token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`timeout`: seconds per attempt. `retries`: further attempts after the first. `admin_token` is needed for `as_of`."""
        headers = {ADMIN_HEADER: admin_token} if admin_token else {}
        self._http = httpx.Client(base_url=base_url, timeout=timeout, headers=headers, transport=transport)
        self._retries = retries
        self._sleep = sleep

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def recommend(
        self,
        user_id: str,
        *,
        candidates: Sequence[str] | None = None,
        k: int | None = None,
        context: Mapping[str, str] | None = None,
        recent_events: Iterable[RecentEvent | Mapping[str, Any]] = (),
        explain: bool = False,
        as_of: int | str | datetime | None = None,
    ) -> Recommendation:
        """What to show to `user_id`, who that is, and what to do to keep them; the fields of `RecommendRequest`."""
        body = {
            "user_id": user_id,
            "candidates": None if candidates is None else list(candidates),
            "k": k,
            "context": dict(context or {}),
            "recent_events": [_plain(event) for event in recent_events],
            "explain": explain,
            "as_of": _moment(as_of, field="as_of"),
        }
        return self._ask(_Call("POST", "/v1/recommend", body=body), Recommendation)

    def events(self, events: Iterable[Event | Mapping[str, Any]]) -> EventsAnswer:
        """Hand in events, in batches where there are many; returns when all accepted ones are durable.

        An event without `event_id` is given one here: to be safe against sending it twice from two processes, give your own.
        """
        answers: list[EventsAnswer] = []
        sent = 0
        for batch in _batches([_with_id(_plain(event)) for event in events]):
            answer = self._ask(_Call("POST", "/v1/events", body={"events": batch}), EventsAnswer)
            verdicts = [verdict.model_copy(update={"index": verdict.index + sent}) for verdict in answer.verdicts]
            answers.append(answer.model_copy(update={"verdicts": verdicts}))
            sent += len(batch)
        verdicts_all: list[Verdict] = [verdict for answer in answers for verdict in answer.verdicts]
        return EventsAnswer(
            accepted=sum(answer.accepted for answer in answers),
            duplicate=sum(answer.duplicate for answer in answers),
            rejected=sum(answer.rejected for answer in answers),
            verdicts=verdicts_all,
        )

    def profile(self, user_id: str, *, as_of: int | str | datetime | None = None) -> UserProfile:
        """Who the user is."""
        query = {} if as_of is None else {"as_of": _moment(as_of, field="as_of")}
        return self._ask(_Call("GET", f"/v1/users/{quote(user_id, safe='')}/profile", query=query), UserProfile)

    def version(self) -> Version:
        """What is being served."""
        return self._ask(_Call("GET", "/v1/version"), Version)

    def ready(self) -> Readiness:
        """Whether every part can answer. Raises EndpointError when it cannot."""
        return self._ask(_Call("GET", "/readyz"), Readiness)

    def _ask(self, call: _Call, answer: type[M]) -> M:
        attempt = 0
        while True:
            try:
                response = self._http.request(call.method, call.path, json=call.body, params=call.query)
            except httpx.TransportError as error:
                failure: ClmError = EndpointError(
                    f"cannot be reached: {error}",
                    field="base_url",
                    value=str(self._http.base_url),
                    fix="is it running?",
                )
                again = not isinstance(error, httpx.ReadTimeout | httpx.UnsupportedProtocol)
                wait = None
            else:
                if response.is_success:
                    return _read(response, answer)
                failure, again, wait = (
                    _failure(response),
                    _worth_repeating(response),
                    response.headers.get("Retry-After"),
                )
            if not again or attempt >= self._retries:
                raise failure
            self._sleep(_pause(attempt, wait))
            attempt += 1


def _worth_repeating(response: httpx.Response) -> bool:
    """502-504 and 429; and a 500 that is not ours: a proxy in front turned a 502-504 into it."""
    ours = response.headers.get("content-type", "").startswith(_PROBLEM)
    return response.status_code in {429, 502, 503, 504} or (response.status_code == 500 and not ours)


def _pause(attempt: int, retry_after: str | None) -> float:
    """Seconds before the next attempt: what the endpoint asks for, else 0.1, 0.2, 0.4, ..."""
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), _LONGEST_WAIT_S)
    return min(0.1 * 2**attempt, _LONGEST_WAIT_S)


def _failure(response: httpx.Response) -> ClmError:
    """The error that an answer stands for."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        text = response.text[:200].strip() or response.reason_phrase
        problem = Problem(type="about:blank", title="Error", status=response.status_code, detail=text)
    status = response.status_code
    kind = _BY_STATUS.get(status, RequestError) if status < 500 else EndpointError
    error = kind(problem.detail, field=problem.field or "", value=problem.value, fix=problem.fix or "")
    error.status = status
    return error


def _read(response: httpx.Response, answer: type[M]) -> M:
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise EndpointError(
            f"answered with something that is not a {answer.__name__}: {error.errors(include_url=False)[0]['msg']}",
            field=str(response.url),
            fix="is this the address of a clm_ray endpoint of this version?",
        ) from error


def _plain(event: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    raw = event.model_dump() if isinstance(event, BaseModel) else dict(event)
    if isinstance(raw.get("timestamp"), datetime):
        raw["timestamp"] = _moment(raw["timestamp"], field="timestamp")
    return raw


def _with_id(event: dict[str, Any]) -> dict[str, Any]:
    return event if event.get("event_id") is not None else {**event, "event_id": uuid.uuid4().hex}


def _moment(value: int | str | datetime | None, *, field: str) -> int | None:
    if value is None:
        return None
    try:
        return parse_time(value.isoformat() if isinstance(value, datetime) else value)
    except ValueError as error:
        raise RequestError(str(error), field=field, value=value, fix="give a time with an offset") from None


def _batches(events: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(events), MAX_EVENTS):
        yield events[start : start + MAX_EVENTS]
