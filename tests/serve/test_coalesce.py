"""Batches form under load, a lone request waits for nobody, and one caller's trouble stays that caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from clm_ray.errors import OverloadedError
from clm_ray.serve.coalesce import Coalescer

Send = Callable[[list[int]], Awaitable[list[int]]]


def coalescer(send: Send, *, max_batch: int = 8, in_flight: int = 1, max_waiting: int = 100) -> Coalescer[int, int]:
    return Coalescer(send, max_batch=max_batch, wait_s=0.0, in_flight=in_flight, max_waiting=max_waiting)


def test_requests_that_are_there_together_travel_together_and_get_their_own_answers() -> None:
    batches: list[list[int]] = []

    async def send(batch: list[int]) -> list[int]:
        batches.append(batch)
        return [10 * request for request in batch]

    async def run() -> list[int]:
        collected = coalescer(send)
        return await asyncio.gather(*(collected.submit(n) for n in range(6)))

    assert asyncio.run(run()) == [0, 10, 20, 30, 40, 50]
    assert batches == [[0, 1, 2, 3, 4, 5]]


def test_the_next_batch_is_what_arrived_while_the_slots_were_busy() -> None:
    batches: list[list[int]] = []

    async def run() -> None:
        release = asyncio.Event()

        async def send(batch: list[int]) -> list[int]:
            batches.append(batch)
            await release.wait()
            return batch

        collected = coalescer(send, in_flight=2, max_batch=3)
        calls = []
        for n in range(9):
            calls.append(asyncio.create_task(collected.submit(n)))
            await asyncio.sleep(0.001)
        assert batches == [[0], [1]], "two in flight, the others wait"
        release.set()
        await asyncio.gather(*calls)

    asyncio.run(run())
    assert batches == [[0], [1], [2, 3, 4], [5, 6, 7], [8]]


def test_a_failing_batch_fails_its_own_requests_only() -> None:
    async def send(batch: list[int]) -> list[int]:
        if 0 in batch:
            raise ValueError("no")
        return batch

    async def run() -> list[object]:
        collected = coalescer(send, max_batch=2)
        return list(await asyncio.gather(*(collected.submit(n) for n in range(4)), return_exceptions=True))

    answers = asyncio.run(run())
    assert [type(answer) for answer in answers] == [ValueError, ValueError, int, int]


def test_an_answer_too_few_is_an_error_and_not_a_mix_up() -> None:
    async def send(batch: list[int]) -> list[int]:
        return batch[:-1]

    async def run() -> list[object]:
        collected = coalescer(send)
        return list(await asyncio.gather(collected.submit(1), collected.submit(2), return_exceptions=True))

    assert isinstance(asyncio.run(run())[1], ValueError)


def test_too_many_waiting_requests_are_refused() -> None:
    async def run() -> None:
        release = asyncio.Event()

        async def send(batch: list[int]) -> list[int]:
            await release.wait()
            return batch

        collected = coalescer(send, max_batch=1, max_waiting=2)
        calls = [asyncio.create_task(collected.submit(n)) for n in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError):
            await collected.submit(9)
        release.set()
        assert await asyncio.gather(*calls) == [0, 1, 2]

    asyncio.run(run())


def test_a_caller_who_went_away_is_not_served() -> None:
    batches: list[list[int]] = []

    async def run() -> None:
        async def send(batch: list[int]) -> list[int]:
            batches.append(batch)
            await asyncio.sleep(0.02)
            return batch

        collected = coalescer(send)
        first = asyncio.create_task(collected.submit(1))
        await asyncio.sleep(0.01)
        gone, stays = asyncio.create_task(collected.submit(2)), asyncio.create_task(collected.submit(3))
        await asyncio.sleep(0)
        gone.cancel()
        assert await first == 1
        assert await stays == 3

    asyncio.run(run())
    assert batches == [[1], [3]]


def test_only_requests_that_are_alike_travel_together_and_nobody_is_overtaken_by_their_like() -> None:
    batches: list[list[int]] = []

    async def run() -> list[int]:
        async def send(batch: list[int]) -> list[int]:
            batches.append(batch)
            return batch

        collected = Coalescer(
            send, max_batch=3, wait_s=0.0, in_flight=1, max_waiting=100, alike=lambda number: number % 2
        )
        return await asyncio.gather(*(collected.submit(n) for n in (1, 2, 3, 4, 5, 7, 6, 9)))

    assert asyncio.run(run()) == [1, 2, 3, 4, 5, 7, 6, 9]
    assert batches == [[1, 3], [2, 4, 6], [5, 7, 9]], "the first sets out once three wait"
