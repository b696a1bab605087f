"""What travels between gateway, profiler, ranker and retention: always a batch, always with the release it belongs to.

A batch names its release because rows and vectors mean something within one release only: while a new release is rolled
out, a replica of either side opens the other's release rather than mixing them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.stages import Stage
from clm_ray.features.history import History
from clm_ray.messages import Profile, RetentionAction


@dataclass(frozen=True)
class ProfileAsk:
    """One user at one moment (µs). `recent`: events that only the caller knows."""

    user_id: str
    time: int
    recent: History


@dataclass(frozen=True)
class ProfileBatch:
    """To the profiler."""

    release: str
    asks: list[ProfileAsk]


@dataclass(frozen=True)
class RetentionFacts:
    """What a retention decision looks at. activity_N: int64 µs, sorted, all of the user's stored activity before `time`; amount_N: float32,
    spend of each, None where the log has no amounts. forecast: chance of being active until the outcome is due, for the record."""

    user_id: str
    time: int
    activity_N: NDArray[np.int64]
    amount_N: NDArray[np.float32] | None = None
    forecast: float | None = None


@dataclass(frozen=True)
class Profiled:
    """The profiler's answer. `states`: the user states, pickled; only the ranker opens them, so the gateway needs no torch."""

    profiles: list[Profile]
    facts: list[RetentionFacts]
    states: bytes


@dataclass(frozen=True)
class Wish:
    """What a request asks of the items: rows to choose from (None: any) and never to show, categories and flags. `said`: as the caller put it."""

    allow: NDArray[np.int32] | None = None
    deny: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    categories: tuple[str, ...] | None = None
    flags: tuple[str, ...] = ()
    without_categories: tuple[str, ...] = ()
    without_flags: tuple[str, ...] = ()
    without_chosen: bool = False
    diversity: float | None = None
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Nothing is asked that leaves items out."""
        return not self.said


ANYTHING = Wish()


@dataclass(frozen=True)
class RankBatch:
    """To the ranker. `rows`: per user the candidate rows, or None to retrieve them; `k`: items wanted; `forbidden`: per user the rows that may not
    be retrieved, empty where nobody has such; `wishes`: what else each asked, empty where nobody asked anything; `stages`: whose strategy shapes each
    slate, None for nobody's; empty where none does."""

    release: str
    states: bytes
    rows: list[NDArray[np.int32] | None]
    k: list[int]
    forbidden: list[NDArray[np.int32]] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    stages: list[Stage | None] = field(default_factory=list)


@dataclass(frozen=True)
class Ranked:
    """One slate, best first. row_K: int32, probability_K: float32."""

    row_K: NDArray[np.int32]
    probability_K: NDArray[np.float32]
    shaping: dict[str, Any] = field(default_factory=dict)
    """What beside the probabilities made the slate, for the log."""
    brought_K: NDArray[np.bool_] | None = None
    """Whether the item would not be there without the strategy of the user's stage; None where no strategy was asked."""


@dataclass(frozen=True)
class ExplainBatch:
    """To the profiler: the same asks again, each with the rows of its slate."""

    release: str
    asks: list[ProfileAsk]
    rows: list[NDArray[np.int32]]


@dataclass(frozen=True)
class Moved:
    """What one event did to an item's probability: with it less without it. `row`: of the event's item, 0 for none; time: µs."""

    event_type: str
    row: int
    time: int
    effect: float


@dataclass(frozen=True)
class Explained:
    """Of one user: per item of the slate its probability, and the events that moved it most, strongest first."""

    probability_K: NDArray[np.float64]
    moved: list[list[Moved]]


@dataclass(frozen=True)
class RetainBatch:
    """To retention."""

    release: str
    facts: list[RetentionFacts]


@dataclass(frozen=True)
class Hops:
    """How the gateway reaches the other parts: handles of deployments, or the plain objects themselves."""

    profile: Callable[[ProfileBatch], Awaitable[Profiled]]
    rank: Callable[[RankBatch], Awaitable[list[Ranked]]]
    retain: Callable[[RetainBatch], Awaitable[list[RetentionAction]]]
    loaded: dict[str, Callable[[], Awaitable[str]]]
    """Part → the release it has loaded."""
    explain: Callable[[ExplainBatch], Awaitable[list[Explained]]] | None = None
    """None: answers have no reasons."""
    encode: Callable[[], Awaitable[int]] | None = None
    """Has items encoded that wait for it; None: nobody does."""
