"""Test figures of the further heads: ratings and spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import made_world
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from clm_ray.config.source import EventTypeConfig
from clm_ray.config.workspace import Workspace
from clm_ray.evaluate.baselines import Baselines
from clm_ray.evaluate.dataset import Case, Occasions, References
from clm_ray.evaluate.outputs import RATINGS, SPENDS, number_report, rating_columns
from clm_ray.evaluate.report import main_table, shortfalls
from clm_ray.evaluate.run import Evaluation
from clm_ray.evaluate.scoring import BucketScorer, ScoringPlan
from clm_ray.evaluate.spending import spend_report
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSource
from clm_ray.features.statistics import ItemStatistics
from clm_ray.model.inference import UserState
from clm_ray.schema import DAY_US

VOCABULARY = EventVocabulary(
    {"rating": EventTypeConfig(roles=["context", "activity"], value="rating", positive_from=4)}
)


def _source() -> FeatureSource:
    item, day = np.array([1, 2], np.int32), np.array([0, 0], np.int32)
    statistics = ItemStatistics.from_daily(
        item, day, np.full(2, 10.0), np.full(2, 5.0), np.array([40.0, 20.0]), np.full(2, 10.0), np.array([40.0, 20.0])
    )
    return FeatureSource(
        made_world.recipe(), VOCABULARY, Catalogue.build(["", "a", "b"], ["", "a", "b"], [[], [], []]), statistics
    )


def _case(values: Sequence[float]) -> Case:
    """Three ratings on the days 1, 2 and 3, of the items 1, 2, 1; asked on day 2 for both items, and on day 3 for item 1."""
    time = np.array([1, 2, 3]) * DAY_US
    history = History(np.array([1, 2, 1], np.int32), np.zeros(3, np.int16), np.array(values, np.float32), time)
    three = np.ones(3, np.float32)
    asked = Occasions(time[1:], np.array([0, 2, 3]), np.array([2, 1, 1], np.int32), three, three, 0 * three)
    return Case("u", history, asked, Occasions.none(), References.none())


def test_a_rating_is_that_of_its_moment_and_the_mean_knows_nothing_of_it() -> None:
    predicted = [np.array([3.0, 3.0], np.float32), np.array([2.0], np.float32)]
    found = rating_columns(_source(), [_case([5, 1, 2])], predicted)
    np.testing.assert_array_equal(found["rating"], [1.0, np.nan, 2.0])
    assert found[RATINGS["model"]].tolist() == [3.0, 3.0, 2.0]
    later = rating_columns(_source(), [_case([5, 4, 5])], predicted)
    assert later["mean_rating"][:2].tolist() == found["mean_rating"][:2].tolist()
    assert later["mean_rating"][2] > found["mean_rating"][2]
    assert found["mean_rating"][1] > found["mean_rating"][0], "item 1 is rated better"


@dataclass(frozen=True)
class Spending(made_world.KnowingScorer):
    """Expects the number of events so far to be spent."""

    @staticmethod
    def open(folder: Path) -> Spending:
        return Spending(made_world.recipe())

    def values(self, states: Sequence[UserState]) -> NDArray[np.float32]:
        return np.array([len(s.history) for s in states], np.float32)


def test_spend_stands_in_the_row_of_its_horizon_beside_that_of_before(
    made_workspace: Workspace, tmp_path: Path
) -> None:
    model = made_workspace.runs / "default" / "model"
    dataset = made_workspace.current("datasets")
    plan = ScoringPlan(dataset, model, tmp_path, made_world.recipe().evaluate, Baselines({}, None, {}), Spending.open)
    scorer = BucketScorer(plan)
    cases = [
        replace(case, references=replace(case.references, value_R=np.arange(len(case.references.time_R), dtype=float)))
        for case in scorer.dataset.test_cases(0)
    ]
    rows = scorer._retention(cases).to_pandas()
    longest = max(made_world.recipe().retention.report_days)
    assert rows.loc[rows["horizon_days"] != longest, ["spend", "predicted_spend", "past_spend"]].isna().all(axis=None)
    mine = rows[rows["horizon_days"] == longest].set_index(["user", "timestamp"])
    for case in cases:
        amount = np.nan_to_num(case.history.value_N)
        for time, value in zip(case.references.time_R, case.references.value_R, strict=True):
            row = _of(mine, case.user_id, int(time))
            before = case.history.time_N < time
            assert row["spend"] == value
            assert row["predicted_spend"] == before.sum()
            recent = before & (case.history.time_N >= time - longest * DAY_US)
            assert row["past_spend"] == pytest.approx(amount[recent].sum(), rel=1e-5)


def _of(table, user: str, time: int):
    found = table[[(u, t.value // 1000) == (user, time) for u, t in table.index]]
    assert len(found) == 1
    return found.iloc[0]


def test_figures_are_those_of_the_rows_whose_truth_is_known() -> None:
    rng = np.random.default_rng(0)
    actual, predicted, other = rng.gamma(2, 5, (3, 200))
    table = pa.table(
        {
            "spend": np.r_[actual, np.nan],
            SPENDS["model"]: np.r_[predicted, 1e9],
            SPENDS["past_spend"]: np.r_[other, 1e9],
        }
    )
    found = number_report(table, actual="spend", methods=SPENDS)
    mine = found["model"]
    assert mine.rows == 200
    assert mine.rmse == pytest.approx(root_mean_squared_error(actual, predicted))
    assert mine.mae == pytest.approx(mean_absolute_error(actual, predicted))
    assert mine.ratio == pytest.approx(predicted.sum() / actual.sum())
    assert mine.rank == pytest.approx(spearmanr(actual, predicted).statistic)
    assert number_report(table, actual="rating", methods=RATINGS) == {}
    assert number_report(None, actual="spend", methods=SPENDS) == {}


def test_the_report_names_the_heads_and_where_the_past_is_the_better_guess() -> None:
    actual = np.arange(10.0)
    table = pa.table({"spend": actual, SPENDS["model"]: actual[::-1], SPENDS["past_spend"]: actual + 1})
    found = Evaluation(
        run="r",
        recipe="made",
        dataset="d",
        split="test",
        clicks=None,
        catalogue={},
        retention={},
        report_days=(7, 28),
        ratings={},
        spend=spend_report(table),
        ks=(10,),
        notes=(),
    )
    text = main_table(found)
    assert "spend in 28 d: RMSE" in text
    assert "rating" not in text
    assert shortfalls(found) == ["spend in 28 d: RMSE: spend in as many days before reaches 1.0000, the model 5.7446."]
