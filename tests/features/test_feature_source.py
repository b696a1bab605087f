"""One source of features, offline and online: many questions about a whole history, or one about what the endpoint keeps."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import ITEMS, Row, history_of, moments, ordered, recipe, rows, source_of

from clm_ray.schema import DAY_US

REACH = 7
CAPPED = recipe(features={"windows_days": [3, 14], "max_history": REACH})


@settings(max_examples=60)
@given(rows(moments(0, 20 * 24)), st.lists(moments(0, 22 * 24), min_size=1, max_size=6))
def test_a_question_asked_in_bulk_or_alone_has_the_same_features(log: list[Row], times: list[int]) -> None:
    log = [row._replace(user="u1") for row in log]
    history, source = history_of(log), source_of(log, CAPPED)
    item_Q = np.arange(len(times), dtype=np.int32) % len(ITEMS)
    click = source.click(history, item_Q, np.array(times))
    retention = source.retention(history, np.array(times))
    for q, time in enumerate(times):
        # What serving looks at: the events of the day, and before that day no more of them than the recipe says.
        earlier = [row for row in log if row.time < time // DAY_US * DAY_US]
        today = [row for row in log if time // DAY_US * DAY_US <= row.time < time]
        kept, moment = history_of([*ordered(earlier)[-REACH:], *today]), np.array([time])
        np.testing.assert_allclose(click[q], source.click(kept, item_Q[q : q + 1], moment)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(retention[q], source.retention(kept, moment)[0], rtol=1e-5, atol=1e-6)


def test_no_question_gives_no_rows() -> None:
    source, history = source_of([]), history_of([Row("u1", 5, "login", 0)])
    assert len(source.click(history, np.empty(0, np.int32), np.empty(0, np.int64))) == 0
    assert len(source.retention(history, np.empty(0, np.int64))) == 0
