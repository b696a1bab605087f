"""What the client's methods do, without input or output: each is a generator that yields calls, is sent their answers, and returns a typed result.

The synchronous and the asynchronous client run the same flows, so there is one of each method.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from clm_ray.errors import EndpointError, RequestError
from clm_ray.messages import (
    MAX_EVENTS,
    BatchAnswer,
    Event,
    EventsAnswer,
    Filters,
    Ranking,
    Readiness,
    RecentEvent,
    Recommendation,
    RecommendRequest,
    UserProfile,
    Verdict,
    Version,
    parse_time,
)
from clm_ray.messages.items import MAX_ITEMS, Item, ItemDeleted, ItemPage, ItemsAnswer, ItemVerdict, StoredItem
from clm_ray.messages.users import Erasure, ExportedRecord, UserExport, UserSettingsAnswer

KEY_HEADER = "Idempotency-Key"
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Moment = int | str | datetime


@dataclass(frozen=True)
class Call:
    """One request, before any transport."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


Flow = Generator[Call, httpx.Response, T]


def recommend(
    user_id: str | None = None,
    *,
    anonymous: bool = False,
    candidates: Sequence[str] | None = None,
    unknown_items: str = "refuse",
    k: int | None = None,
    filters: Filters | Mapping[str, Any] | None = None,
    diversity: float | None = None,
    stage_strategy: bool = True,
    context: Mapping[str, str] | None = None,
    recent_events: Iterable[RecentEvent | Mapping[str, Any]] = (),
    explain: bool = False,
    deadline_ms: int | None = None,
    debug: bool = False,
    as_of: Moment | None = None,
    idempotency_key: str | None = None,
) -> Flow[Recommendation]:
    """What to show to `user_id`, who that is, and what to do to keep them; the fields of `RecommendRequest`.

    `idempotency_key`: None: one is made, so that an attempt that failed on the way is booked once.
    """
    body = {
        **_rank_body(
            {
                "user_id": user_id,
                "anonymous": anonymous,
                "unknown_items": unknown_items,
                "k": k,
                "diversity": diversity,
                "stage_strategy": stage_strategy,
                "explain": explain,
                "deadline_ms": deadline_ms,
                "debug": debug,
            },
            candidates=candidates,
            filters=filters,
            recent_events=recent_events,
            as_of=as_of,
        ),
        "context": dict(context or {}),
    }
    return _read((yield Call("POST", "/v1/recommend", body=body, headers=_key(idempotency_key))), Recommendation)


def recommend_batch(
    requests: Iterable[RecommendRequest | Mapping[str, Any]], *, idempotency_key: str | None = None
) -> Flow[BatchAnswer]:
    """Many recommendations at once; each has its own result, in order. `idempotency_key`: as for `recommend`."""
    body = {"requests": [_plain(request) for request in requests]}
    return _read((yield Call("POST", "/v1/recommend/batch", body=body, headers=_key(idempotency_key))), BatchAnswer)


def rank(
    user_id: str | None = None,
    *,
    anonymous: bool = False,
    candidates: Sequence[str] | None = None,
    unknown_items: str = "refuse",
    k: int | None = None,
    filters: Filters | Mapping[str, Any] | None = None,
    diversity: float | None = None,
    stage_strategy: bool = True,
    recent_events: Iterable[RecentEvent | Mapping[str, Any]] = (),
    explain: bool = False,
    deadline_ms: int | None = None,
    debug: bool = False,
    as_of: Moment | None = None,
) -> Flow[Ranking]:
    """Items in order for a user: no decision, nothing logged; the fields of `RankRequest`."""
    body = _rank_body(
        {
            "user_id": user_id,
            "anonymous": anonymous,
            "unknown_items": unknown_items,
            "k": k,
            "diversity": diversity,
            "stage_strategy": stage_strategy,
            "explain": explain,
            "deadline_ms": deadline_ms,
            "debug": debug,
        },
        candidates=candidates,
        filters=filters,
        recent_events=recent_events,
        as_of=as_of,
    )
    return _read((yield Call("POST", "/v1/rank", body=body)), Ranking)


def events(events: Iterable[Event | Mapping[str, Any]]) -> Flow[EventsAnswer]:
    """Hand in events, in batches where there are many; returns when all accepted ones are durable.

    An event without `event_id` is given one here: to be safe against sending it twice from two processes, give your own.
    """
    answers: list[EventsAnswer] = []
    verdicts: list[Verdict] = []
    for batch in _batches([_with_id(_plain(event)) for event in events], MAX_EVENTS):
        answer = _read((yield Call("POST", "/v1/events", body={"events": batch})), EventsAnswer)
        start = len(verdicts)
        verdicts += [verdict.model_copy(update={"index": verdict.index + start}) for verdict in answer.verdicts]
        answers.append(answer)
    return EventsAnswer(
        accepted=sum(answer.accepted for answer in answers),
        duplicate=sum(answer.duplicate for answer in answers),
        rejected=sum(answer.rejected for answer in answers),
        verdicts=verdicts,
    )


def profile(user_id: str, *, as_of: Moment | None = None) -> Flow[UserProfile]:
    """Who the user is."""
    query = {} if as_of is None else {"as_of": _moment(as_of, field="as_of")}
    return _read((yield Call("GET", f"{_user(user_id)}/profile", query=query)), UserProfile)


def put_user(user_id: str, *, consent: bool | None = None, timezone: str | None = None) -> Flow[UserSettingsAnswer]:
    """What the user said of consent and time zone (IANA); replaces what was told before."""
    body = {"consent": consent, "timezone": timezone}
    return _read((yield Call("PUT", _user(user_id), body=body)), UserSettingsAnswer)


def export_user(user_id: str) -> Flow[list[ExportedRecord]]:
    """Everything that is kept of a user, all pages. For administrators."""
    records: list[ExportedRecord] = []
    query: dict[str, Any] = {}
    while True:
        page = _read((yield Call("GET", f"{_user(user_id)}/export", query=query)), UserExport)
        records += page.records
        if page.next is None:
            return records
        query = {"cursor": page.next}


def erase_user(user_id: str) -> Flow[Erasure]:
    """Erase a user from the store, for good. For administrators."""
    return _read((yield Call("DELETE", _user(user_id))), Erasure)


def put_items(items: Iterable[Item | Mapping[str, Any]]) -> Flow[list[ItemVerdict]]:
    """Put items into the catalogue, in batches where there are many; returns when all are durable."""
    verdicts: list[ItemVerdict] = []
    for batch in _batches([_plain(item) for item in items], MAX_ITEMS):
        verdicts += _read((yield Call("PUT", "/v1/items", body={"items": batch})), ItemsAnswer).items
    return verdicts


def delete_item(item_id: str) -> Flow[ItemDeleted]:
    """Offer an item no longer."""
    return _read((yield Call("DELETE", f"/v1/items/{quote(item_id, safe='')}")), ItemDeleted)


def items() -> Flow[list[StoredItem]]:
    """What was put and taken out, by id, all pages."""
    found: list[StoredItem] = []
    query: dict[str, Any] = {}
    while True:
        page = _read((yield Call("GET", "/v1/items", query=query)), ItemPage)
        found += page.items
        if page.next is None:
            return found
        query = {"cursor": page.next}


def version() -> Flow[Version]:
    """What is being served."""
    return _read((yield Call("GET", "/v1/version")), Version)


def ready() -> Flow[Readiness]:
    """Whether every part can answer. Raises EndpointError when it cannot."""
    return _read((yield Call("GET", "/readyz")), Readiness)


def _rank_body(
    plain: dict[str, str | float | bool | None],
    *,
    candidates: Sequence[str] | None,
    filters: Filters | Mapping[str, Any] | None,
    recent_events: Iterable[RecentEvent | Mapping[str, Any]],
    as_of: Moment | None,
) -> dict[str, Any]:
    return plain | {
        "candidates": None if candidates is None else list(candidates),
        "filters": None if filters is None else _plain(filters),
        "recent_events": [_plain(event) for event in recent_events],
        "as_of": _moment(as_of, field="as_of"),
    }


def _read(response: httpx.Response, answer: type[M]) -> M:
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise EndpointError(
            f"answered with something that is not a {answer.__name__}: {error.errors(include_url=False)[0]['msg']}",
            field=str(response.url),
            fix="is this the address of a clm_ray endpoint of this version?",
        ) from error


def _user(user_id: str) -> str:
    return f"/v1/users/{quote(user_id, safe='')}"


def _key(given: str | None) -> dict[str, str]:
    return {KEY_HEADER: given or uuid.uuid4().hex}


def _plain(given: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    raw = given.model_dump() if isinstance(given, BaseModel) else dict(given)
    for name, value in raw.items():
        if isinstance(value, datetime):
            raw[name] = _moment(value, field=name)
    return raw


def _with_id(event: dict[str, Any]) -> dict[str, Any]:
    return event if event.get("event_id") is not None else {**event, "event_id": uuid.uuid4().hex}


def _moment(value: Moment | None, *, field: str) -> int | None:
    if value is None:
        return None
    try:
        return parse_time(value.isoformat() if isinstance(value, datetime) else value)
    except ValueError as error:
        raise RequestError(str(error), field=field, value=value, fix="give a time with an offset") from None


def _batches(rows: Sequence[dict[str, Any]], size: int) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
