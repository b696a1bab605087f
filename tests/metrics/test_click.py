"""Click metrics against scikit-learn, and the invariances they must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from clm_ray.metrics import click

Rows = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Labels of both classes, coarse probabilities (so that there are ties) and positive weights."""
    size = draw(st.integers(2, 40))
    label = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    label[0], label[-1] = 0, 1
    score = draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))
    weight = draw(st.lists(st.integers(1, 5), min_size=size, max_size=size))
    return np.array(label, float), np.array(score) / 8, np.array(weight, float)


@given(rows())
def test_agrees_with_scikit_learn(given_rows: Rows) -> None:
    label, p, weight = given_rows
    assert click.auc(label, score=p, weight=weight) == pytest.approx(
        reference.roc_auc_score(label, p, sample_weight=weight)
    )
    assert click.average_precision(label, score=p, weight=weight) == pytest.approx(
        reference.average_precision_score(label, p, sample_weight=weight)
    )
    assert click.brier(label, probability=p, weight=weight) == pytest.approx(
        reference.brier_score_loss(label, p, sample_weight=weight)
    )
    inside = np.clip(p, 1e-3, 1 - 1e-3)
    assert click.log_loss(label, probability=inside, weight=weight) == pytest.approx(
        reference.log_loss(label, inside, sample_weight=weight)
    )


@given(rows(), st.sampled_from([0.125, 0.5, 0.75]))
def test_decisions_agree_with_scikit_learn(given_rows: Rows, threshold: float) -> None:
    label, p, weight = given_rows
    called = p >= threshold
    ours = click.decisions(label, probability=p, threshold=threshold, weight=weight)
    assert ours.accuracy == pytest.approx(reference.accuracy_score(label, called, sample_weight=weight))
    assert ours.recall == pytest.approx(reference.recall_score(label, called, sample_weight=weight))
    assert ours.f1 == pytest.approx(reference.f1_score(label, called, sample_weight=weight, zero_division=0))
    if called.any():
        assert ours.precision == pytest.approx(reference.precision_score(label, called, sample_weight=weight))
    else:
        assert math.isnan(ours.precision)


@given(rows())
def test_auc_depends_on_the_order_alone(given_rows: Rows) -> None:
    label, score, weight = given_rows
    value = click.auc(label, score=score, weight=weight)
    assert click.auc(label, score=np.exp(3 * score), weight=weight) == pytest.approx(value)
    assert click.auc(label, score=-score, weight=weight) == pytest.approx(1 - value)
    assert click.auc(1 - label, score=score, weight=weight) == pytest.approx(1 - value)


@given(rows(), st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_rows(given_rows: Rows, random: st.DataObject) -> None:
    label, p, weight = given_rows
    shuffled = list(range(len(label)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for metric in (click.auc, click.average_precision):
        assert metric(label[shuffled], score=p[shuffled], weight=weight[shuffled]) == pytest.approx(
            metric(label, score=p, weight=weight)
        )


@given(rows())
def test_a_weight_counts_like_repeated_rows(given_rows: Rows) -> None:
    label, p, weight = given_rows
    times = weight.astype(int)
    again = tuple(np.repeat(x, times) for x in (label, p))
    assert click.auc(label, score=p, weight=weight) == pytest.approx(click.auc(again[0], score=again[1]))
    assert click.average_precision(label, score=p, weight=weight) == pytest.approx(
        click.average_precision(again[0], score=again[1])
    )
    assert click.log_loss(label, probability=p, weight=weight) == pytest.approx(
        click.log_loss(again[0], probability=again[1])
    )


@settings(max_examples=50)
@given(rows(), st.integers(1, 5))
def test_gauc_is_the_weighted_mean_of_each_users_auc(given_rows: Rows, users: int) -> None:
    label, p, weight = given_rows
    user = np.arange(len(label)) % users
    total, mass, counted = 0.0, 0.0, 0
    for name in range(users):
        mine = user == name
        if len(set(label[mine])) == 2:
            total += weight[mine].sum() * reference.roc_auc_score(label[mine], p[mine], sample_weight=weight[mine])
            mass, counted = mass + weight[mine].sum(), counted + 1
    ours = click.gauc(label, score=p, user=user, weight=weight)
    assert (ours.users, ours.all_users) == (counted, len(set(user)))
    assert ours.value == pytest.approx(total / mass) if counted else math.isnan(ours.value)


def test_gauc_ignores_what_differs_between_users_only() -> None:
    label = np.array([0, 1, 0, 1.0])
    score = np.array([0.8, 0.9, 0.1, 0.2])  # user 0 scored high throughout
    user = np.array(["a", "a", "b", "b"])
    assert click.auc(label, score=score) == 0.75
    assert click.gauc(label, score=score, user=user).value == 1.0


def test_undefined_metrics_are_nan() -> None:
    one, p = np.ones(3), np.array([0.1, 0.5, 0.9])
    assert math.isnan(click.auc(one, score=p))
    assert math.isnan(click.auc([], score=[]))
    assert math.isnan(click.average_precision(np.zeros(3), score=p))
    assert math.isnan(click.gauc(one, score=p, user=[1, 2, 3]).value)
    assert math.isnan(click.log_loss([], probability=[]))
    assert math.isnan(click.mean([1.0], weight=[0.0]))
    assert math.isnan(click.decisions(np.zeros(3), probability=p).recall)


def test_log_loss_is_finite_for_a_certain_mistake() -> None:
    assert click.log_loss([1.0], probability=[0.0]) == pytest.approx(-math.log(click.LEAST_PROBABILITY))


@given(rows())
def test_area_under_the_roc_curve_is_the_auc(given_rows: Rows) -> None:
    label, p, weight = given_rows
    false, true = click.roc(label, score=p, weight=weight)
    assert np.trapezoid(true, false) == pytest.approx(click.auc(label, score=p, weight=weight))
