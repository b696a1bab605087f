"""Matrix factorisation finds planted tastes, says nothing of what it has not seen, and can be written and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clm_ray.config.model import FactorsConfig
from clm_ray.model import factors as module
from clm_ray.model.factors import Factors, Ratings, factorise

USERS, ITEMS, NOISE = 120, 80, 0.3
CONFIG = FactorsConfig(width=4, samples=10, burn_in=10, thin=1)


def _planted(*, share: float = 0.4, seed: int = 0) -> tuple[Ratings, np.ndarray]:
    """(ratings of a share of all pairs, what is behind them [U, I]): biases and two tastes around 3; item 0 has no rating."""
    rng = np.random.default_rng(seed)
    truth = 3.0 + rng.normal(0, 0.5, (USERS, 1)) + rng.normal(0, 0.5, ITEMS)
    truth += rng.normal(0, 0.7, (USERS, 2)) @ rng.normal(0, 0.7, (ITEMS, 2)).T
    given = rng.random((USERS, ITEMS)) < share
    given[:, 0] = False
    user_N, item_N = np.nonzero(given)
    rating_N = truth[user_N, item_N] + rng.normal(0, NOISE, len(user_N))
    return Ratings(USERS, ITEMS, user_N, item_N, rating_N), truth


def _rated_by(ratings: Ratings, user: int) -> tuple[np.ndarray, np.ndarray]:
    own = ratings.user_N == user
    return ratings.item_N[own].astype(np.int32), ratings.rating_N[own].astype(np.float32)


def _error(found: Factors, ratings: Ratings, truth: np.ndarray) -> float:
    """Root mean squared error on the pairs of rated items that `ratings` does not have."""
    items = np.arange(1, ITEMS, dtype=np.int32)
    said = np.stack([found.expected(found.taste(*_rated_by(ratings, user)), items) for user in range(ratings.users)])
    hidden = np.ones(truth.shape, bool)
    hidden[ratings.user_N, ratings.item_N] = False
    return float(np.sqrt(np.square(said - truth[:, 1:])[hidden[:, 1:]].mean()))


def test_finds_tastes_in_ratings_that_it_has_not_seen() -> None:
    ratings, truth = _planted()
    assert _error(factorise(ratings, CONFIG, seed=0), ratings, truth) < 0.25
    # Biases and one sample of one taste leave most of what the second one says, about .7 · .7.
    assert _error(factorise(ratings, FactorsConfig(width=1, samples=1, burn_in=0), seed=0), ratings, truth) > 0.4


def test_a_user_who_was_not_there_in_training_has_a_taste_too() -> None:
    ratings, truth = _planted()
    early = ratings.user_N < USERS // 2
    known = Ratings(
        USERS // 2, ITEMS, *(column[early] for column in (ratings.user_N, ratings.item_N, ratings.rating_N))
    )
    newer = Ratings(
        USERS // 2, ITEMS, ratings.user_N[~early] - USERS // 2, ratings.item_N[~early], ratings.rating_N[~early]
    )
    found = factorise(known, CONFIG, seed=0)
    assert _error(found, newer, truth[USERS // 2 :]) < 0.3


def test_more_ratings_say_more() -> None:
    ratings, truth = _planted()
    found = factorise(ratings, CONFIG, seed=0)
    item_N, rating_N = _rated_by(ratings, 5)
    items = np.setdiff1d(np.arange(1, ITEMS), item_N).astype(np.int32)
    errors = [
        float(np.square(found.expected(found.taste(item_N[:count], rating_N[:count]), items) - truth[5, items]).mean())
        for count in (1, 6, len(item_N))
    ]
    assert errors[0] > errors[1] > errors[2]


def test_what_was_never_rated_and_who_never_rated_have_no_expectation() -> None:
    found = factorise(_planted()[0], CONFIG, seed=0)
    unknown = np.array([0, ITEMS, ITEMS + 5], np.int32)
    rating = np.array([4.0, 2.0, 5.0], np.float32)
    assert found.taste(unknown, rating) is None
    assert found.taste(np.array([3], np.int32), np.array([np.nan], np.float32)) is None
    assert found.taste(np.empty(0, np.int32), np.empty(0, np.float32)) is None
    assert np.isnan(found.expected(None, np.arange(3, dtype=np.int32))).all()
    three = np.array([3], np.int32)
    taste = found.taste(three, rating[:1])
    assert np.array_equal(found.taste(np.append(unknown, three), np.append(rating, rating[:1])), taste)
    beyond = np.array([0, 1, ITEMS, ITEMS + 5], np.int32)
    assert np.isnan(found.expected(taste, beyond)).tolist() == [True, False, True, True]


def _of(ratings: Ratings, rating_N: np.ndarray) -> Ratings:
    return Ratings(USERS, ITEMS, ratings.user_N, ratings.item_N, rating_N)


def test_the_units_are_those_of_the_ratings() -> None:
    ratings, _ = _planted()
    changed = _of(ratings, 20.0 * ratings.rating_N - 7.0)
    items = np.arange(1, ITEMS, dtype=np.int32)
    one, other = (
        found.expected(found.taste(*_rated_by(given, 5)), items)
        for given in (ratings, changed)
        for found in [factorise(given, CONFIG, seed=0)]
    )
    assert other == pytest.approx(20.0 * one - 7.0, abs=1e-2)


def test_ratings_that_are_all_alike_are_expected_of_everything() -> None:
    ratings, _ = _planted()
    same = _of(ratings, np.full(len(ratings.rating_N), 4.0))
    found = factorise(same, CONFIG, seed=0)
    said = found.expected(found.taste(*_rated_by(same, 1)), np.array([1, 7], np.int32))
    assert said == pytest.approx([4.0, 4.0], abs=0.1)


def test_how_many_ratings_are_taken_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    ratings, _ = _planted()
    brief = FactorsConfig(width=4, samples=3, burn_in=2)
    whole = factorise(ratings, brief, seed=3)
    monkeypatch.setattr(module, "_RATINGS_AT_ONCE", 17)  # fewer than most users and items have
    cut = factorise(ratings, brief, seed=3)
    assert cut.mean_SL == pytest.approx(whole.mean_SL, abs=1e-6)
    assert cut.item_IF[1:] == pytest.approx(whole.item_IF[1:], abs=1e-4)


def test_the_seed_fixes_the_draws() -> None:
    ratings, _ = _planted()
    brief = FactorsConfig(width=2, samples=2, burn_in=1)
    one, same, other = (factorise(ratings, brief, seed=seed).item_IF[1:] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)


def test_written_and_read(tmp_path: Path) -> None:
    assert Factors.open(tmp_path) is None
    ratings, _ = _planted()
    found = factorise(ratings, FactorsConfig(width=2, samples=2, burn_in=1), seed=0)
    found.save(tmp_path)
    read = Factors.open(tmp_path)
    assert read is not None
    items = np.arange(ITEMS, dtype=np.int32)
    for user in (0, 7):
        one, other = (factors.expected(factors.taste(*_rated_by(ratings, user)), items) for factors in (found, read))
        assert np.array_equal(one, other, equal_nan=True)
    assert {path.name for path in tmp_path.iterdir()} == {module.PRIOR, module.ITEMS}
