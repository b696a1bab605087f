"""Things made ahead of their use: the same ones in the same order, errors where they belong, and nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from clm_ray.train.ahead import ahead


def _threads() -> int:
    return sum(thread.name == "ahead" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_same_things_in_the_same_order(depth: int) -> None:
    assert list(ahead(iter(range(20)), depth=depth)) == list(range(20))
    assert list(ahead(iter(()), depth=depth)) == []
    assert _threads() == 0


def test_no_more_than_asked_for_is_made_ahead() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    given = ahead(numbers(), depth=2)
    assert next(given) == 0
    until = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)
    assert made == [0, 1, 2, 3], "one taken, two in the queue, one that waits for room"
    assert next(given) == 1
    given.close()
    assert _threads() == 0


def test_things_are_made_while_others_are_used() -> None:
    began = threading.Event()

    def two() -> Iterator[int]:
        yield 1
        began.set()
        yield 2

    given = ahead(two(), depth=1)
    next(given)
    assert began.wait(timeout=10), "without being asked"
    assert list(given) == [2]


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_comes_where_the_thing_would_have_come(depth: int) -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no third")

    got = []
    with pytest.raises(ValueError, match="no third"):
        got.extend(thing for thing in _collected(ahead(broken(), depth=depth), got))
    assert got == [1, 2]
    assert _threads() == 0


def _collected(things: Iterator[int], into: list[int]) -> Iterator[int]:
    for thing in things:
        into.append(thing)
    yield from ()
