"""How long users stay, and what a log that ends can say about it.

A life runs from the day of a user's first activity to that of the last one, days of UTC. The log has to show that the last one was the
last: a user who has been silent for `churned_days` up to the log's last day has ended (as in `stages`, where that user is churned),
and the life is the days from the first to the last activity. Everybody else is alive as far as anyone can say.

Censoring: an end can only be seen up to `churned_days` before the log's last day, so everybody is looked at up to that day, the cut. Who
is not known to have ended is censored there, with the days from the first activity to the cut. It is the calendar that
censors, the same day for all and whatever they did, as Kaplan-Meier needs it (Kalbfleisch and Prentice, The Statistical
Analysis of Failure Time Data, 2002, section 1.3). Censoring at the last activity instead would let users count as survivors of days on
which their end could not have been seen. Users whose first activity is later than the cut are left out: nothing is known of them yet.

A user who is silent for `churned_days` and then comes back within the log has lived on. One who comes back after the log's end
counts as ended: the threshold's error, not the curve's.

Shape letters: N kinds of users (equal life and silence), D days.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lives:
    """By day_D (length of life, days): users who ended, users censored. too_new: users left out."""

    day_D: NDArray[np.int64]
    ended_D: NDArray[np.int64]
    censored_D: NDArray[np.int64]
    too_new: int


def lives_by_day(
    life_N: NDArray[np.int64], silence_N: NDArray[np.int64], users_N: NDArray[np.int64], *, churned_days: float
) -> Lives:
    """Count lives by their length.

    `life_N`: days from the first to the last activity; `silence_N`: days from the last activity to the log's last day; `users_N`: how many
    users have both. See the head of this file for who has ended and who is censored when.
    """
    reach = math.ceil(churned_days)
    ended_N = silence_N >= reach
    seen_N = np.where(ended_N, life_N, life_N + silence_N - reach)
    known_N = seen_N >= 0
    day_D, where = np.unique(seen_N[known_N], return_inverse=True)
    users, ended = users_N[known_N], ended_N[known_N]
    sums = np.zeros((2, len(day_D)), np.int64)
    np.add.at(sums, (np.where(ended, 0, 1), where), users)
    return Lives(day_D.astype(np.int64), sums[0], sums[1], int(users_N[~known_N].sum()))
