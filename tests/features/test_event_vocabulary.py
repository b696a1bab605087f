"""What event types mean: labels, context, activity, spend."""

from __future__ import annotations

import numpy as np
from made_logs import START, VOCABULARY, Row, history_of

LOG = [
    Row("u", START, "purchase", 1, 2.5),
    Row("u", START, "purchase", 0, 3.0),
    Row("u", START, "rating", 1, 4.0),
    Row("u", START, "rating", 1, 3.5),
    Row("u", START, "rating", 1, None),
    Row("u", START, "skip", 2, 7.0),
    Row("u", START, "mail", 2, None),
    Row("u", START, "login", 0, None),
    Row("u", START, "impression", 1, None),
]
HISTORY = history_of(row._replace(number=n) for n, row in enumerate(LOG))


def test_labels_come_from_roles_or_from_the_rating_and_need_an_item() -> None:
    nan = np.nan
    np.testing.assert_array_equal(VOCABULARY.labels(HISTORY), [1, nan, 1, 0, nan, 0, nan, nan, nan])


def test_roles_say_what_is_context_and_what_is_activity() -> None:
    assert VOCABULARY.is_context(HISTORY).tolist() == [True] * 7 + [False, False]
    assert VOCABULARY.is_activity(HISTORY).tolist() == [True] * 5 + [False, False, True, False]


def test_only_amounts_are_spend() -> None:
    assert VOCABULARY.amounts(HISTORY).tolist() == [2.5, 3.0, 0, 0, 0, 0, 0, 0, 0]


def test_a_stray_value_of_a_type_that_carries_none_is_no_number() -> None:
    assert VOCABULARY.numbers(HISTORY).tolist() == [2.5, 3.0, 4.0, 3.5, 0, 0, 0, 0, 0]


def test_codes_are_positions_in_the_recipe() -> None:
    assert [VOCABULARY.index[name] for name in VOCABULARY.names] == list(range(6))
    assert VOCABULARY.names[2] == "skip"
    assert VOCABULARY.weights.tolist() == [1, 2, 0.5, 1, 1, 1]
    assert VOCABULARY.rated
