"""Distributions, draws and the holdout: probabilities that are kept, and kept to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clm_ray.config.policy import NO_ACTION
from clm_ray.policy.distribution import distribution, draw, hashed_uniform, in_holdout, with_uniform_slice

NAMES = ("none", "a", "b", "c", "d", "e", "f")
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1e6))
LEFT = st.lists(st.sampled_from(NAMES[1:]), unique=True).map(lambda names: (NO_ACTION, *names))


@given(WEIGHTS, LEFT, st.floats(0, 0.2), st.floats(0, 1))
def test_sums_to_one_keeps_the_floor_and_nothing_else(
    weights: dict[str, float], left: tuple[str, ...], floor: float, share: float
) -> None:
    for p in (
        distribution(weights, left, floor=floor),
        with_uniform_slice(distribution(weights, left, floor=floor), share=share),
    ):
        assert tuple(p) == left
        assert sum(p.values()) == pytest.approx(1, abs=1e-12)
        assert min(p.values()) >= min(floor, 1 / len(left)) - 1e-12


def test_weights_decide_above_the_floor() -> None:
    p = distribution({"none": 1, "a": 3, "gone": 9}, ("none", "a", "b"), floor=0.1)
    assert p == pytest.approx({"none": 0.1 + 0.7 / 4, "a": 0.1 + 0.7 * 3 / 4, "b": 0.1})
    assert with_uniform_slice(p, share=0.3)["b"] == pytest.approx(0.7 * 0.1 + 0.1)


def test_without_weights_nothing_is_done() -> None:
    assert distribution({"gone": 1.0}, ("none", "a"), floor=0) == {"none": 1, "a": 0}


def test_draws_match_their_probabilities() -> None:
    p = {"none": 0.5, "a": 0.02, "never": 0.0, "b": 0.28, "c": 0.2}
    users, counts = 20_000, dict.fromkeys(p, 0)
    for user in range(users):
        counts[draw(p, salt="test", user_id=f"user-{user}", epoch=7)] += 1
    assert counts.pop("never") == 0
    expected = [p[name] * users for name in counts]
    assert stats.chisquare(list(counts.values()), expected).pvalue > 0.001


def test_draws_of_successive_epochs_are_independent() -> None:
    p = {"none": 0.5, "a": 0.5}
    drawn = [[draw(p, salt="test", user_id=f"user-{user}", epoch=epoch) for epoch in (1, 2)] for user in range(4_000)]
    table = [[sum(pair == [x, y] for pair in drawn) for y in p] for x in p]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_draw_is_repeatable_and_depends_on_each_part() -> None:
    p = {f"a{i}": 1 / 1000 for i in range(1000)}
    first = draw(p, salt="s", user_id="u", epoch=1)
    assert draw(p, salt="s", user_id="u", epoch=1) == first
    others = [draw(p, salt="t", user_id="u", epoch=1), draw(p, salt="s", user_id="v", epoch=1)]
    assert first not in [*others, draw(p, salt="s", user_id="u", epoch=2)]


def test_the_hash_is_pinned() -> None:
    """A change here would redraw every running decision and move every holdout."""
    assert hashed_uniform("holdout", "holdout-1", "user-1") == pytest.approx(0.3353634355330303, abs=1e-15)
    assert hashed_uniform("draw", "clm", "user-1", "2800") == pytest.approx(0.31322687617713774, abs=1e-15)
    assert hashed_uniform("ab", "c") != hashed_uniform("a", "bc")


def test_holdout_share_and_nesting() -> None:
    users = [f"user-{i}" for i in range(20_000)]
    small = {u for u in users if in_holdout(u, experiment="e", share=0.05)}
    large = {u for u in users if in_holdout(u, experiment="e", share=0.10)}
    other = {u for u in users if in_holdout(u, experiment="f", share=0.05)}
    assert stats.binomtest(len(small), len(users), 0.05).pvalue > 0.001
    assert small < large
    assert len(small & other) < 0.2 * len(small)
    assert not any(in_holdout(u, experiment="e", share=0.0) for u in users)
    assert all(in_holdout(u, experiment="e", share=1.0) for u in users)
