"""Figures from prediction tables: that they are those of the tables, and what they say when nothing is there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from clm_ray.config.evaluate import EvaluateConfig
from clm_ray.evaluate.figures import catalogue_report, click_report, plain
from clm_ray.evaluate.report import Evaluation, main_table, markdown, shortfalls
from clm_ray.evaluate.returning import return_report
from clm_ray.metrics.bootstrap import Difference

T = TypeVar("T")
CONFIG = EvaluateConfig(ks=(2, 3), cold_user_events=5, cold_item_events=10)


def _predictions(seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    occasions, shown = 60, 8
    signal = random.normal(size=occasions * shown)
    label = (signal + random.normal(size=len(signal)) > 1).astype(np.float32)
    return pa.table(
        {
            "user": np.repeat([f"u{o // 3}" for o in range(occasions)], shown),
            "occasion": np.repeat(np.arange(occasions, dtype=np.int32), shown),
            "item_row": np.tile(np.arange(1, shown + 1, dtype=np.int32), occasions),
            "label": label,
            "weight": np.ones(len(label), np.float32),
            "probability": (1 / (1 + np.exp(1.5 - signal))).astype(np.float32),
            "popularity": random.uniform(0.1, 0.3, len(label)).astype(np.float32),
            "user_events": np.repeat(np.arange(occasions, dtype=np.int32) % 10, shown),
            "item_events": np.tile(np.arange(shown, dtype=np.int32) * 3, occasions),
            "stage": np.repeat(np.where(np.arange(occasions) % 2, "new", "established"), shown),
        }
    )


def test_click_figures_are_those_of_the_table() -> None:
    table = _predictions()
    report = click_report(table, config=CONFIG, seed=0)
    label, p = table.column("label").to_numpy(), table.column("probability").to_numpy()
    assert report.methods["model"].auc == pytest.approx(roc_auc_score(label, p))
    assert report.methods["model"].observed_ctr == pytest.approx(label.mean())
    assert report.methods["model"].at_base_rate.threshold == pytest.approx(label.mean())
    assert (report.rows, report.users, report.occasions) == (480, 20, 60)
    with_positive = {o for o, y in zip(table.column("occasion").to_pylist(), label, strict=True) if y}
    assert report.ranking["model"].occasions == len(with_positive) < 60
    difference = report.comparison["popularity"]
    assert difference.auc.estimate == pytest.approx(report.methods["model"].auc - report.methods["popularity"].auc)
    assert difference.auc.low > 0
    assert difference.log_loss.estimate == pytest.approx(
        report.methods["model"].log_loss - report.methods["popularity"].log_loss
    )
    ndcg = report.ranking["model"].ndcg[2] - report.ranking["popularity"].ndcg[2]
    assert difference.ndcg.estimate == pytest.approx(ndcg)


def test_the_order_of_rows_does_not_matter() -> None:
    table = _predictions()
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))
    first, again = (plain(click_report(t, config=CONFIG, seed=0)) for t in (table, shuffled))
    assert again["ranking"] == first["ranking"]
    assert again["methods"]["model"]["auc"] == pytest.approx(first["methods"]["model"]["auc"])


def test_a_slice_of_too_few_users_is_not_shown() -> None:
    table = _predictions()
    lonely = table.column("user").to_pylist()[0]
    stage = pa.array(["churned" if user == lonely else "new" for user in table.column("user").to_pylist()])
    table = table.set_column(table.column_names.index("stage"), "stage", stage)
    names = [{s.name for s in click_report(table, config=CONFIG, seed=0, min_group=n).slices} for n in (1, 2, 21)]
    assert names[0] - names[1] == {"stage churned"}
    assert "stage new" in names[1]
    assert "stage new" not in names[2]


def test_slices_cover_each_row_once_per_kind() -> None:
    report = click_report(_predictions(), config=CONFIG, seed=0)
    rows = {one.name: one.rows for one in report.slices}
    assert rows["users with < 5 earlier events"] + rows["other users"] == 480
    assert rows["items with < 10 training events"] == 240
    assert rows["stage new"] + rows["stage established"] == 480
    assert "stage churned" not in rows


def _lists() -> pa.Table:
    return pa.table(
        {
            "method": ["model"] * 7,
            "occasion": pa.array([0, 0, 0, 0, 1, 1, 1], pa.int32()),
            "rank": pa.array([2, 1, 3, 0, 1, 2, 3], pa.int32()),
            "item_row": pa.array([2, 1, 3, 4, 1, 2, 4], pa.int32()),
            "taken": [True, False, False, True, False, False, True],
        }
    )


def test_catalogue_figures_count_missed_items() -> None:
    vectors = np.eye(6, dtype=np.float32)
    figures = catalogue_report(_lists(), ks=(2, 3), vectors=vectors, categories=[[]] + [["a"]] * 5)["model"]
    assert figures.occasions == 2
    assert figures.recall[2] == pytest.approx((0.5 + 0) / 2)
    assert figures.recall[3] == pytest.approx((0.5 + 1) / 2)
    assert figures.mrr == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert figures.coverage[2] == pytest.approx(2 / 5)
    assert figures.coverage[3] == pytest.approx(4 / 5)
    assert figures.vector_diversity[2] == pytest.approx(1.0)
    assert figures.category_diversity[2] == pytest.approx(0.0)


def _retention() -> pa.Table:
    return pa.table(
        {
            "user": ["a", "b", "a", "c", "c"],
            "stage": ["new", "new", "at_risk", "new", "new"],
            "horizon_days": pa.array([7, 7, 7, 7, 28], pa.int32()),
            "outcome": pa.array([1, 0, 1, 1, 1], pa.float32()),
            "censored": [False, False, False, True, True],
            "probability": pa.array([0.9, 0.2, 0.8, 0.0, 0.5], pa.float32()),
            "recency": pa.array([0.1, 0.2, 0.1, 0.0, 0.5], pa.float32()),
        }
    )


def test_retention_figures_leave_out_what_the_log_does_not_cover() -> None:
    found = {days: one.methods for days, one in return_report(_retention(), bins=2).items()}
    assert set(found) == {7}
    assert found[7]["model"].rows == 3
    assert found[7]["model"].auc == 1.0
    assert found[7]["model"].observed == pytest.approx(2 / 3)
    assert found[7]["recency"].auc == 0.0


def _evaluation(**changes: object) -> Evaluation:
    report = click_report(_predictions(), config=CONFIG, seed=0)
    known: dict = {
        "run": "r",
        "recipe": "made",
        "dataset": "d",
        "split": "test",
        "clicks": report,
        "catalogue": {},
        "retention": {},
        "report_days": (7,),
        "ratings": {},
        "spend": {},
        "ks": (2, 3),
        "notes": ("a note",),
    }
    return Evaluation(**(known | changes))


def test_the_table_sets_the_model_beside_each_baseline_and_marks_the_best() -> None:
    found = _evaluation()
    lines = main_table(found).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["metric", "model", "popularity"]
    auc = next(line for line in lines if "click: AUC" in line)
    assert f"**{found.clicks.methods['model'].auc:.4f}**" in auc
    assert f" {found.clicks.methods['popularity'].auc:.4f} " in auc
    loss = next(line for line in lines if "click: log loss" in line)
    assert f"**{found.clicks.methods['model'].log_loss:.4f}**" in loss
    assert len({len(line) for line in lines}) == 1


def test_baselines_that_are_ahead_are_named() -> None:
    """In click AUC and log loss, NDCG of both rankings, AUC of every horizon."""
    clicks = _evaluation().clicks
    assert clicks is not None
    (ranking,) = set(clicks.ranking) - {"model"}
    good, bad = clicks.ranking["model"], clicks.ranking[ranking]
    retention = return_report(_retention(), bins=2)[7].methods
    ahead = _evaluation(catalogue={"model": good, ranking: bad}, retention={7: retention})
    assert shortfalls(ahead) == []
    assert "ahead" not in markdown(ahead)
    behind = _evaluation(
        clicks=replace(clicks, methods=_swapped(clicks.methods), ranking=_swapped(clicks.ranking)),
        catalogue={"model": bad, ranking: good},
        retention={7: _swapped(retention)},
    )
    better, worse = (f"{clicks.methods[name].auc:.4f}" for name in ("model", ranking))
    said = shortfalls(behind)
    assert said[0] == f"click: AUC: popularity reaches {better}, the model {worse}."
    titles = ["click: AUC", "click: log loss", "shown: NDCG@2", "catalogue: NDCG@2", "active in 7 d: AUC"]
    assert [line.rpartition(": ")[0] for line in said] == titles
    assert "## Where a baseline is ahead" in markdown(behind)


def _swapped(methods: Mapping[str, T]) -> dict[str, T]:
    one, other = methods
    return {one: methods[other], other: methods[one]}


def test_undefined_figures_are_dashes_in_text_and_null_in_json() -> None:
    nan = math.nan
    value = plain({"d": Difference(nan, nan, nan, nan, 3), "k": {10: np.float64(0.5)}})
    assert value == {
        "d": {"estimate": None, "low": None, "high": None, "standard_error": None, "users": 3},
        "k": {"10": 0.5},
    }
    text = json.dumps(plain(_evaluation()), allow_nan=False)
    assert "NaN" not in text


def test_a_report_without_clicks_or_retention_says_what_it_has() -> None:
    text = markdown(_evaluation(clicks=None))
    assert "a note" in text
    assert "Slices" not in text
