"""How many users stand in each stage on each day, and who went where: a replay of the life cycle day by day.

A user's stage of a day is that of its first moment, 00:00 UTC, by the same `stages_at` that answers online. Before a user is known
(the first event of any kind, activity or not) the user is outside; who has left the log altogether, an erased user say, was
never in it. So the flows of a day account for every user:

    users in s today = users in s yesterday + those who came into s - those who went out of s

A user is replayed as moves from state to state, those to come included if nothing else happens: silence alone leads to a churn on a day that
is known. So moves do not depend on where the log ends, and its end decides only how many of them count.

Shape letters: N activities of one user, M moves, D days, S states: the stages in the order of STAGES, then OUTSIDE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.policy import STAGES
from clm_ray.lifecycle.stages import Thresholds, days_of_change, stages_at
from clm_ray.schema import DAY_US

OUTSIDE = len(STAGES)
"""The state of a user who is not known yet."""
STATES = OUTSIDE + 1


def moves_of(activity_time_N: NDArray[np.int64], *, known_from: int, thresholds: Thresholds) -> NDArray[np.int64]:
    """int64 [M], rising: (day · S + state) · S + another state on the day after, for each time a user changes; day: since 1970, UTC.

    `activity_time_N`: µs, sorted; `known_from`: µs, the user's first event of any kind. State of a day: activity strictly before it alone.
    The first move is out of OUTSIDE; after the last one the user stays for ever.
    """
    known, changing_D = known_from // DAY_US + 1, days_of_change(activity_time_N, thresholds=thresholds)
    day_D = np.r_[known, changing_D[changing_D > known]]
    after_D = stages_at(activity_time_N, day_D * DAY_US, thresholds=thresholds).astype(np.int64)
    before_D = np.r_[OUTSIDE, after_D[:-1]]
    changed_D = after_D != before_D
    return (((day_D - 1) * STATES + before_D) * STATES + after_D)[changed_D]


def first_moves(move_M: NDArray[np.int64], *, user_M: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the `moves_of` of users, one user after the other, and of the days on which they stayed in a state in between: each user's first of each
    pair of states. `user_M`: any number for each user."""
    day_M, pair_M = np.divmod(move_M, STATES**2)
    stay_M = ((day_M + 1) * STATES + pair_M % STATES) * STATES + pair_M % STATES
    stayed_M = np.r_[(user_M[1:] != user_M[:-1]) | (day_M[1:] > day_M[:-1] + 1), np.ones(len(move_M[:1]), bool)]
    every = np.concatenate([move_M, stay_M[stayed_M]])
    kind = np.concatenate([user_M, user_M[stayed_M]]) * STATES**2 + every % STATES**2
    order = np.lexsort((every, kind))
    return every[order[np.unique(kind[order], return_index=True)[1]]]


@dataclass(frozen=True)
class Flows:
    """count_DSS[d, a, b]: users in state a on day `first_day` + d and in state b on the day after."""

    first_day: int
    count_DSS: NDArray[np.int64]

    @staticmethod
    def of(moves_DSS: NDArray[np.int64], *, first_day: int) -> Flows:
        """moves_DSS: users who change from one state to another (`moves_of`); all of them are OUTSIDE at the start of the first day, and
        become known on one of the days."""
        came_DS, went_DS = moves_DSS.sum(1), moves_DSS.sum(2)
        size_DS = np.cumsum(came_DS - went_DS, axis=0) - (came_DS - went_DS)
        size_DS[:, OUTSIDE] += went_DS[:, OUTSIDE].sum()
        return Flows(first_day, moves_DSS + (size_DS - went_DS)[:, :, None] * np.eye(STATES, dtype=np.int64))

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
