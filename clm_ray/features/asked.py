"""Questions about the histories of many users at once: the histories lie one after the other, and each question knows its place in them.

As-of rule: a question at time t sees the events of its own user strictly before t.

Shape letters: B users, N events of all of them, Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.history import EMPTY, History
from clm_ray.schema import DAY_US


@dataclass(frozen=True)
class Joined:
    """Histories of B users, one after the other. owner_N: whose event it is (0 ... B - 1); first_B: index of each user's first event."""

    history: History
    owner_N: NDArray[np.int64]
    first_B: NDArray[np.int64]
    low: int
    span: int
    key_N: NDArray[np.int64]
    """(owner, time) as one number that rises; time from `low`, less than `span`."""

    @staticmethod
    def of(histories: Sequence[History]) -> Joined:
        """Lay them one after the other. A single one is not copied."""
        one = histories[0] if len(histories) == 1 else _concatenated(histories)
        length_B = np.array([len(h) for h in histories], np.int64)
        low = int(one.time_N.min()) - 1 if len(one) else 0
        span = int(one.time_N.max(initial=low)) - low + 2
        assert len(histories) * span < 1 << 63, "too many histories over too long a time for one key"
        owner_N = np.repeat(np.arange(len(histories)), length_B)
        return Joined(one, owner_N, np.cumsum(length_B) - length_B, low, span, owner_N * span + (one.time_N - low))

    @property
    def users(self) -> int:
        """B."""
        return len(self.first_B)

    @property
    def first_N(self) -> NDArray[np.int64]:
        """Of each event, the index of its user's first event."""
        return self.first_B[self.owner_N]

    def index(self, owner_Q: NDArray[np.int64], time_Q: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the first event of that user at or after that time (µs), or of the end of the user's events."""
        return np.searchsorted(self.key_N, owner_Q * self.span + np.clip(time_Q - self.low, 0, self.span - 1))

    def sums(
        self,
        values_N: NDArray[np.float64],
        first_Q: NDArray[np.int64],
        begin_Q: NDArray[np.int64],
        end_Q: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Sum of the values of the events begin ≤ n < end, all of the user whose first event is `first_Q`. To the last bit that of the user alone:
        what a bucket gives must not depend on who else is in it."""
        return restarted(values_N, self.first_B).between(first_Q, begin_Q, end_Q)

    def before_N(self) -> NDArray[np.int64]:
        """Of each event, the index behind the events of its user strictly before it."""
        return np.searchsorted(self.key_N, self.key_N)


@dataclass(frozen=True)
class Restarted:
    """Running sums that begin anew with each user. until[n]: the sum of the user's values before n, where n is not the user's first."""

    until: NDArray[np.float64]

    def between(
        self, first_Q: NDArray[np.int64], begin_Q: NDArray[np.int64], end_Q: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Sums of first ≤ begin ≤ n < end."""
        low, high = self.until[begin_Q], self.until[end_Q]
        low[begin_Q <= first_Q] = 0.0
        high[end_Q <= first_Q] = 0.0
        return high - low


def restarted(values_N: NDArray[np.floating], first_B: NDArray[np.int64]) -> Restarted:
    """`first_B`: where each user's values begin, rising."""
    until = np.zeros(len(values_N) + 1)
    for start, stop in pairwise([*first_B.tolist(), len(values_N)]):
        np.cumsum(values_N[start:stop], out=until[start + 1 : stop + 1], dtype=np.float64)
    return Restarted(until)


@dataclass(frozen=True)
class Asked:
    """Q questions. first_Q: index of the first event of the question's user; before_Q: index behind those strictly before its time."""

    joined: Joined
    owner_Q: NDArray[np.int64]
    time_Q: NDArray[np.int64]
    first_Q: NDArray[np.int64]
    before_Q: NDArray[np.int64]

    @staticmethod
    def of(joined: Joined, owner_Q: NDArray[np.int64], time_Q: NDArray[np.int64]) -> Asked:
        """Find the places of these questions."""
        return Asked(joined, owner_Q, time_Q, joined.first_B[owner_Q], joined.index(owner_Q, time_Q))

    @staticmethod
    def one(history: History, time_Q: NDArray[np.int64]) -> Asked:
        """Questions about one user."""
        return Asked.of(Joined.of([history]), np.zeros(len(time_Q), np.int64), time_Q)

    @property
    def history(self) -> History:
        """The events of all users."""
        return self.joined.history

    def since(self, days: int) -> NDArray[np.int64]:
        """Index of the first event within the `days` days before each question (or later)."""
        return self.joined.index(self.owner_Q, self.time_Q - days * DAY_US)

    def sums(
        self, values_N: NDArray[np.float64], begin_Q: NDArray[np.int64], end_Q: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """See `Joined.sums`."""
        return self.joined.sums(values_N, self.first_Q, begin_Q, end_Q)

    def take(self, at_X: NDArray[np.int64]) -> Asked:
        """The questions at these places."""
        return Asked(self.joined, self.owner_Q[at_X], self.time_Q[at_X], self.first_Q[at_X], self.before_Q[at_X])


def _concatenated(histories: Sequence[History]) -> History:
    parts = (EMPTY, *histories)
    return History(
        np.concatenate([h.item_N for h in parts]),
        np.concatenate([h.event_N for h in parts]),
        np.concatenate([h.value_N for h in parts]),
        np.concatenate([h.time_N for h in parts]),
    )
