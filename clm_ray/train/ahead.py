"""Make things ahead of their use, in a thread: while a step is computed, the batches of the next ones are made."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")
_LOOK_S = 0.1
"""How often a thread that waits for room looks whether it is still wanted."""


def ahead(made: Iterator[T], *, depth: int) -> Iterator[T]:
    """The same things in the same order, up to `depth` of them made before they are asked for; 0: none.

    What `made` raises is raised where the thing would have come. When the caller stops early, the thread ends after the thing it is at.
    """
    if depth < 1:
        yield from made
        return
    room: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=depth)
    unwanted = threading.Event()

    def put(what: str, thing: T | BaseException | None) -> None:
        while not unwanted.is_set():
            try:
                room.put((what, thing), timeout=_LOOK_S)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for thing in made:
                put("thing", thing)
                if unwanted.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            what, thing = room.get()
            if what == "end":
                return
            if what == "error":
                assert isinstance(thing, BaseException)
                raise thing
            yield thing  # type: ignore[misc]
    finally:
        unwanted.set()
        thread.join()
