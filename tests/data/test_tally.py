"""Counts that add up, and the bins they are made by."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.data.tally import GAP_EDGES_S, VALUE_BINS, Tally, gap_bins, length_bins, length_edges, value_bins

KEYS = st.lists(st.integers(0, 9), max_size=20)


@given(st.lists(KEYS, max_size=5), st.randoms())
def test_the_sum_of_the_parts_is_the_tally_of_the_whole(parts: list[list[int]], random: object) -> None:
    tallies = [Tally.of(np.array(part, np.int64)) for part in parts]
    random.shuffle(tallies)  # type: ignore[attr-defined]
    found = Tally.total(tallies)
    expected = Counter(key for part in parts for key in part)
    assert dict(zip(found.key_N.tolist(), found.count_N.tolist(), strict=True)) == expected
    assert found.dense(2, 5).tolist() == [[expected[r * 5 + c] for c in range(5)] for r in range(2)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_a_user_counts_once_for_each_key(rows: list[tuple[int, int]]) -> None:
    user, key = np.array(rows, np.int64).reshape(-1, 2).T
    found = Tally.of_users(user, key)
    assert dict(zip(found.key_N.tolist(), found.count_N.tolist(), strict=True)) == Counter(k for _, k in set(rows))


def test_gaps_from_nothing_to_years() -> None:
    seconds = np.array([0.0, 0.5, 1.0, 60.0, 86_400.0, 1e12])
    found = gap_bins((seconds * 1e6).astype(np.int64))
    assert found.tolist()[:3] == [0, 0, 1]
    assert found[-1] == len(GAP_EDGES_S) - 2
    for second, b in zip(seconds[:-1], found[:-1], strict=True):
        assert GAP_EDGES_S[b] <= second < GAP_EDGES_S[b + 1]


@given(st.integers(0, 10**6))
def test_lengths_lie_between_the_edges_of_their_bin(length: int) -> None:
    [b] = length_bins(np.array([length]))
    edges = length_edges(int(b) + 1)
    assert edges[b] <= length < edges[b + 1]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=20))
def test_values_keep_their_order_in_fixed_bins(values: list[float]) -> None:
    ordered = np.sort(np.array(values, np.float32))
    bins = value_bins(ordered)
    assert (np.diff(bins) >= 0).all()
    assert ((bins >= 0) & (bins < VALUE_BINS)).all()


def test_bins_tell_values_apart_by_a_few_hundredths() -> None:
    near, far, zeros = value_bins(np.float32([[1.0, 1.01], [1.0, 1.04], [0.0, -0.0]]))
    assert near[0] == near[1]
    assert far[0] < far[1]
    assert zeros[0] == zeros[1]


def test_a_key_outside_the_array_is_an_error() -> None:
    with pytest.raises(IndexError):
        Tally.of(np.array([7])).dense(7)
