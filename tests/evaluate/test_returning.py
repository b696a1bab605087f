"""Who comes back, by stage and group, and the lead over the baselines: the figures of the rows they are said to be of."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest

from clm_ray.evaluate.boosting import MISSING, fit_boosted
from clm_ray.evaluate.outputs import SPENDS
from clm_ray.evaluate.return_sections import return_sections, spend_section
from clm_ray.evaluate.returning import return_report
from clm_ray.evaluate.spending import fit_spend, spend_report
from clm_ray.metrics import calibration, click

USERS, TIMES = 60, 8


def _predictions(seed: int = 0) -> pa.Table:
    """The model knows the chance; recency says nothing; boosting is too sure. Stages and towns go by user."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1.5, USERS * TIMES)
    chance = 1 / (1 + np.exp(-logit))
    user = np.repeat(np.arange(USERS), TIMES)
    return pa.table(
        {
            "user": [f"u{n}" for n in user],
            "stage": np.where(user % 3 == 0, "at_risk", "established").tolist(),
            "horizon_days": pa.array(np.full(len(user), 28), pa.int32()),
            "outcome": pa.array((rng.random(len(user)) < chance).astype(np.float32)),
            "censored": [False] * len(user),
            "probability": pa.array(chance.astype(np.float32)),
            "recency": pa.array(rng.random(len(user)).astype(np.float32)),
            "boosting": pa.array((1 / (1 + np.exp(-3 * logit))).astype(np.float32)),
        }
    )


def test_every_stage_and_group_has_the_figures_of_its_own_rows() -> None:
    table = _predictions()
    town = {f"u{n}": "north" if n < 20 else "south" for n in range(USERS - 1)}
    found = return_report(table, bins=5, groups={"town": town})[28]
    assert [one.name for one in found.slices] == [
        "stage established",
        "stage at_risk",
        "town north",
        "town south",
        "town unknown",
    ]
    outcome, p = (table.column(name).to_numpy().astype(float) for name in ("outcome", "probability"))
    user = np.repeat(np.arange(USERS), TIMES)
    for one, mask in zip(found.slices, (user % 3 != 0, user % 3 == 0, user < 20), strict=False):
        assert (one.rows, one.users) == (mask.sum(), mask.sum() // TIMES)
        mine = one.methods["model"]
        assert mine.auc == pytest.approx(click.auc(outcome[mask], score=p[mask]))
        assert mine.average_precision == pytest.approx(click.average_precision(outcome[mask], score=p[mask]))
        assert mine.slope == pytest.approx(calibration.recalibration(outcome[mask], probability=p[mask]).slope)
        assert set(one.methods) == {"model", "recency", "boosting"}


def test_small_groups_are_left_out() -> None:
    town = {"u1": "here"}
    found = return_report(_predictions(), bins=5, groups={"town": town}, min_group=2)[28]
    assert [one.name for one in found.slices] == ["stage established", "stage at_risk", "town unknown"]


def test_the_slope_tells_who_is_too_sure_and_the_lead_has_an_interval() -> None:
    found = return_report(_predictions(), bins=5)[28]
    assert found.methods["boosting"].slope == pytest.approx(found.methods["model"].slope / 3, rel=0.01)
    assert found.lead["recency"].auc.low > 0.1
    assert found.lead["recency"].auc.low < found.lead["recency"].auc.estimate < found.lead["recency"].auc.high
    assert found.lead["boosting"].auc.estimate == pytest.approx(0.0, abs=1e-6)
    assert found.lead["boosting"].brier.high < 0


def _references(rows: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Only an interaction says who comes back, which no line can learn."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, 6))
    late = rng.random(rows) < np.where(x[:, 0] * x[:, 1] > 0, 0.9, 0.1)
    return x, np.where(late, 2, 0).astype(np.int32), np.full(rows, 2, np.int32)


def test_trees_learn_what_no_line_can_and_never_fall_with_the_days() -> None:
    pytest.importorskip("lightgbm")
    x, bins, seen = _references()
    fitted = fit_boosted(x[:3000], bin_R=bins[:3000], seen_R=seen[:3000], bins=2)
    assert fitted is not None
    within = fitted.active_within(x[3000:])
    assert (np.diff(within, axis=1) >= 0).all()
    assert click.auc((bins[3000:] == 0).astype(float), score=within[:, 0]) > 0.85
    again = fit_boosted(x[:3000], bin_R=bins[:3000], seen_R=seen[:3000], bins=2)
    assert again is not None
    assert again.text_B == fitted.text_B
    assert fitted.active_within(x[:0]).shape == (0, 2)


def test_a_horizon_of_one_outcome_has_its_rate() -> None:
    pytest.importorskip("lightgbm")
    x, bins, seen = _references(300)
    fitted = fit_boosted(x, bin_R=np.ones_like(bins), seen_R=seen, bins=2)
    assert fitted is not None
    assert fitted.active_within(x[:3]) == pytest.approx(np.array([[0.5 / 301, 300.5 / 301]] * 3))


def test_without_lightgbm_the_report_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    x, bins, seen = _references(50)
    assert fit_boosted(x, bin_R=bins, seen_R=seen, bins=2) is None
    assert "clm-ray[boosting]" in MISSING


def test_least_squares_finds_spend_that_is_a_sum_and_never_falls_below_zero() -> None:
    rng = np.random.default_rng(6)
    money = rng.gamma(1.0, 30.0, 2000)
    x = np.column_stack([rng.normal(size=(2000, 5)), np.log1p(money)])
    fitted = fit_spend(x, np.where(np.arange(2000) % 2, np.nan, 5.0 + 0.8 * money))
    assert fitted is not None
    assert fitted.expected(x) == pytest.approx(5.0 + 0.8 * money, rel=0.02, abs=0.5)
    assert (fitted.expected(x - 9.0) >= 0).all()
    assert fit_spend(x, np.full(2000, np.nan)) is None


def test_the_report_has_the_lead_every_slice_and_the_tenths_of_spend() -> None:
    found = return_report(_predictions(), bins=5)[28]
    text = "\n".join(return_sections((7, 28), leads={28: found.lead}, slices={28: found.slices}))
    assert "## Active within 28 days: model minus baseline" in text
    assert "within 7 days" not in text
    rows = [line for line in text.splitlines() if line.startswith("| stage")]
    assert len(rows) == 2 * len(found.methods)
    assert f"{found.slices[0].methods['model'].auc:.4f}" in rows[0]
    spend = np.arange(100.0)
    table = pa.table({"spend": spend, SPENDS["model"]: spend, SPENDS["rfm_spend"]: spend[::-1]})
    figures = spend_report(table)
    assert (figures["model"].gini, figures["rfm_spend"].gini) == pytest.approx((1.0, -1.0))
    (section, lines) = spend_section(figures, days=28)
    assert "28 days" in section
    assert len(lines.splitlines()) == 2 + 10
    assert spend_section({}, days=28) == []
