"""What time it is for the endpoint: real time, or time that went on from the end of an old log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clm_ray.errors import StoreError

if TYPE_CHECKING:
    from clm_ray.store.store import Store


def wall_us() -> int:
    """Real time, UTC µs."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Clock:
    """`kind` as the recipe's serve.clock; now = wall + offset. `wall` is passed in by tests."""

    kind: Literal["wall", "log_end"]
    offset_us: int = 0
    wall: Callable[[], int] = wall_us

    def now_us(self) -> int:
        """Now, UTC µs."""
        return self.wall() + self.offset_us


def open_clock(store: Store, *, kind: Literal["wall", "log_end"], wall: Callable[[], int] = wall_us) -> Clock:
    """The clock of a store. Raises StoreError for `log_end` when no dataset was loaded yet."""
    if kind == "wall":
        return Clock(kind=kind, wall=wall)
    offset = store.clock_offset()
    if offset is None:
        raise StoreError(
            "the store does not know when the log ended",
            field="serve.clock",
            value=kind,
            fix="run jobs/publish.py first",
        )
    return Clock(kind=kind, offset_us=offset, wall=wall)
