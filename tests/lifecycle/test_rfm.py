"""Points and segments of RFM."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.lifecycle.rfm import SEGMENTS, cuts_of, points, segments

VALUES = st.lists(st.tuples(*(st.integers(0, 9) for _ in range(3))), min_size=1, max_size=60)


def scored(rows: list[tuple[int, int, int]]) -> np.ndarray:
    values = np.array(rows, np.float64)
    cuts = cuts_of(*values.T, users_G=np.ones(len(values), np.int64))
    return points(*values.T, cuts=cuts)


def test_fifths_of_different_users() -> None:
    found = scored([(n, n, n) for n in range(100)])
    assert [int((found[:, 1] == p).sum()) for p in range(1, 6)] == [20] * 5
    assert found[0].tolist() == [5, 1, 1]
    assert found[-1].tolist() == [1, 5, 5]


@given(VALUES)
def test_better_is_never_fewer_points(rows: list[tuple[int, int, int]]) -> None:
    found, values = scored(rows), np.array(rows)
    assert ((found >= 1) & (found <= 5)).all()
    for column, sign in ((0, -1), (1, 1), (2, 1)):
        order = np.argsort(values[:, column], kind="stable")
        assert (sign * np.diff(found[order, column].astype(int)) >= 0).all()


@given(VALUES)
def test_groups_of_users_have_the_cuts_of_their_users(rows: list[tuple[int, int, int]]) -> None:
    whole = np.array(rows, np.float64)
    distinct, users = np.unique(whole, axis=0, return_counts=True)
    assert cuts_of(*distinct.T, users_G=users) == cuts_of(*whole.T, users_G=np.ones(len(whole), np.int64))


def test_segments_by_hand() -> None:
    asked = np.array([[5, 5, 5], [5, 1, 1], [1, 5, 5], [1, 1, 1], [3, 2, 1], [3, 4, 5]], np.int8)
    assert [SEGMENTS[s] for s in segments(asked)] == [
        "champions",
        "new",
        "cannot lose",
        "lost",
        "needs attention",
        "loyal",
    ]
