"""Counts that buckets add up: whole-number keys and how often each occurred. And the fixed bins that make such keys of measures.

The bins are the same for every log, so that counts of any number of buckets, in any order, add up to the same figures.

Shape letters: N rows or keys, U users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

GAPS_PER_DECADE = 4
GAP_EDGES_S = np.r_[0.0, 10.0 ** (np.arange(0, 9 * GAPS_PER_DECADE + 1) / GAPS_PER_DECADE)]
"""Edges of the bins of gaps, seconds: below a second, then four bins per factor of ten up to 30 years."""
_MANTISSA_BITS = 5
VALUE_BINS = 1 << (1 + 8 + _MANTISSA_BITS)
"""Bins of `value_bins`."""


@dataclass(frozen=True)
class Tally:
    """Distinct keys, rising, and the count of each."""

    key_N: Ints
    count_N: Ints

    @staticmethod
    def of(key: NDArray[np.integer]) -> Tally:
        """How often each key occurs."""
        keys, counts = np.unique(key.astype(np.int64), return_counts=True)
        return Tally(keys, counts.astype(np.int64))

    @staticmethod
    def of_users(user_N: Ints, key_N: Ints) -> Tally:
        """How many distinct users have each key (none negative)."""
        span = int(key_N.max(initial=0)) + 1
        return Tally.of(np.unique(user_N * span + key_N) % span)

    @staticmethod
    def total(tallies: Sequence[Tally]) -> Tally:
        """The sum, the same in any order."""
        keys, where = np.unique(np.concatenate([NOTHING.key_N, *(t.key_N for t in tallies)]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, where, np.concatenate([NOTHING.count_N, *(t.count_N for t in tallies)]))
        return Tally(keys, counts)

    def dense(self, *shape: int) -> Ints:
        """int64 [*shape]: the counts by key, where a key is a position in an array of `shape`. Raises IndexError for a key outside."""
        counts = np.zeros(shape, np.int64)
        counts.reshape(-1)[self.key_N] = self.count_N
        return counts


NOTHING = Tally(np.empty(0, np.int64), np.empty(0, np.int64))
"""No keys."""


def gap_bins(gap_us_N: Ints) -> Ints:
    """The bin of GAP_EDGES_S of each gap (µs); the last bin takes longer ones too."""
    found = np.searchsorted(GAP_EDGES_S, gap_us_N / 1e6, side="right") - 1
    return np.minimum(found, len(GAP_EDGES_S) - 2).astype(np.int64)


def length_bins(length_N: Ints) -> Ints:
    """0 for an empty sequence, else 1 + whole logarithm to base 2: bins 1, 2-3, 4-7, 8-15, ..."""
    return np.frexp(length_N.astype(np.float64))[1].astype(np.int64)


def length_edges(bins: int) -> Ints:
    """The least length of each of the first `bins` bins of `length_bins`, and of the one after them."""
    return np.r_[0, 2 ** np.arange(bins, dtype=np.int64)].astype(np.int64)


def value_bins(value_N: NDArray[np.float32]) -> Ints:
    """Bins of a feature in the order of its values, 0 ≤ bin < VALUE_BINS: 32 per factor of two, of either sign.

    The bin is what a float32 keeps (sign, exponent) with its mantissa cut to five bits: about three parts in a hundred apart.
    """
    # 0 + value: minus zero is zero.
    kept = (np.float32(0) + value_N.astype(np.float32)).view(np.uint32) >> np.uint32(23 - _MANTISSA_BITS)
    half = VALUE_BINS // 2
    size = (kept & np.uint32(half - 1)).astype(np.int64)
    return np.where(kept >= half, half - 1 - size, half + size)
