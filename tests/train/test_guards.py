"""Losses that diverge, and validation figures that are too good."""

from __future__ import annotations

import math

from clm_ray.train.guards import LossWatch, leak_warnings


def _watched(*totals: float, explosion: float = 10.0) -> list[str | None]:
    watch = LossWatch()
    return [watch.problem([total, 0.0], total=total, explosion=explosion) for total in totals]


def test_a_loss_that_is_no_number_stops_at_once() -> None:
    for bad in (math.nan, math.inf):
        assert _watched(1.0, bad) == [None, "the loss is not finite"]


def test_a_loss_far_above_its_start_stops_and_one_bad_step_does_not() -> None:
    assert set(_watched(*[1.0] * 30, 60.0, *[1.0] * 30)) == {None}
    found = _watched(*[1.0] * 30, *[60.0] * 30)
    assert found[:33] == [None] * 33
    assert found[-1] == "the loss has exploded"
    assert set(_watched(*[1.0] * 30, *[60.0] * 30, explosion=100.0)) == {None}


def test_a_loss_that_falls_and_rises_again_is_no_explosion() -> None:
    assert set(_watched(*[1.0] * 10, *[1e-6] * 30, *[1.0] * 30)) == {None}


def test_a_loss_below_zero_is_no_explosion_and_one_that_rises_far_above_it_is() -> None:
    """The loss of a density has no bound below: that of the value head goes under 0 as it gets better."""
    assert set(_watched(*[-0.3] * 30)) == {None}
    assert set(_watched(*[0.2] * 5, *[-0.3] * 30, *[0.5] * 30)) == {None}
    assert set(_watched(*[-0.01] * 10, *[0.01] * 30)) == {None}, "near 0 the sign says nothing"
    found = _watched(*[-0.3] * 30, *[60.0] * 30)
    assert found[:30] == [None] * 30
    assert found[-1] == "the loss has exploded"


def test_only_an_auc_too_good_to_be_true_is_a_leak() -> None:
    metrics = {"click_auc": 0.999, "retention_auc": math.nan, "click_log_loss": 1.2}
    (warning,) = leak_warnings(metrics, leak_auc=0.995)
    assert "click_auc 0.9990" in warning
    assert "train.leak_auc=0.995" in warning
    assert leak_warnings({"click_auc": 0.99}, leak_auc=0.995) == []
