"""What the benchmarks say of predictions: known figures, the right rows, the right sign."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.compare import PEERS, against_peers, click_figures, differences
from benchmarks.configurations import ABLATIONS, DATA_SHARES, JOURNEY, MOVIELENS, WHOLE
from clm_ray.config.recipe import load_recipe
from clm_ray.metrics.click import auc


def _predictions(rows: int = 600) -> pa.Table:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.05, 0.95, rows)
    return pa.table(
        {
            "user": [f"u{n % 40}" for n in range(rows)],
            "label": (rng.random(rows) < chance).astype(np.float32),
            "weight": np.ones(rows, np.float32),
            "probability": chance.astype(np.float32),
            "item_events": (np.arange(rows) % 20).astype(np.int32),
            "user_events": (np.arange(rows) % 15).astype(np.int32),
        }
    )


def test_cold_rows_are_those_with_few_events() -> None:
    table = _predictions()
    found = click_figures(table)
    label, score = table.column("label").to_numpy(), table.column("probability").to_numpy()
    cold = table.column("item_events").to_numpy() < 10
    assert found["cold_items_auc"] == pytest.approx(auc(label[cold], score=score[cold]))
    cold = table.column("user_events").to_numpy() < 5
    assert found["cold_users_auc"] == pytest.approx(auc(label[cold], score=score[cold]))
    assert found["auc"] == pytest.approx(auc(label, score=score))


def test_what_is_better_has_more_auc_and_less_log_loss() -> None:
    table = _predictions()
    good = table.column("probability").to_numpy().astype(np.float64)
    found = differences(table, good, np.full(len(good), 0.5))
    assert found["auc"]["low"] > 0
    assert found["log_loss"]["high"] < 0
    worse = differences(table, np.full(len(good), 0.5), good)
    assert worse["auc"]["estimate"] == pytest.approx(-found["auc"]["estimate"])


def test_the_best_peer_of_each_figure_is_met() -> None:
    sd = 0.001
    figures = {"auc": 0.81, "log_loss": 0.53, "gauc": 0.7, "ece": 0.01, "cold_items_auc": 0.8}
    found = against_peers("ml100k.per_user", figures | {f"{name}_sd": sd for name in figures})
    assert found["deep"]["auc"]["best"] == "FinalNet"
    assert found["deep"]["auc"]["deviations"] == pytest.approx((0.81 - 0.7997) / sd)
    assert found["deep"]["log_loss"]["best"] == "DIN"
    assert found["deep"]["log_loss"]["ahead"] == pytest.approx(0.5456 - 0.53)
    assert found["trees"]["auc"]["best"] == "LightGBM kfold"
    assert found["trees"]["auc"]["ahead"] < 0


def test_peers_predictions_are_of_the_rows_they_are_compared_on() -> None:
    with np.load(PEERS / "lightgbm_test_predictions.npz") as found:
        assert {key: len(found[key]) for key in found if key.endswith("stream")} == {
            "ml100k_user.stream": 9596,
            "ml100k_global.stream": 10000,
        }
    with (PEERS / "ml100k.csv").open(encoding="utf-8") as file:
        assert {row["rows"] for row in csv.DictReader(file)} == set(MOVIELENS)


@pytest.mark.parametrize("name", [*WHOLE, *ABLATIONS, *DATA_SHARES])
def test_every_configuration_is_a_recipe_of_its_own(name: str) -> None:
    overrides = {**WHOLE, **ABLATIONS, **DATA_SHARES}[name]
    changed = load_recipe("movielens_100k", overrides=list(overrides))
    same = changed.training_digest() == load_recipe("movielens_100k").training_digest()
    assert same == (name == "100 % of the users, text trained")


@pytest.mark.parametrize("name", JOURNEY)
def test_every_configuration_of_purchases_is_a_recipe(name: str) -> None:
    assert load_recipe("complete_journey", overrides=list(JOURNEY[name])).train.metric
