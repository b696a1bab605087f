"""How many users stand in each stage on each day, and who went where: a replay of the life cycle day by day.

A user's stage of a day is that of its first moment, 00:00 UTC, by the same `stages_at` that answers online. Before a user is known
(the first event of any kind, activity or not) the user is outside; who has left the log altogether, an erased user say, was
never in it. So the flows of a day account for every user:

    users in s today = users in s yesterday + those who came into s - those who went out of s

Shape letters: N activities of one user, D days, S states: the stages in the order of STAGES, then OUTSIDE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.policy import STAGES
from clm_ray.lifecycle.stages import Thresholds, stages_at
from clm_ray.schema import DAY_US

OUTSIDE = len(STAGES)
"""The state of a user who is not known yet."""
STATES = OUTSIDE + 1


def daily_states(
    activity_time_N: NDArray[np.int64], *, known_from: int, first_day: int, days: int, thresholds: Thresholds
) -> NDArray[np.int8]:
    """int8 [D]: a user's state at 00:00 UTC of `days` days from `first_day` (days since 1970) on.

    `activity_time_N`: µs, sorted; `known_from`: µs, the user's first event of any kind. State of a day: activity strictly before it alone.
    """
    midnight_D = (first_day + np.arange(days, dtype=np.int64)) * DAY_US
    state_D = stages_at(activity_time_N, midnight_D, thresholds=thresholds)
    state_D[midnight_D <= known_from] = OUTSIDE
    return state_D


def transition_keys(state_D: NDArray[np.int8]) -> NDArray[np.int64]:
    """int64 [D - 1]: (d · S + state of day d) · S + state of day d + 1, to be counted over users; `Flows.of` reads the counts."""
    now_D = state_D.astype(np.int64)
    return (np.arange(len(now_D) - 1) * STATES + now_D[:-1]) * STATES + now_D[1:]


@dataclass(frozen=True)
class Flows:
    """count_DSS[d, a, b]: users in state a on day `first_day` + d and in state b on the day after."""

    first_day: int
    count_DSS: NDArray[np.int64]

    @staticmethod
    def of(count: NDArray[np.int64], *, first_day: int) -> Flows:
        """From the counts by `transition_keys`, of any users together, as a flat array."""
        return Flows(first_day, count.reshape(-1, STATES, STATES))

    def sizes(self) -> NDArray[np.int64]:
        """int64 [D + 1, S]: users in each state at the start of each day."""
        if not len(self.count_DSS):
            return np.zeros((0, STATES), np.int64)
        return np.concatenate([self.count_DSS.sum(2), self.count_DSS[-1:].sum(1)])

    def came(self) -> NDArray[np.int64]:
        """int64 [D, S]: users who came into each state between two days."""
        return self.count_DSS.sum(1) - self._stayed()

    def went(self) -> NDArray[np.int64]:
        """int64 [D, S]: users who went out of each state between two days."""
        return self.count_DSS.sum(2) - self._stayed()

    def matrix(self) -> NDArray[np.float64]:
        """float64 [S, S]: the share of the users in a (row) who are in b on the next day, over all days; NaN for a row without users."""
        total_SS = self.count_DSS.sum(0).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return np.asarray(total_SS / total_SS.sum(1, keepdims=True))

    def _stayed(self) -> NDArray[np.int64]:
        return np.diagonal(self.count_DSS, axis1=1, axis2=2)
