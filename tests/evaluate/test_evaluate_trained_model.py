"""Evaluation of a model that was really trained: its figures can be recomputed, and it has learned the shop."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from shop_loop import Shop
from sklearn.metrics import log_loss, roc_auc_score

from clm_ray.data.buckets import bucket_of, part
from clm_ray.evaluate.dataset import Dataset
from clm_ray.evaluate.returning import RETENTION_BASELINES
from clm_ray.model.inference import Scorer, UserRequest

pytestmark = pytest.mark.ray


def test_the_trained_model_has_learned_the_shop(trained_shop: Shop) -> None:
    folder = trained_shop.workspace.evaluations / trained_shop.run_folder.name
    figures = json.loads((folder / "metrics.json").read_text())
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    methods = figures["clicks"]["methods"]
    assert methods["model"]["auc"] == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))
    assert methods["model"]["log_loss"] == pytest.approx(
        log_loss(rows["label"], rows["probability"].astype(float)), rel=1e-5
    )
    assert methods["model"]["auc"] > 0.7 > methods["popularity"]["auc"]
    stays = figures["retention"]["7"]
    assert stays["model"]["auc"] > 0.8
    assert {"model", *RETENTION_BASELINES} <= stays.keys()
    assert (folder / "learning_curve.png").stat().st_size > 1000


def test_a_prediction_is_the_scorers_answer_to_the_users_history(trained_shop: Shop) -> None:
    folder = trained_shop.workspace.evaluations / trained_shop.run_folder.name
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    dataset = Dataset.open(trained_shop.workspace.current("datasets"))
    scorer = Scorer.open(trained_shop.run_folder / "model")
    for (user, time), group in list(rows.groupby(["user", "timestamp"], observed=True))[::10]:
        (bucket,) = bucket_of([user], dataset.recipe.sequences.buckets).tolist()
        assert (dataset.folder / "events" / part(bucket)).is_file()
        history = dataset.histories(bucket)[user]
        states = scorer.states([UserRequest(user, history, time.value // 1000)])
        (found,) = scorer.click(states, [scorer.items.rows(group["item"].tolist())])
        assert found.tolist() == pytest.approx(group["probability"].tolist(), abs=1e-5)
