"""RFM: users by recency, frequency and monetary value, one to five points each, and the segments that are usual in marketing.

Points are cut at quintiles of the users that are scored, as of one moment (Hughes, Strategic Database Marketing, 1994): five is the most
recent, most frequent, highest spending fifth. Equal values share their points, so fifths may differ in size. Who has not been
active has none. Segments are read from the points of recency, and of frequency and money together, as the table below says.

Shape letters: U users, G groups of users with equal values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POINTS = 5
SEGMENTS = ("champions", "loyal", "promising", "new", "needs attention", "cannot lose", "hibernating", "lost")
# Rows: recency points 1 to 5; columns: the mean of frequency and money, rounded up, 1 to 5.
_TABLE = np.array(
    [
        [7, 7, 6, 5, 5],
        [6, 6, 4, 5, 5],
        [4, 4, 4, 1, 1],
        [2, 2, 2, 1, 0],
        [3, 2, 1, 0, 0],
    ],
    np.int8,
)


@dataclass(frozen=True)
class Cuts:
    """Upper ends of the first four fifths of each measure, rising: recency in days, frequency in active days, money in the log's unit."""

    recency: tuple[float, ...]
    frequency: tuple[float, ...]
    monetary: tuple[float, ...]


def cuts_of(
    recency_G: NDArray[np.float64],
    frequency_G: NDArray[np.float64],
    monetary_G: NDArray[np.float64],
    *,
    users_G: NDArray[np.int64],
) -> Cuts:
    """The quintiles of groups of `users_G` users each. Without any user every cut is 0."""
    return Cuts(*(_quintiles(values, users_G) for values in (recency_G, frequency_G, monetary_G)))


def _quintiles(value_G: NDArray[np.float64], users_G: NDArray[np.int64]) -> tuple[float, ...]:
    order = np.argsort(value_G, kind="stable")
    upto = np.cumsum(users_G[order])
    if not len(upto) or not upto[-1]:
        return (0.0,) * (POINTS - 1)
    # The value of the last user of each fifth.
    at = np.searchsorted(upto, upto[-1] * np.arange(1, POINTS) / POINTS)
    return tuple(float(value) for value in value_G[order][at])


def points(
    recency_U: NDArray[np.float64], frequency_U: NDArray[np.float64], monetary_U: NDArray[np.float64], *, cuts: Cuts
) -> NDArray[np.int8]:
    """int8 [U, 3]: points of recency, frequency, money, each from 1 to 5; few days since the last activity are many points."""
    old = np.searchsorted(np.array(cuts.recency), recency_U, side="left")
    often = np.searchsorted(np.array(cuts.frequency), frequency_U, side="left")
    much = np.searchsorted(np.array(cuts.monetary), monetary_U, side="left")
    return np.stack([POINTS - old, 1 + often, 1 + much], axis=1).astype(np.int8)


def segments(points_U3: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8 [U]: position in SEGMENTS."""
    recency = points_U3[:, 0].astype(np.int64) - 1
    worth = -(-(points_U3[:, 1].astype(np.int64) + points_U3[:, 2]) // 2) - 1
    return np.asarray(_TABLE[recency, worth])
