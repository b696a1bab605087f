"""Stacking finds planted weights, and leaves logits alone where there is nothing to add."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clm_ray.model.stacking import ALONE, Stacking


def _drawn(own: float, other: float, *, offset: float = 0.0, rows: int = 40_000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    logit, rating = rng.normal(-0.5, 1.0, rows), rng.normal(3.5, 0.6, rows)
    z = own * logit + other * (rating - 3.5) + offset
    label = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(float)
    return {
        "logit_N": logit,
        "label_N": label,
        "rating_N": rating,
        "weight_N": np.ones(rows),
        "offset_N": np.full(rows, offset),
    }


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_finds_the_weights_behind_a_sampling_offset(offset: float) -> None:
    found = Stacking.fit(**_drawn(0.7, 0.9, offset=offset))
    assert (found.own, found.other, found.intercept) == pytest.approx((0.7, 0.9, -3.15), abs=0.12)
    assert found.rows == 40_000


def test_only_targets_with_an_expected_rating_count() -> None:
    drawn = _drawn(0.7, 0.9)
    drawn["rating_N"][::2] = np.nan
    half = {name: column[1::2] for name, column in drawn.items()}
    assert Stacking.fit(**drawn) == Stacking.fit(**half)
    assert Stacking.fit(**drawn).rows == 20_000


def test_a_logit_that_contradicts_has_no_say() -> None:
    found = Stacking.fit(**_drawn(-0.5, 0.9))
    assert found.own == 0.0
    assert found.other == pytest.approx(0.85, abs=0.1)


def test_what_does_not_help_or_contradicts_is_left_out() -> None:
    assert Stacking.fit(**_drawn(1.0, -0.8)) == ALONE
    drawn = _drawn(1.0, 0.8)
    assert Stacking.fit(**(drawn | {"rating_N": np.full(40_000, np.nan)})) == ALONE
    assert Stacking.fit(**(drawn | {"label_N": np.zeros(40_000)})) == ALONE


def test_logits_without_an_expected_rating_stay_as_they_are_and_have_their_gradient() -> None:
    stacking = Stacking(0.5, 2.0, -6.0, rows=10)
    logit = torch.tensor([0.4, -1.0, 3.0], requires_grad=True)
    rating = np.array([4.0, np.nan, 2.5], np.float32)
    found = stacking.apply(logit, rating)
    assert found.tolist() == pytest.approx([0.2 + 8.0 - 6.0, -1.0, 1.5 + 5.0 - 6.0])
    found.sum().backward()
    assert logit.grad is not None
    assert logit.grad.tolist() == [0.5, 1.0, 0.5]
    assert ALONE.apply(logit, rating) is logit
