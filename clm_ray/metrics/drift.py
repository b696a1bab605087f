"""Drift: does a column look the same in two sets of rows? From counts per bin alone.

Shape letters: B bins in the order of the values, G groups of bins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMALL, LARGE = 0.1, 0.25
"""The usual reading of the index: below SMALL no drift to speak of, above LARGE another population. Siddiqi, Credit Risk
Scorecards, 2006."""


def stability_index(expected: ArrayLike, *, actual: ArrayLike) -> float:
    """Population stability index Σ (a - e) ln(a / e) over the shares e of `expected` and a of `actual` (counts [G]); NaN without rows.

    It is 0 for equal shares, the same in both directions, and unbounded. A group that one side lacks counts as half a row there. Siddiqi,
    Credit Risk Scorecards, 2006; the symmetric divergence of Jeffreys, Proceedings of the Royal Society A 1946.
    """
    expected_G, actual_G = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    some = (expected_G > 0) | (actual_G > 0)
    if not expected_G.sum() or not actual_G.sum():
        return float("nan")
    e = np.maximum(expected_G[some], 0.5) / expected_G.sum()
    a = np.maximum(actual_G[some], 0.5) / actual_G.sum()
    return float(((a - e) * np.log(a / e)).sum())


def index_by_chance(groups: int, *, expected: int, actual: int) -> float:
    """What the index is on average when nothing has drifted: (groups - 1) (1 / expected + 1 / actual) for independent rows.

    Yurdakul, Statistical Properties of Population Stability Index, 2018.
    """
    return (groups - 1) * (1 / expected + 1 / actual)


def equal_groups(expected: ArrayLike, *, groups: int = 10) -> NDArray[np.int64]:
    """int64 [B]: the group of each bin, rising from 0, so that groups hold about equal shares of `expected` (counts [B]).

    A bin is never divided: its group is that of the middle of its share. Where bins are few or large there are fewer groups.
    """
    count_B = np.asarray(expected, np.float64)
    middle_B = (np.cumsum(count_B) - count_B / 2) / max(count_B.sum(), 1.0)
    group_B = np.minimum((middle_B * groups).astype(np.int64), groups - 1)
    return np.unique(group_B, return_inverse=True)[1].astype(np.int64)
