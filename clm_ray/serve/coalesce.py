"""Concurrent requests collected into batches.

A hop between replicas costs a millisecond or two of CPU whatever it carries, so requests that are there at the same time
travel together. While the allowed number of batches is in flight, arriving requests wait and make up the next batch:
the batch grows with the load and a single request waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from clm_ray.errors import OverloadedError

Q = TypeVar("Q")
A = TypeVar("A")


class Coalescer(Generic[Q, A]):
    """Hands requests to `send` in batches and each answer back to its request. Belongs to one event loop."""

    def __init__(
        self,
        send: Callable[[list[Q]], Awaitable[list[A]]],
        *,
        max_batch: int,
        wait_s: float,
        in_flight: int,
        max_waiting: int,
        alike: Callable[[Q], Hashable] | None = None,
    ) -> None:
        """`send` answers a batch in its order. `wait_s`: how long the first request of a batch waits for others while another batch is on its way.
        `alike`: only requests of which it says the same, when the batch sets out, share one; None: all may."""
        self._send = send
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._in_flight = in_flight
        self._alike = alike
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None

    async def submit(self, request: Q) -> A:
        """The answer to `request`. Raises OverloadedError when too many wait, or what `send` raised for its batch."""
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError(
                "too many requests are waiting", value=len(self._waiting), fix="try again after the Retry-After time"
            )
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        self._arm()
        return await answer

    def _arm(self) -> None:
        if not self._waiting or len(self._running) >= self._in_flight:
            return
        if len(self._waiting) >= self._max_batch:
            self._disarm()
            self._fire()
        elif self._timer is None:
            # While nothing is on its way a request waits for nobody but those that are read in the same turn of the loop.
            wait_s = self._wait_s if self._running else 0.0
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        batch = self._next()
        if batch:
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._finished)
        self._arm()

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        """The request that waits longest and those that are like it; the others wait on, in their order."""
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        others: list[tuple[Q, asyncio.Future[A]]] = []
        wanted: Hashable = None
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if entry[1].done():  # a caller who went away is not served
                continue
            kind = None if self._alike is None else self._alike(entry[0])
            wanted = wanted if batch else kind
            (batch if kind == wanted else others).append(entry)
        self._waiting.extendleft(reversed(others))
        return batch

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._arm()

    async def _run(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._send([request for request, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
