"""Typed clients of the endpoint, synchronous and asynchronous: the same methods, which `flows.py` has once.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.recommend("user-17", k=5)
        client.events([{"user_id": "user-17", "event_type": "click", "item_id": answer.items[0].item_id,
                        "decision_id": answer.decision_id}])

    async with AsyncClient("http://127.0.0.1:8000") as client:
        answer = await client.recommend("user-17", k=5)

Calls that fail on the way (no connection, a proxy without a free replica) are repeated. That is safe: events are known by
their ids, and recommendations carry an Idempotency-Key, under which the endpoint answers and books them once.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

import httpx

from clm_ray.client import flows
from clm_ray.client.attempts import Attempts
from clm_ray.client.flows import Call, Flow

P = ParamSpec("P")
T = TypeVar("T")

ADMIN_HEADER = "X-Admin-Token"


def _waiting(flow: Callable[P, Flow[T]]) -> Callable[Concatenate[Client, P], T]:
    """The flow as a method of the synchronous client."""

    @functools.wraps(flow)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(flow(*args, **kwargs))

    return method


def _awaited(flow: Callable[P, Flow[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    """The flow as a method of the asynchronous client."""

    @functools.wraps(flow)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        return self._run(flow(*args, **kwargs))

    return method


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
        """`timeout`: seconds per attempt. `retries`: further attempts after the first. `admin_token` is needed for `as_of`, exports and erasures."""
        self._http = httpx.Client(
            base_url=base_url, timeout=timeout, headers=_headers(admin_token), transport=transport
        )
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

    def _run(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                call = flow.send(self._answer(call))
        except StopIteration as done:
            result: T = done.value
            return result

    def _answer(self, call: Call) -> httpx.Response:
        attempts = Attempts(str(self._http.base_url), self._retries)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.request(
                    call.method, call.path, json=call.body, params=call.query, headers=call.headers
                )
            except httpx.TransportError as error:
                outcome = error
            pause = attempts.after(outcome)
            if pause is None and isinstance(outcome, httpx.Response):
                return outcome
            self._sleep(pause or 0.0)

    recommend = _waiting(flows.recommend)
    recommend_batch = _waiting(flows.recommend_batch)
    rank = _waiting(flows.rank)
    events = _waiting(flows.events)
    profile = _waiting(flows.profile)
    put_user = _waiting(flows.put_user)
    export_user = _waiting(flows.export_user)
    erase_user = _waiting(flows.erase_user)
    put_items = _waiting(flows.put_items)
    delete_item = _waiting(flows.delete_item)
    items = _waiting(flows.items)
    version = _waiting(flows.version)
    ready = _waiting(flows.ready)


class AsyncClient:
    """`Client` for an event loop: every method is awaited. Closes its connections on `aclose` or at the end of an `async with` block."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        admin_token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """As those of `Client`."""
        self._http = httpx.AsyncClient(
            base_url=base_url, timeout=timeout, headers=_headers(admin_token), transport=transport
        )
        self._retries = retries
        self._sleep = sleep

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                call = flow.send(await self._answer(call))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _answer(self, call: Call) -> httpx.Response:
        attempts = Attempts(str(self._http.base_url), self._retries)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.request(
                    call.method, call.path, json=call.body, params=call.query, headers=call.headers
                )
            except httpx.TransportError as error:
                outcome = error
            pause = attempts.after(outcome)
            if pause is None and isinstance(outcome, httpx.Response):
                return outcome
            await self._sleep(pause or 0.0)

    recommend = _awaited(flows.recommend)
    recommend_batch = _awaited(flows.recommend_batch)
    rank = _awaited(flows.rank)
    events = _awaited(flows.events)
    profile = _awaited(flows.profile)
    put_user = _awaited(flows.put_user)
    export_user = _awaited(flows.export_user)
    erase_user = _awaited(flows.erase_user)
    put_items = _awaited(flows.put_items)
    delete_item = _awaited(flows.delete_item)
    items = _awaited(flows.items)
    version = _awaited(flows.version)
    ready = _awaited(flows.ready)


def _headers(admin_token: str | None) -> dict[str, str]:
    return {ADMIN_HEADER: admin_token} if admin_token else {}
